"""Features of frozen models are kept on disk between epochs, runs and phases, where the config names a folder."""

from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from ...generation.clip_loader import ClipLoader
from ...generation.feature_store import MaskFeatures
from ...models.modeling_aurora import AuroraModel
from ..lora import unwrap_aurora
from ..trainer_inputs import listed
from .maker import FeatureMaker, KeptFeatures

logger = get_logger(__name__)


class FeatureCaching(Trainer):
    """
    Stands before TRL's class among a trainer's bases.

    All features are there before the first step, so that no process ever has one that another lacks: with weights that
    ZeRO-3 splits they would wait for each other. The mask encoder is then never run in training, nor is the teacher.
    """

    loader: ClipLoader
    teacher: AuroraModel | None = None
    _teacher_shares_prefix = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._kept = KeptFeatures()
        self._maker: FeatureMaker | None = None
        super().__init__(*args, **kwargs)
        folder = self.args.feature_cache
        if folder is None:
            return
        if not self._needs_mask_features:
            why = "no step needs masks" if self.args.freeze_mask_encoder else "`freeze_mask_encoder: false` trains it"
            logger.warning(f"`feature_cache` {folder} is not used for the mask encoder: {why}")
        if not self._needs_mask_features and self.teacher is None:
            return
        self._maker = FeatureMaker(
            folder,
            self.accelerator,
            self.processing_class,
            model=unwrap_aurora(self.model) if self._needs_mask_features else None,
            teacher=self.teacher,
            teacher_targets=getattr(self.args, "teacher_targets", "answer"),
            share_prefix=self._teacher_shares_prefix,
            num_workers=self.args.dataloader_num_workers,
        )

    @property
    def _needs_mask_features(self) -> bool:
        """Whether steps run a mask encoder that does not change."""
        return self.args.freeze_mask_encoder

    def keep_features(self, *datasets: Dataset) -> None:
        """
        Make the features of rows that are not in `feature_cache` yet. `train` does this for its datasets and
        `evaluate` for its own; all processes call it.

        Args:
            *datasets (`Dataset`): rows with the columns of `aurora_trl.data.schema`.

        Raises:
            `DataError`: see [`~aurora_trl.training.features.maker.FeatureMaker`].
        """
        if self._maker is None:
            return
        if self._maker.model is not None and not self._kept.mask_keys:
            self.loader.use_mask_features(MaskFeatures(self._maker.store, self._kept.mask_keys))
        clips = self._maker.new_clips(datasets, self._kept)
        if not clips:
            return
        if is_deepspeed_zero3_enabled() and self.model_wrapped is not self.model:
            raise ValueError(
                f"{self._maker.store.folder}: under ZeRO-3 features are made before training; give the trainer the "
                "rows as `eval_dataset`"
            )
        self._maker.add_features(clips, self._kept)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Features first; then nothing needs the teacher any more."""
        if not is_deepspeed_zero3_enabled():  # the encoder, or a file, may have changed since a training before
            self._kept.mask_keys.clear()
        self.keep_features(*listed(self.train_dataset), *listed(self.eval_dataset))
        if self._maker is not None and self._maker.teacher is not None:
            if not is_deepspeed_zero3_enabled():
                self._maker.teacher.to("cpu")  # whoever else holds it
            self._maker.teacher = self.teacher = None
        return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Features first, where rows come that training has not seen."""
        named = eval_dataset is None or isinstance(eval_dataset, str)
        self.keep_features(*listed(self.eval_dataset if named else eval_dataset))
        return super().evaluate(eval_dataset, *args, **kwargs)
