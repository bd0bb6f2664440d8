"""The settings that every phase shares: mask losses, frozen parts, media."""

from dataclasses import dataclass, field
from pathlib import Path

from ..models.mask_decoders.base import FRAMES_AT_ONCE
from .arguments import FREEZE_FLAGS

# Those that can show samples.
TRACKERS = ("trackio", "wandb", "tensorboard")


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
            batch (see `group_by_clip`). The results are those of reading it each time.
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

    log_samples: int = field(
        default=0, metadata={"help": "Rows of the evaluation split to show in the trackers at each evaluation."}
    )

    def check_mask_arguments(self) -> None:
        """Raise `ValueError` for a value out of range; the configs' `__post_init__` calls it."""
        self._check_log_samples()
        for name in ("mask_bce_loss_weight", "mask_dice_loss_weight", "media_cache_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
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

    def trainable_groups(self) -> set[str]:
        """The groups of `AuroraModel.trainable_modules()` that are not frozen."""
        return {group for group in FREEZE_FLAGS if not getattr(self, f"freeze_{group}")}

    @property
    def uses_mask_losses(self) -> bool:
        """Whether masks take part in the loss."""
        return self.mask_bce_loss_weight > 0 or self.mask_dice_loss_weight > 0
