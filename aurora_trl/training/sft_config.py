"""Configuration of [`AuroraSFTTrainer`]."""

import math
from dataclasses import dataclass, field
from typing import Any

from peft.utils.other import ModulesToSaveWrapper
from trl import SFTConfig

from ..models.configuration_aurora import SEG_SOURCES, require_seg_source
from ..prompts import TEACHER_TARGETS
from .mask_config import MaskTrainingArguments
from .option_values import check_building, check_values
from .options import check_options, say_idle

TARGETS = ("row", *TEACHER_TARGETS)


@dataclass
class AuroraSFTConfig(MaskTrainingArguments, SFTConfig):
    r"""
    Configuration of the teacher, chain-of-thought and reflective phases: TRL's [`~trl.SFTConfig`] with the losses of
    AURORA (equations 6 and 7). The paper's plain sum is the default.

    Args:
        ce_loss_weight (`float`, *optional*, defaults to 1.0): weight of the text's cross-entropy.
        distillation_loss_weight (`float`, *optional*, defaults to 1.0): weight of the distance between the student's
            and the teacher's `[SEG]` features (equation 2); without effect where there is no teacher.
        teacher_model_name_or_path (`str`, *optional*): checkpoint of the segmentation-only teacher.
        use_teacher_mask_decoder (`bool`, *optional*, defaults to `True`): take the teacher's mask decoder (section
            3.1); freeze it with `freeze_mask_decoder`.
        group_by_clip (`bool`, *optional*, defaults to `False`): draw clips at random and keep the references about one
            clip next to each other, so that a batch pays for its media once.
        targets (`str`, *optional*, defaults to `"row"`): `"row"` learns each row's `target`; `"answer"` learns
            `It is [SEG].` alone, as the paper's teacher does; `"class"` learns the class sentence and `It is [SEG].`,
            as the authors' code has it.
        box_frames (`int`, *optional*, defaults to 1): with `mask_source: box`, for how many frames of a clip an answer
            gives the place of each object. They are evenly chosen among those that it is in.
        seg_source (`str`, *optional*): `"queries"` for learned embeddings that are read behind an answer, in place of
            a `[SEG]` that the model writes, see [`AuroraConfig`]. The phase adds them to the model, trains them with
            the projector, and learns its rows without `It is [SEG].`; the checkpoint keeps them. By default it is what
            the checkpoint says, and `"token"` in the paper's main table.
        num_queries (`int`, *optional*): how many of them, 4 by default; with `seg_source: queries` alone.
        teacher_targets (`str`, *optional*, defaults to `"answer"`): which of the two the teacher was trained on.
    """

    ce_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the text's cross-entropy."})
    distillation_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the [SEG] feature distillation."}
    )
    teacher_model_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint of the teacher."})
    use_teacher_mask_decoder: bool = field(default=True, metadata={"help": "Take over the teacher's mask decoder."})
    group_by_clip: bool = field(default=False, metadata={"help": "Put references about one clip into one batch."})
    targets: str = field(default="row", metadata={"help": "What to learn.", "choices": list(TARGETS)})

    box_frames: int = field(default=1, metadata={"help": "Frames of a clip for which an answer gives boxes."})
    seg_source: str | None = field(
        default=None,
        metadata={
            "help": "What holds the states that prompt; as the checkpoint says by default.",
            "choices": list(SEG_SOURCES),
        },
    )
    num_queries: int | None = field(default=None, metadata={"help": "Learned embeddings behind an answer, 4."})
    teacher_targets: str = field(
        default="answer", metadata={"help": "What the teacher was trained on.", "choices": list(TEACHER_TARGETS)}
    )

    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Media columns must reach the collator."}
    )
    dataset_kwargs: dict[str, Any] | None = field(
        default_factory=lambda: {"skip_prepare_dataset": True},
        metadata={"help": "Rows are tokenised by the collator, with their media."},
    )

    def __post_init__(self) -> None:
        check_values(self, "sft")
        check_options(self, "sft")
        super().__post_init__()
        check_building(self)
        self.check_mask_arguments()
        for name in ("label_smoothing_factor", "neftune_noise_alpha"):
            if self.group_by_clip and self.shared_prefix and getattr(self, name):
                raise ValueError(
                    f"`{name}` looks at whole rows, and `group_by_clip` reads what they share once: set "
                    "`shared_prefix: false`"
                )
        if self.group_by_clip and self.train_sampling_strategy == "sequential":
            raise ValueError("`group_by_clip` orders the rows itself: leave `train_sampling_strategy` out")
        for name in ("ce_loss_weight", "distillation_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
            if math.isinf(getattr(self, name)):
                raise ValueError(f"`{name}` must be finite, got {getattr(self, name)}")
        if self.box_frames < 1:
            raise ValueError(f"`box_frames` must be at least 1, got {self.box_frames}")
        self._check_seg_source()
        if self.targets not in TARGETS:
            raise ValueError(f"`targets` must be one of {', '.join(TARGETS)}, got {self.targets!r}")
        if self.teacher_targets not in TEACHER_TARGETS:
            raise ValueError(
                f"`teacher_targets` must be one of {', '.join(TEACHER_TARGETS)}, got {self.teacher_targets!r}"
            )

    @property
    def reads_prefix_once(self) -> bool:
        """`shared_prefix`, unless something looks at whole rows: at all their labels, or at how long they are."""
        return self.shared_prefix and not self.label_smoothing_factor and not self.neftune_noise_alpha

    def _check_seg_source(self) -> None:
        """Raise `ValueError` for no value of `seg_source` or `num_queries`, or another setting that needs `[SEG]`."""
        if self.seg_source is not None or self.num_queries is not None:
            require_seg_source(self.seg_source or "queries", 1 if self.num_queries is None else self.num_queries)
        if self.num_queries is not None and self.seg_source != "queries":
            raise ValueError(
                "`num_queries` says how many queries there are: set `seg_source: queries`, or leave it out"
            )
        if self.seg_source == "queries":
            self._require_queries_settings()

    def _require_queries_settings(self, teacher: Any = None) -> None:
        if teacher is not None or self.teacher_model_name_or_path is not None:
            raise ValueError(
                "`seg_source: queries` has no feature at [SEG], which is what a teacher gives: leave the teacher out"
            )
        if self.alignment_loss_weight > 0:
            raise ValueError(
                "`alignment_loss_weight` compares features at [SEG], and `seg_source: queries` has several without an "
                "order: leave one of them out"
            )

    def choose_mask_source(self, model: Any, processor: Any, teacher: Any = None, rows: Any = None) -> Any:
        """As for every phase; what is read at `[SEG]` may change in supervised ones alone."""
        processor = super().choose_mask_source(model, processor, teacher, rows)
        in_adapter = any(isinstance(module, ModulesToSaveWrapper) for module in model.mask_decoder.modules())
        if teacher is not None and self.use_teacher_mask_decoder and in_adapter:
            raise ValueError(
                "the model's adapter has a mask decoder of its own, which the teacher's would replace: set "
                "`use_teacher_mask_decoder: false`"
            )
        added = model.set_seg_source(self.seg_source, self.num_queries)
        if model.seg_queries is not None:
            self._require_queries_settings(teacher)
        if teacher is None and self.teacher_targets != "answer":
            say_idle("teacher_targets", self.teacher_targets, "there is no teacher")
        if processor.mask_source == "seg" and self.box_frames != 1:
            say_idle("box_frames", self.box_frames, "`mask_source` is `seg`")
        if teacher is not None and teacher.seg_queries is not None:
            raise ValueError(
                "a teacher with `seg_source: queries` has no feature at [SEG]: take one that writes [SEG]"
            )
        if added and self.freeze_seg_projector and self.uses_mask_losses:
            raise ValueError(
                "`seg_source: queries` adds what is trained with the projector: leave `freeze_seg_projector` off, or "
                "the mask losses until a later phase"
            )
        return processor.with_seg_source(model.config.seg_source, model.config.num_queries)
