"""Configuration of [`AuroraSFTTrainer`]."""

from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from ..prompts import TEACHER_TARGETS
from .mask_config import MaskTrainingArguments
from .options import check_options, check_values

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
        check_values(self)
        check_options(self, "sft")
        super().__post_init__()
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
        if self.box_frames < 1:
            raise ValueError(f"`box_frames` must be at least 1, got {self.box_frames}")
        if self.targets not in TARGETS:
            raise ValueError(f"`targets` must be one of {', '.join(TARGETS)}, got {self.targets!r}")
        if self.teacher_targets not in TEACHER_TARGETS:
            raise ValueError(
                f"`teacher_targets` must be one of {', '.join(TEACHER_TARGETS)}, got {self.teacher_targets!r}"
            )
