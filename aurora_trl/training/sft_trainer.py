"""Supervised phases: teacher, chain of thought, reflective."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTTrainer
from trl.models import prepare_deepspeed

from ..data.schema import Row
from ..errors import DataError
from ..evaluation.iou import mask_iou
from ..generation.box_targets import BoxTargets
from ..generation.clip_loader import ClipLoader
from ..generation.collators import SFTCollator, TeacherCollator
from ..generation.group_sampler import ClipGroupSampler
from ..models.checkpoints.zero3 import copy_tensors
from ..models.mask_head import add_mask_head, capture_outputs
from ..models.modeling_aurora import AuroraModel
from ..models.objects import union_logits
from ..models.processing_aurora import AuroraProcessor
from ..models.seg_parts import empty_absent
from ..models.shared_prefix import shares_prefix
from ..prompts import SEG_TOKEN
from .data_wait import DataWaitLog
from .epoch_order import EpochOrder
from .features.cache import FeatureCaching
from .features.maker import teacher_row_key
from .fitting_teacher import require_fitting_teacher
from .lora import set_trainable, unwrap_aurora
from .losses import seg_distillation_loss
from .mask_losses import draw_mask_frames
from .mask_targets import MaskTargets
from .sample_log import add_sample_log
from .saving import AuroraCheckpoints
from .seg_losses import seg_losses
from .sft_config import AuroraSFTConfig
from .short_clips import require_taken_references, warn_of_short_clips, warn_of_unheard_sound
from .source_log import SourceLog
from .streamed_rows import require_streamable
from .target_texts import longest_answer, with_targets
from .trainer_inputs import (
    listed,
    load_model,
    load_processor,
    load_teacher,
    map_datasets,
    refuse,
    require_marked,
    require_rows,
)

_TOKENS_FILE, _TEACHER_FILE = "num_tokens.json", "teacher_features_{}.safetensors"


class AuroraSFTTrainer(AuroraCheckpoints, DataWaitLog, SourceLog, EpochOrder, FeatureCaching, SFTTrainer):
    r"""
    TRL's [`~trl.SFTTrainer`] with masks and feature distillation (AURORA, sections 3.1, 3.2 and 6.3).

    The loss is `ce + bce + dice + distillation`, each with its weight. One forward gives the log-probabilities and the
    masks. With the mask and distillation weights at 0 it is TRL's loss, to the bit.

    Args:
        model (`str`, `AuroraModel` or `PeftModel`): the student, or where it is; what the config freezes is frozen
            here. Of a `PeftModel`, such as `load_adapter` returns, the adapter goes on training.
        args (`AuroraSFTConfig`, *optional*): settings.
        data_collator (`Callable`, *optional*): in place of `SFTCollator`.
        train_dataset, eval_dataset (`Dataset`): rows with the columns of `aurora_trl.data.schema`; evaluation also of
            several by name, training also of an `IterableDataset`, whose rows are checked as they come.
        processing_class (`AuroraProcessor`, *optional*): the model's own by default.
        callbacks, optimizers, optimizer_cls_and_kwargs, quantization_config, peft_config: as in TRL. An adapter's
            config is completed, see [`~aurora_trl.training.lora.complete_adapter`].
        compute_loss_func, compute_metrics, preprocess_logits_for_metrics, formatting_func: refused, with the reason.
        teacher (`str` or `AuroraModel`, *optional*): the segmentation-only teacher, for distillation, or where it is;
            by default the config's.

    Raises:
        `DataError`: where a row has no target, or one that does not hold `[SEG]`, or is about more objects than
            `max_objects`.
        `ValueError`: where there is a teacher, and no row's target has the single `[SEG]` that can be distilled.
    """

    _tag_names = ["trl", "sft", "aurora", "reasoning-segmentation"]
    _name = "AURORA-SFT"

    def __init__(
        self,
        model: str | AuroraModel | PeftModel,
        args: AuroraSFTConfig | None = None,
        data_collator: Callable[[list[Row]], dict[str, Any]] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: AuroraProcessor | None = None,
        compute_loss_func: None = None,
        compute_metrics: None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: None = None,
        quantization_config: Any | None = None,
        peft_config: Any | None = None,
        formatting_func: None = None,
        *,
        teacher: str | AuroraModel | None = None,
    ):
        refuse(
            compute_loss_func=(compute_loss_func, "the loss is that of one forward with its masks"),
            compute_metrics=(compute_metrics, "no logits of a whole vocabulary are kept; use `aurora evaluate`"),
            preprocess_logits_for_metrics=(preprocess_logits_for_metrics, "there are no logits of a whole vocabulary"),
            formatting_func=(formatting_func, "`prompts.py` makes a row's text; put what is to be learnt in `target`"),
        )
        args = AuroraSFTConfig("AURORA-SFT") if args is None else args
        require_rows(train_dataset, eval_dataset, may_stream=True)
        is_stream = isinstance(train_dataset, IterableDataset)
        if is_stream:
            require_streamable(group_by_clip=args.group_by_clip, feature_cache=args.feature_cache)
        self._use_sources(train_dataset, args, "train_sampling_strategy", "random")
        model = load_model(model, args.model_init_kwargs, quantization_config)
        teacher = load_teacher(teacher, args, model)
        processing_class = load_processor(processing_class, model).with_max_objects(args.max_objects)
        processing_class = processing_class.with_num_frames(args.num_frames)
        require_taken_references([*listed(train_dataset), *listed(eval_dataset)], processing_class)
        aurora = unwrap_aurora(model)
        processing_class = args.choose_mask_source(aurora, processing_class, teacher, train_dataset)
        boxes = None
        if processing_class.mask_source != "seg":
            boxes = BoxTargets(processing_class, args.box_frames, 8 * args.media_cache_clips)
        if not is_stream:
            warn_of_short_clips(train_dataset, processing_class.num_frames)
            warn_of_unheard_sound(train_dataset, processing_class.policy_processor)
        max_objects = processing_class.max_objects
        self._prepare_rows = partial(with_targets, targets=args.targets, max_objects=max_objects)
        train_dataset = map_datasets(train_dataset, self._prepare_rows)
        eval_dataset = map_datasets(eval_dataset, self._prepare_rows)
        if not is_stream:  # otherwise the checkpoint's limit stays
            longest = longest_answer(train_dataset, processing_class, boxes)
            processing_class = processing_class.with_answer_tokens(longest)
        args.add_seg_parts(aurora)
        self._teacher_name = None if teacher is None else teacher.name_or_path
        if teacher is not None and args.use_teacher_mask_decoder:
            _take_decoder(aurora, teacher)
            aurora.config.quality_trained = teacher.config.quality_trained or args.mask_quality_loss_weight > 0
        peft_config = set_trainable(model, peft_config, args.trainable_groups())
        aurora.mask_decoder.frames_at_once = args.mask_frames_at_once
        self.loader = ClipLoader(processing_class, args.media_cache_clips)
        self._distils = teacher is not None and args.distillation_loss_weight > 0
        reads_masks = args.uses_mask_losses or self._distils
        args.require_lesson(from_text=args.ce_loss_weight > 0, from_masks=reads_masks)
        self.loader.mask_inputs = reads_masks
        self.loader.allow_unmarked = args.allow_unmarked_rows
        datasets = (train_dataset, *listed(eval_dataset))
        if (reads_masks or boxes is not None) and not args.allow_unmarked_rows:
            for dataset in datasets:
                if not isinstance(dataset, IterableDataset):
                    require_marked(dataset)
        if teacher is not None and self._distils:
            require_fitting_teacher(teacher, processing_class, args.teacher_targets, datasets)
            if (
                max_objects > 1
                and not is_stream
                and not any(text.count(SEG_TOKEN) == 1 for text in train_dataset["target"])
            ):
                raise ValueError(
                    f"no row's target has a single {SEG_TOKEN}, and the teacher's feature is that of one: set "
                    "`distillation_loss_weight: 0.0`, or leave out the teacher"
                )
            self.teacher = teacher.requires_grad_(False).eval()
            self._teacher_shares_prefix = shares_prefix([self.teacher], args.shared_prefix)
            self._teacher_collator = TeacherCollator(self.loader, args.teacher_targets, self._teacher_shares_prefix)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator
            or SFTCollator(
                self.loader,
                keep_rows=self._distils,
                share_prefix=shares_prefix([aurora], args.reads_prefix_once),
                with_masks=reads_masks,
                relate=args.alignment_loss_weight > 0,
                boxes=boxes,
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            peft_config=peft_config,
        )
        batch = args.per_device_train_batch_size * args.world_size
        if args.dataloader_drop_last and not is_stream and len(train_dataset) < batch:
            raise ValueError(
                f"a batch takes {batch} rows of all processes, and `train_dataset` has {len(train_dataset)}: no step "
                "would be taken; lower `per_device_train_batch_size`, or leave `dataloader_drop_last` off"
            )
        add_mask_head(unwrap_aurora(self.model))
        add_sample_log(self)
        if self.teacher is not None and args.feature_cache is None:
            # Under ZeRO-3 its weights are split, and an engine has to gather them.
            deepspeed = self.is_deepspeed_enabled
            self._run_teacher = (
                prepare_deepspeed(self.teacher, self.accelerator) if deepspeed else self.teacher.to(self.args.device)
            )

    @property
    def _runs_mask_head(self) -> bool:
        """Whether a step projects states at `[SEG]` and decodes masks."""
        return self.args.uses_mask_losses or self._distils

    @property
    def _needs_mask_features(self) -> bool:
        return self._runs_mask_head and super()._needs_mask_features

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """TRL's loss, plus the mask and distillation terms of the same forward (AURORA, equations 6 and 7)."""
        rows, targets = inputs.pop("rows", None), MaskTargets.take(inputs)
        sources = self.take_sources(inputs)
        if targets is None and self._runs_mask_head:
            raise ValueError("`data_collator` gives no `masks`, which the mask losses and the teacher need: keep them")
        if targets is None or not self._runs_mask_head:
            for name in ("seg_positions", "mask_frames", "seg_boxes"):
                inputs.pop(name, None)
            with capture_outputs(model) as outputs:
                loss = self.args.ce_loss_weight * super().compute_loss(
                    model, inputs, num_items_in_batch=num_items_in_batch
                )
            self.log_losses_by_source(sources, inputs, outputs[-1])
            return (loss, {}) if return_outputs else loss
        present = targets.find_present()
        targets = self._draw_mask_frames(inputs, targets)
        with capture_outputs(model) as outputs:
            loss = self.args.ce_loss_weight * super().compute_loss(
                model, inputs, num_items_in_batch=num_items_in_batch
            )
        # With label smoothing TRL runs a second forward, without gradients, for its metrics.
        output = outputs[0]
        has_seg = inputs["seg_positions"] >= 0
        mask_logits, features = output["mask_logits"], output["seg_features"]
        extra, metrics = seg_losses(output, targets, has_seg, self.args, present=present)
        mask_logits = empty_absent(mask_logits, output.get("existence_logits"))
        if targets.object_masks is not None:
            mask_logits = union_logits(mask_logits, has_seg)
            # The teacher has one feature: it is that of an answer with one [SEG].
            features, has_seg = features[:, 0], has_seg.sum(dim=1) == 1
        iou = mask_iou(mask_logits, targets.masks)
        metrics["iou"] = iou.mean()
        self.log_losses_by_source(sources, inputs, outputs[-1], iou, targets)
        if self._distils:
            distance = seg_distillation_loss(features, self.teacher_features(rows), weights=has_seg)
            distillation = distance * has_seg.float().mean()
            extra = extra + self.args.distillation_loss_weight * distillation
            metrics["distillation_loss"] = distillation.detach()
        mode = "train" if self.model.training else "eval"
        self.log_gathered(metrics, rows=len(targets.masks))
        # TRL's loss is already divided for accumulation by `num_items_in_batch`; ours is a mean over rows.
        steps = self.current_gradient_accumulation_steps if mode == "train" and num_items_in_batch is not None else 1
        return (loss + extra / steps, output) if return_outputs else loss + extra / steps

    def prediction_step(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's gives the logits of the vocabulary, of which there are none: ours gives those of the masks."""
        inputs = self._prepare_inputs(inputs)
        masks = inputs.get("masks")
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, output = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only or masks is None or output.get("mask_logits") is None:
            return loss.detach(), None, None
        mask_logits = empty_absent(output["mask_logits"], output.get("existence_logits"))
        return loss.detach(), mask_logits.float(), masks

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Rows as they are loaded get the text that the phase learns."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = map_datasets(eval_dataset, self._prepare_rows)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset: Dataset, *args: Any, **kwargs: Any) -> Any:
        """
        The masks of rows whose answers are given, with their loss.

        Args:
            test_dataset (`Dataset`): rows.
            *args, **kwargs: as in transformers.

        Returns:
            `PredictionOutput`: mask logits `(N, T, h, w)` as `predictions`, or `(N, K, T, h, w)` where answers may
            have several objects; the targets `(N, T, M, M)` as `label_ids`.
        """
        test_dataset = self._prepare_rows(test_dataset)
        self.keep_features(test_dataset)
        return super().predict(test_dataset, *args, **kwargs)

    def _draw_mask_frames(self, inputs: dict[str, Any], targets: MaskTargets) -> MaskTargets:
        """Keep the frames that the mask decoder sees in this step."""
        annotated = targets.annotated.any(dim=0)
        frames = draw_mask_frames(self.args, self.args.seed, self.state.global_step, annotated)
        if frames is None or not self.model.training:
            return targets
        frames = frames.to(targets.masks.device)
        for name in ("mask_frames", "mask_embeddings", "seg_boxes"):
            if name in inputs:
                inputs[name] = inputs[name][:, frames]
        return targets.of_frames(frames)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """TRL's order, that of a mixture, or clip by clip where the config asks for it."""
        rows = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        own: Any = self._mixture_sampler(rows, seed, by_clip=self.args.group_by_clip)
        own = ClipGroupSampler(rows, seed) if own is None and self.args.group_by_clip else own
        return super()._get_train_sampler(train_dataset) if own is None else self._keep_sampler(own)

    @torch.no_grad()
    def teacher_features(self, rows: list[Row]) -> torch.Tensor:
        """
        The teacher's projected `[SEG]` feature of each row, computed once per row and run.

        Args:
            rows (`list[dict]`): dataset rows.

        Returns:
            `torch.Tensor` of shape `(B, E)`.
        """
        known, keys = self._kept.teacher, [self._teacher_key(row) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        if new and self.args.feature_cache is not None:
            row_id = next(iter(new.values()))["id"]
            raise DataError(
                f"row {row_id!r}: {self.args.feature_cache} has no teacher feature of it; give the trainer the "
                "dataset that it is from, as `train_dataset` or `eval_dataset`"
            )
        asks = bool(new)
        if self.args.feature_cache is None and is_deepspeed_zero3_enabled():
            # A forward brings the teacher's weights together, which takes all processes: all run it, or none.
            asks = bool(self.accelerator.gather(torch.tensor([asks], device=self.args.device)).any())
        if asks:
            batch = self._teacher_collator(list(new.values()) or rows[:1])
            batch = {name: value.to(self.args.device) for name, value in batch.items()}
            with self.accelerator.autocast():
                features = self._run_teacher(**batch, logits_to_keep=1).seg_features
            known.update(zip(new, features.float(), strict=bool(new)))
        return torch.stack([known[key] for key in keys]).to(self.args.device)

    def _teacher_key(self, row: Row) -> Any:
        key = teacher_row_key(row, self.args.teacher_targets)
        if self.args.feature_cache is not None:
            return key
        # In a checkpoint it is a name, and may meet another teacher.
        name = getattr(self.teacher, "name_or_path", None)
        return hashlib.sha256(repr((name, key)).encode()).hexdigest()

    def _save_rng_state(self, output_dir: str) -> None:
        """
        With a checkpoint, what a run that goes on would not have: the number of tokens, which TRL counts from 0 again,
        and the teacher's features, which differ in the last bits when rows meet other rows in a later epoch.
        """
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            Path(output_dir, _TOKENS_FILE).write_text(json.dumps(self._total_train_tokens))
        if self._distils and self.args.feature_cache is None and self._kept.teacher:
            features: Any = {key: feature.contiguous() for key, feature in self._kept.teacher.items()}
            save_file(features, Path(output_dir, _TEACHER_FILE.format(self.args.process_index)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Every run that goes on comes here; its random state is left alone where `ignore_data_skip` is set."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # A checkpoint of an earlier version, or of fewer processes, has no such files.
        tokens = Path(checkpoint, _TOKENS_FILE)
        features = Path(checkpoint, _TEACHER_FILE.format(self.args.process_index))
        if tokens.is_file():
            self._total_train_tokens = json.loads(tokens.read_text())
        if features.is_file() and self._distils and self.args.feature_cache is None:
            self._kept.teacher.update(load_file(features, device=str(self.args.device)))


def _take_decoder(student: AuroraModel, teacher: AuroraModel) -> None:
    """Give the student what the teacher draws with: its mask decoder, and its spatial prompt where both have one."""
    for name in ("mask_decoder", "seg_spatial"):
        own, theirs = getattr(student, name), getattr(teacher, name)
        if own is not None and theirs is not None:
            what = f"the teacher's {name.replace('_', ' ')} ({teacher.name_or_path})"
            changed = copy_tensors(theirs.state_dict(keep_vars=True), own, what)
            student.replaced_weights |= {f"{name}.{key}" for key in changed}
