"""The settings that every phase shares: mask losses, frozen parts, media."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.hints import has_hints
from ..models.configuration_aurora import MASK_SOURCES
from ..models.mask_decoders.base import FRAMES_AT_ONCE
from .arguments import FREEZE_FLAGS
from .options import say_idle

# Those that can show samples.
TRACKERS = ("trackio", "wandb", "tensorboard")
_NO_TEACHER = "`mask_source: box` has no [SEG] feature, which is what a teacher gives: leave the teacher out"


@dataclass
class MaskTrainingArguments:
    """
    Mixed into the trainers' configs.

    Args:
        mask_bce_loss_weight (`float`, *optional*, defaults to 1.0) and
        mask_dice_loss_weight (`float`, *optional*, defaults to 1.0): weights of the mask losses (equations 6-8).
        mask_frames_per_step (`int`, *optional*): frames of each clip that a step's mask losses are about, drawn anew
            each time; all by default. The policy, and GRPO's rewards, see all frames in any case.
        mask_frames_at_once (`int`, *optional*, defaults to 10): frames of 1,024 pixels that the mask encoder and
            decoder take at a time where nothing is learnt from them, as in rollouts; of smaller ones as many more.
            Fewer need less memory, and give the same masks.
        freeze_vision_tower, freeze_audio_tower, freeze_connector, freeze_language_model, freeze_seg_projector,
        freeze_mask_encoder, freeze_mask_decoder (`bool`): parts that do not train. By default the towers, their
            connector and the mask decoder's image encoder.
        shared_prefix (`bool`, *optional*, defaults to `True`): read once what rows begin with in common, where the
            policy supports it: a prompt for all its completions in GRPO, a clip for all its references in a supervised
            batch (see `group_by_clip`). The results are those of reading it each time. With `label_smoothing_factor`
            or `neftune_noise_alpha`, which look at whole rows, a supervised batch reads it each time.
        media_cache_clips (`int`, *optional*, defaults to 0): clips kept in memory by each loading process.
        feature_cache (`str`, *optional*): a folder, the same for all processes, in which what frozen models make of
            clips is kept between epochs, runs and phases: the mask encoder's image features, and in SFT the teacher's
            `[SEG]` features. What it lacks is made before training; then neither model is run, and the teacher takes
            no memory on the device. Files are named after the weights and the media that they were made from: changed
            ones are made anew, and any number of runs may share a folder. By default nothing is kept.
        max_objects (`int`, *optional*): how many objects an answer may draw, each with a `[SEG]` of its own, as in `It
            is [SEG] and [SEG].` The checkpoint keeps it; by default it is what the checkpoint says, and 1 in the
            paper.
        num_frames (`int`, *optional*): how many frames are taken of a clip, each of which gets a mask. The checkpoint
            keeps it; by default it is what the checkpoint says. A clip that has fewer is filled up with black frames.
        log_samples (`int`, *optional*, defaults to 0): how many rows of the evaluation split to show at each
            evaluation, always the same ones: what the model writes, its masks over the clip, and the rewards. They go
            to the trackers that `report_to` names, of trackio, wandb and tensorboard. In GRPO also histograms of the
            rollouts' rewards and lengths.
        seg_layers (`int`, *optional*), spatial_prompt (`bool`, *optional*) and
        existence_output (`bool`, *optional*): what strengthens `[SEG]`, see [`AuroraConfig`]. The phase adds it to the
            model and trains it with the projector, and the checkpoint keeps it; by default it is what the checkpoint
            says, and nothing in the paper.
        mask_source (`str`, *optional*): `"box"` for a policy that writes boxes and points as text, from which the
            frozen mask decoder draws: no projector, no mask loss, see [`AuroraConfig`]. A model that has prompted with
            `[SEG]` gives its projector away for it, and the checkpoint keeps it. `"both"` lets boxes before a `[SEG]`
            prompt beside it, with all its losses. By default it is what the checkpoint says, and `"seg"` in the paper.
        existence_loss_weight (`float`, *optional*, defaults to 1.0): weight of the loss of the existence output, which
            is learnt together with masks; without effect where the model has none. References that match nothing are
            rare, see `repeat_null_rows`.
        alignment_loss_weight (`float`, *optional*, defaults to 0.0): weight of the loss that pulls the `[SEG]`
            features of references to the same object of a clip together, and away from those to others. It compares
            what a process has in its batch: bring references about one clip into it, see `group_by_clip`. ALS3P has
            0.1.
        alignment_temperature (`float`, *optional*, defaults to 0.07): divides the cosines of that loss.
        mask_quality_loss_weight (`float`, *optional*, defaults to 0.0): weight of the loss that teaches the mask
            decoder's own score to tell the IoU of what it drew (Segment Anything, Kirillov et al., 2023, appendix A,
            where it is 1.0). Above 0 the score's head trains; published decoders have learnt to judge masks of clicks.
        box_loss_weight (`float`, *optional*, defaults to 1.0) and
        point_loss_weight (`float`, *optional*, defaults to 1.0): weights of the losses of rows that mark their object
            by boxes or points, see `aurora_trl/data/hints.py`; without effect where there are none. With both mask
            losses at 0 they are learnt from alone.
        allow_unmarked_rows (`bool`, *optional*, defaults to `False`): learn from rows that neither draw nor mark their
            object by their text, and by the rewards that need no mask. Otherwise they are an error.
        resume_with_changes (`bool`, *optional*, defaults to `False`): go on from a checkpoint though the recipe, the
            number of rows or of samples for each step is another than the run was begun with, as where the data have
            moved. Otherwise that is an error: what the checkpoint holds would win over some of the changes.
    """

    mask_bce_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the masks' binary cross-entropy."})
    mask_dice_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the masks' dice loss."})
    mask_frames_per_step: int | None = field(
        default=None, metadata={"help": "Frames of each clip in a step's mask losses; all by default."}
    )
    mask_frames_at_once: int = field(
        default=FRAMES_AT_ONCE, metadata={"help": "Frames of 1,024 pixels that masks are drawn in at a time."}
    )
    freeze_vision_tower: bool = field(default=True, metadata={"help": "Do not train the vision tower."})
    freeze_audio_tower: bool = field(default=True, metadata={"help": "Do not train the audio tower."})
    freeze_connector: bool = field(
        default=True, metadata={"help": "Do not train what joins towers and language model."}
    )
    freeze_language_model: bool = field(default=False, metadata={"help": "Do not train the language model."})
    freeze_seg_projector: bool = field(default=False, metadata={"help": "Do not train the projector of [SEG]."})
    freeze_mask_encoder: bool = field(
        default=True, metadata={"help": "Do not train the mask decoder's image encoder."}
    )
    freeze_mask_decoder: bool = field(default=False, metadata={"help": "Do not train the mask decoder."})
    shared_prefix: bool = field(
        default=True, metadata={"help": "Read once what rows begin with in common, where the policy supports it."}
    )
    media_cache_clips: int = field(default=0, metadata={"help": "Clips kept in memory by each loading process."})
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder to keep the features of frozen models in; none are kept by default."}
    )
    max_objects: int | None = field(
        default=None, metadata={"help": "Objects that an answer may draw; as the checkpoint says by default."}
    )
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames that are taken of a clip; as the checkpoint says by default."}
    )
    seg_layers: int | None = field(
        default=None, metadata={"help": "Layers that make up the state at [SEG]; as the checkpoint says by default."}
    )
    spatial_prompt: bool | None = field(
        default=None, metadata={"help": "Prompt each place of each frame, too; as the checkpoint says by default."}
    )
    existence_output: bool | None = field(
        default=None, metadata={"help": "Say what is not there; as the checkpoint says by default."}
    )
    mask_source: str | None = field(
        default=None,
        metadata={"help": "What asks for a mask; as the checkpoint says by default.", "choices": list(MASK_SOURCES)},
    )
    existence_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the existence output's loss."})
    alignment_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the alignment of [SEG] features about one object."}
    )
    alignment_temperature: float = field(default=0.07, metadata={"help": "Divides the cosines of the alignment."})
    mask_quality_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the loss of the mask decoder's score of its masks."}
    )
    box_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the loss of rows with boxes."})
    point_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the loss of rows with points."})
    allow_unmarked_rows: bool = field(
        default=False, metadata={"help": "Learn from rows without a mask, a box or a point, too."}
    )

    resume_with_changes: bool = field(
        default=False, metadata={"help": "Go on from a checkpoint of a run with other settings or data."}
    )
    log_samples: int = field(
        default=0, metadata={"help": "Rows of the evaluation split to show in the trackers at each evaluation."}
    )

    # Whether the losses of boxes and points alone ask for masks: in rows without such they cost nothing.
    _learns_hints = False

    def check_mask_arguments(self) -> None:
        """Raise `ValueError` for a value out of range; the configs' `__post_init__` calls it."""
        self._check_log_samples()
        losses = ("mask_bce", "mask_dice", "mask_quality", "existence", "alignment", "box", "point")
        for name in (*(f"{loss}_loss_weight" for loss in losses), "media_cache_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
            if math.isinf(getattr(self, name)):
                raise ValueError(f"`{name}` must be finite, got {getattr(self, name)}")
        folder = self.feature_cache
        if folder is not None and (not folder or (Path(folder).exists() and not Path(folder).is_dir())):
            raise ValueError(f"`feature_cache` must name a folder, got {folder!r}")
        if self.mask_frames_per_step is not None and self.mask_frames_per_step < 1:
            raise ValueError(f"`mask_frames_per_step` must be at least 1, got {self.mask_frames_per_step}")
        if self.mask_frames_at_once < 1:
            raise ValueError(f"`mask_frames_at_once` must be at least 1, got {self.mask_frames_at_once}")
        if self.max_objects is not None and self.max_objects < 1:
            raise ValueError(f"`max_objects` must be at least 1, got {self.max_objects}")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {self.num_frames}")
        if self.seg_layers is not None and self.seg_layers < 1:
            raise ValueError(f"`seg_layers` must be at least 1, got {self.seg_layers}")
        if self.mask_source not in (None, *MASK_SOURCES):
            raise ValueError(f"`mask_source` must be one of {', '.join(MASK_SOURCES)}, got {self.mask_source!r}")
        if self.mask_source == "box":
            self.require_box_settings()
        if self.alignment_temperature <= 0:
            raise ValueError(f"`alignment_temperature` must be above 0, got {self.alignment_temperature}")
        if self.alignment_loss_weight == 0 and self.alignment_temperature != type(self).alignment_temperature:
            say_idle("alignment_temperature", self.alignment_temperature, "`alignment_loss_weight` is 0")
        if self.alignment_loss_weight > 0 and getattr(self, "per_device_train_batch_size", None) == 1:
            raise ValueError(
                "`alignment_loss_weight` compares the references of a batch, and `per_device_train_batch_size` is 1: "
                "raise it, and lower `gradient_accumulation_steps`"
            )

    def _check_log_samples(self) -> None:
        if self.log_samples < 0:
            raise ValueError(f"`log_samples` must not be negative, got {self.log_samples}")
        if not self.log_samples:
            return
        named = set(getattr(self, "report_to", None) or ())
        if not named & set(TRACKERS):
            raise ValueError(f"`log_samples` needs a tracker: set `report_to` to one of {', '.join(TRACKERS)}")
        if str(getattr(getattr(self, "eval_strategy", "no"), "value", "no")) == "no":
            raise ValueError("`log_samples` shows rows at each evaluation: set `eval_strategy` and `eval_split`")

    def require_box_settings(self) -> None:
        """Raise `ValueError` for a setting that needs masks with gradients, which boxes in a text do not give."""
        for name in (
            "mask_bce_loss_weight",
            "mask_dice_loss_weight",
            "mask_quality_loss_weight",
            "alignment_loss_weight",
        ):
            if getattr(self, name) > 0:
                raise ValueError(f"`mask_source: box` has no gradient from masks: set `{name}: 0.0`")
        for name in ("freeze_mask_encoder", "freeze_mask_decoder"):
            if not getattr(self, name):
                raise ValueError(f"`mask_source: box` draws with a decoder that nothing teaches: set `{name}: true`")
        if getattr(self, "teacher_model_name_or_path", None) is not None:
            raise ValueError(_NO_TEACHER)

    def choose_mask_source(self, model: Any, processor: Any, teacher: Any = None, rows: Any = None) -> Any:
        """
        Let a model take its masks from where these settings say, and see whether rows mark what it is to draw.

        Args:
            model (`AuroraModel`): to be trained.
            processor (`AuroraProcessor`): the model's.
            teacher (`AuroraModel`, *optional*): to distil from.
            rows (`Dataset` or `IterableDataset`, *optional*): to train on.

        Returns:
            `AuroraProcessor`: that goes with it.

        Raises:
            `ValueError`: where the model, or another setting, does not allow it.
        """
        source = self.mask_source or model.config.mask_source
        if source == "box":
            self.require_box_settings()
            if teacher is not None:
                raise ValueError(_NO_TEACHER)
        self._learns_hints = False
        if source != "box" and rows is not None and not self.uses_mask_losses:
            weights = {"boxes": self.box_loss_weight, "points": self.point_loss_weight}
            self._learns_hints = has_hints(rows, [name for name, weight in weights.items() if weight > 0])
        model.set_mask_source(source)
        return processor.with_mask_source(source)

    def trainable_groups(self) -> set[str]:
        """The groups of `AuroraModel.trainable_modules()` that are not frozen."""
        quality = {"mask_quality"} if self.mask_quality_loss_weight > 0 else set[str]()
        return quality | {group for group in FREEZE_FLAGS if not getattr(self, f"freeze_{group}")}

    def require_lesson(self, *, from_text: bool, from_masks: bool) -> None:
        """
        Raise `ValueError` where nothing that trains gets a gradient.

        Args:
            from_text (`bool`), from_masks (`bool`): whether the loss has a term of the text, and of masks or features.
        """
        if not from_text and not from_masks:
            raise ValueError("all weights of the loss are 0: nothing would be learnt")
        if not from_masks and not self.trainable_groups().intersection(FREEZE_FLAGS[:4]):
            raise ValueError(
                "the text alone has a loss, and all that writes it is frozen: set one of "
                f"{', '.join(f'`freeze_{name}`' for name in FREEZE_FLAGS[:4])} to false, or give a mask loss a weight"
            )

    def add_seg_parts(self, model: Any) -> None:
        """
        Give a model the parts that these settings ask for, and note that its score of masks is taught where it is.

        Args:
            model (`AuroraModel`): to be trained.

        Raises:
            `ValueError`: where it has learned without them, they would not be trained, or there is no score to teach.
        """
        if self.mask_quality_loss_weight > 0:
            if not model.mask_decoder.gives_quality:
                raise ValueError(
                    f"`mask_quality_loss_weight` teaches the mask decoder's score of its masks, and "
                    f"{type(model.mask_decoder).__name__} has none: leave it out"
                )
            model.config.quality_trained = True
        added = model.add_seg_parts(self.seg_layers, self.spatial_prompt, self.existence_output)
        if added and (self.freeze_seg_projector or not self.uses_mask_losses):
            raise ValueError(
                "`seg_layers`, `spatial_prompt` and `existence_output` add what is trained with the projector and the "
                "masks: leave `freeze_seg_projector` off and a mask loss on, or ask for them in a later phase"
            )

    @property
    def uses_mask_losses(self) -> bool:
        """Whether masks, or the features that prompt them, take part in the loss."""
        losses = ("mask_bce", "mask_dice", "mask_quality", "alignment")
        return self._learns_hints or any(getattr(self, f"{loss}_loss_weight") > 0 for loss in losses)
