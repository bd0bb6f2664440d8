"""GRPO with rewards and losses from decoded masks."""

from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOTrainer

from ..data.masks import frame_extents
from ..data.mixture import SOURCE_COLUMN
from ..data.relations import relate_objects
from ..data.schema import Row, require_few_objects, view_key
from ..evaluation.iou import mask_iou
from ..generation.clip_bank import ClipBank, regroup
from ..generation.clip_loader import ClipLoader, stack_clips, stack_hints
from ..generation.collators import RolloutCollator
from ..generation.engines import choose_engine, recorded_generation
from ..generation.engines.vllm import VLLMEngine, connect
from ..models.language_model import require_language_model
from ..models.mask_head import add_mask_head, without_dropout
from ..models.modeling_aurora import AuroraModel
from ..models.objects import union_logits
from ..models.processing_aurora import AuroraProcessor
from ..models.shared_prefix import shares_prefix
from ..prompts import is_reflective
from .data_wait import DataWaitLog
from .epoch_order import EpochOrder
from .features.cache import FeatureCaching
from .grpo_config import AuroraGRPOConfig
from .lora import set_trainable, unwrap_aurora
from .mask_targets import MaskTargets
from .resampling import EqualGroups
from .reward_calls import find_rewards
from .rewards import completion_text
from .rollout_sampler import RolloutRows, RolloutSampler
from .rollout_states import RolloutStates
from .sample_log import add_sample_log
from .saving import AuroraCheckpoints
from .seg_losses import seg_losses
from .short_clips import require_taken_references, warn_of_short_clips, warn_of_unheard_sound
from .source_log import SourceLog
from .trainer_inputs import listed, load_model, load_processor, refuse, require_marked, require_rows

logger = get_logger(__name__)


class AuroraGRPOTrainer(
    AuroraCheckpoints, DataWaitLog, SourceLog, EpochOrder, FeatureCaching, RolloutStates, EqualGroups, GRPOTrainer
):
    r"""
    TRL's [`~trl.GRPOTrainer`] for clips, with masks (AURORA, section 3.3): the rewards see the masks that the
    completions decode to, and the loss is `GRPO + bce + dice` (equation 8). With text rewards only and the mask
    weights at 0 it is TRL's loss.

    TRL carries images only, shuffled and split with the completions. Here each distinct clip of a rollout is read and
    encoded once into a bank, and completions carry their index.

    Args:
        model (`str`, `AuroraModel` or `PeftModel`): the policy, or where it is; what the config freezes is frozen
            here. Of a `PeftModel`, such as `load_adapter` returns, the adapter goes on training.
        reward_funcs (`list`): TRL reward functions, or names of ours such as `"iou_reward"`; by default the config's.
            Besides the dataset's columns they get `pred_masks`, per completion logits `(T, h, w)` or None, and
            `masks`, per completion binary `(T, h, w)`: those of the frame, whose longer side has the processor's
            `mask_target_size`; and `mask_quality`, the mask decoder's own score of them, or None, where it has one.
            With `max_objects` above 1 `pred_masks` are the union of a completion's objects;
            `max_objects` and `object_masks` come too.
        args (`AuroraGRPOConfig`, *optional*): settings.
        train_dataset, eval_dataset (`Dataset`): rows with the columns of `aurora_trl.data.schema`; evaluation also of
            several by name.
        processing_class (`AuroraProcessor`, *optional*): the model's own by default.
        reward_processing_classes, callbacks, optimizers, quantization_config, peft_config: as in TRL. An adapter's
            config is completed, see [`~aurora_trl.training.lora.complete_adapter`].
        tools, rollout_func, environment_factory: refused, with the reason.

    Raises:
        `DataError`: where a row is about more objects than `max_objects`.
    """

    _tag_names = ["trl", "grpo", "aurora", "reasoning-segmentation"]
    _name = "AURORA-GRPO"
    _step: int
    _checkpoint_is_due = False
    _buffered_inputs: Any

    def __init__(
        self,
        model: str | AuroraModel | PeftModel,
        reward_funcs: Any = None,
        args: AuroraGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: AuroraProcessor | None = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any | None = None,
        peft_config: Any | None = None,
        tools: None = None,
        rollout_func: None = None,
        environment_factory: None = None,
    ):
        lost = "a rollout of several turns loses the clips"
        refuse(tools=(tools, lost), rollout_func=(rollout_func, lost), environment_factory=(environment_factory, lost))
        args = AuroraGRPOConfig("AURORA-GRPO") if args is None else args
        require_rows(train_dataset, eval_dataset)
        self._use_sources(train_dataset, args, "shuffle_dataset", True)
        rows: Any = train_dataset
        samples_with_vllm, server = args.use_vllm, connect(args) if args.use_vllm else None
        model = load_model(model, args.model_init_kwargs, quantization_config)
        if samples_with_vllm:
            require_language_model(unwrap_aurora(model))
        processing_class = load_processor(processing_class, model).with_max_objects(args.max_objects)
        processing_class = processing_class.with_num_frames(args.num_frames)
        require_taken_references([*listed(train_dataset), *listed(eval_dataset)], processing_class)
        processing_class = args.choose_mask_source(unwrap_aurora(model), processing_class, rows=rows)
        warn_of_short_clips(train_dataset, processing_class.num_frames)
        warn_of_unheard_sound(train_dataset, processing_class.policy_processor)
        learnt, given = processing_class.max_answer_tokens, args.max_completion_length
        if given is not None and learnt is not None and given < learnt:
            logger.warning(
                f"`max_completion_length` is {given}, and the model was trained to write answers of up to {learnt} "
                "tokens: those that are cut earn nothing; leave it out, and the limit follows the checkpoint"
            )
        args.max_completion_length = processing_class.answer_limit(given)
        for dataset in (train_dataset, *listed(eval_dataset)):
            if not args.allow_unmarked_rows:
                require_marked(dataset)
            about = {"id", "is_null", "masks", "num_objects"}.intersection(dataset.column_names)
            require_few_objects(dataset.select_columns(sorted(about)), processing_class.max_objects)
        reward_funcs = find_rewards(reward_funcs, args.reward_functions, unwrap_aurora(model), rows.column_names)
        args.add_seg_parts(unwrap_aurora(model))
        args.check_reference(given=isinstance(model, PeftModel), asked=peft_config is not None)
        peft_config = set_trainable(model, peft_config, args.trainable_groups())
        args.require_lesson(from_text=True, from_masks=args.uses_mask_losses)
        unwrap_aurora(model).mask_decoder.frames_at_once = args.mask_frames_at_once
        unwrap_aurora(model).prefill_tokens = args.prefill_tokens
        choose_engine(args.generation_engine, unwrap_aurora(model))
        unwrap_aurora(model).generation_engine = args.generation_engine  # for samples that are logged, too
        self._media_frozen = args.freeze_vision_tower and args.freeze_audio_tower and args.freeze_connector
        self._banks: dict[str, ClipBank] = {}
        # The completions that the next forward is about, as indices into the bank.
        self._samples = torch.empty(0, dtype=torch.long)
        self._rows: list[dict[str, Any]] = []
        args.use_vllm = False  # TRL would start an engine that knows token ids and images
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            reward_processing_classes=reward_processing_classes,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        questions = args.generation_batch_size // self.num_generations
        if len(rows) < questions:
            raise ValueError(
                f"a rollout takes {questions} questions ({args.generation_batch_size} completions of all processes, "
                f"{self.num_generations} to a question), and `train_dataset` has {len(rows)}: lower "
                "`per_device_train_batch_size` or `steps_per_generation`, or give more rows"
            )
        self.loader = ClipLoader(processing_class, args.media_cache_clips)
        self.loader.allow_unmarked = args.allow_unmarked_rows
        # TRL hands rows over as they are; ours reads their media in the data loader's workers.
        self.data_collator = RolloutCollator(self.loader)
        self.aurora = unwrap_aurora(self.model)
        models = [self.aurora]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        for patched in models:
            add_mask_head(patched)
        self._shares_prefix = shares_prefix(models, args.shared_prefix)
        add_sample_log(self)
        self.use_vllm = args.use_vllm = samples_with_vllm
        if samples_with_vllm:
            self._last_loaded_step = -1  # TRL's: at which step weights were sent
            self.vllm_generation = VLLMEngine(
                self.aurora,
                self.accelerator,
                args,
                server,
                eos_token_ids=self.eos_token_ids,
                embed_prompts=self._embed_prompts,
            )

    def _get_train_sampler(self, dataset: Any = None) -> RolloutSampler:
        """TRL's order, or that of a mixture, in which a rollout's rows are marked where they come again."""
        rows: Any = dataset if dataset is not None else self.train_dataset
        own = super()._get_train_sampler(dataset)
        if self.args.data_seed is not None:  # TRL takes `seed` alone
            own.seed = self.args.data_seed
        mixture = self._mixture_sampler(getattr(rows, "rows", rows), own.seed)
        return self._keep_sampler(RolloutSampler.like(own, mixture))

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """What the sampler marks is looked up here, for training."""
        rows = RolloutRows(dataset) if kwargs.get("is_training") else dataset
        return super()._get_dataloader(rows, *args, **kwargs)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _bank(self) -> ClipBank:
        return self._banks[self._mode]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """TRL counts from 0 again in a run that goes on, and would draw its rollouts at other steps than before."""
        if self._step == 0:
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """
        A checkpoint that is due in the middle of a rollout comes at its end: completions are not saved, and a run that
        goes on from there would draw others for its other steps.
        """
        self._checkpoint_is_due |= self.control.should_save
        in_rollout = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        ends = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        # The best model is the one that was evaluated, and not what it is some steps later.
        if self._checkpoint_is_due and not self.args.load_best_model_at_end:
            self.control.should_save = ends or not in_rollout
            self._checkpoint_is_due = not self.control.should_save
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL shuffles a rollout completion by completion: bring groups together again, so that they share rows."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._mode == "eval" or self._buffered_inputs is before or not self._shares_prefix:
            return inputs
        self._buffered_inputs = regroup(self._buffered_inputs, self._bank.prompt_index)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Encode the rollout's clips once, let TRL generate and score, and add the index of each completion."""
        if any(row["media"] is None for row in inputs):  # resumed in the middle of a rollout, which is made again
            inputs = self.data_collator(inputs)
        self._banks[self._mode] = self._build_bank(inputs)
        self._rows = inputs
        self._samples = torch.arange(len(inputs), device=self.accelerator.device)
        self._reads_states, self._states_read = self._makes_old_pass and not self._writes_boxes, None
        with without_dropout(self.model):  # all completions of a prompt, and their masks, are one model's
            output = super()._generate_and_score_completions(inputs)
        output["sample_index"] = torch.arange(len(inputs), device=self.accelerator.device)
        # Trackers take a message of text, and end the run at one of several parts.
        logged = [_as_text(prompt) for prompt in self._logs["prompt"]]
        self._logs["prompt"].clear()
        self._logs["prompt"].extend(logged)
        return output

    @torch.no_grad()
    def _build_bank(self, rows: list[Row]) -> ClipBank:
        """Read each distinct clip's media and, where they are frozen, run the towers and the mask encoder on them."""
        device = self.accelerator.device
        keys = [view_key(row) for row in rows]
        clip_order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        # The rows, which rewards see and TRL keeps, let go of what the bank holds.
        read = [row.pop("media") for row in rows]
        clips = [read[keys.index(key)].clip for key in clip_order]
        media = stack_clips(clips)
        frames, kept = media.pop("mask_frames", None), media.pop("mask_embeddings", None)
        media = {name: value.to(device) for name, value in media.items()}
        # In the precision that DeepSpeed gives the weights, which they may not have had when the features were made.
        mask_inputs = {} if kept is None else {"mask_embeddings": self._prepare_input(kept)}
        with self._whole_model(), self.accelerator.autocast():
            if frames is not None and self.args.freeze_mask_encoder:
                mask_inputs = {"mask_embeddings": self.aurora.encode_masks(frames)}
            elif frames is not None:
                mask_inputs = {"mask_frames": frames.to(device)}
            if self._media_frozen:
                media = self.aurora.base_model.encode_media(**media).as_inputs()
        masks = torch.stack([media.masks for media in read])
        prompt_ids = [self.processing_class.prompt_ids(row, media.clip) for row, media in zip(rows, read, strict=True)]
        prompts = [(key, *ids) for key, ids in zip(keys, prompt_ids, strict=True)]
        prompt_order = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        return ClipBank(
            policy_inputs=media,
            mask_inputs=mask_inputs,
            clip_index=torch.tensor([clip_order[key] for key in keys], device=device),
            prompt_index=torch.tensor([prompt_order[prompt] for prompt in prompts], device=device),
            prompt_ids=prompt_ids,
            masks=masks.to(device),
            object_masks=(
                torch.stack([media.object_masks for media in read]).to(device)
                if self.processing_class.max_objects > 1
                else None
            ),
            relations=relate_objects(rows).to(device) if self.args.alignment_loss_weight > 0 else None,
            hints={name: value.to(device) for name, value in stack_hints([m.hints for m in read], masks).items()},
            views=[self.processing_class.frame_view(media.clip) for media in read],
            frames_taken=[media.frames_taken for media in read],
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """TRL's would drop sound and video: tokenise with their places expanded, and hand the media to `generate`."""
        fields = self._bank.forward_inputs(self._samples, with_masks=False)
        if self._shares_prefix:
            fields["prompt_index"] = self._bank.prompt_index
        return self._bank.prompt_ids, None, fields

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], Any]:
        """Keep the states at `[SEG]` that generation computes anyway; vLLM keeps its own to itself."""
        self._generation_states = []
        if self.use_vllm:
            return super()._generate_single_turn(*args, **kwargs)
        # In the precision of training, which has float32 weights beside those of the checkpoint.
        with recorded_generation(self.aurora) as states, self.accelerator.autocast():
            completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        self._generation_states = [] if self._writes_boxes else states
        return completion_ids, logprobs

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        """Show the masks of the completions to the reward functions."""
        bank, texts = self._bank, [completion_text(completion) for completion in completions]
        mask_logits, has_seg = self._draw_rollout(inputs, texts, completion_ids_list)
        if bank.object_masks is not None:
            mask_logits, has_seg = union_logits(mask_logits, has_seg), has_seg.any(dim=1)
            for row in inputs:
                row["max_objects"] = self.processing_class.max_objects
        logits = torch.nn.functional.interpolate(
            mask_logits.float(), bank.masks.shape[-2:], mode="bilinear", align_corners=False
        )
        # Rewards see the frame, not the padding around it.
        extents = frame_extents(bank.framed)
        for i, (row, drawn, (height, width)) in enumerate(zip(inputs, has_seg.tolist(), extents, strict=True)):
            row["pred_masks"] = logits[i, :, :height, :width] if drawn else None
            row["masks"] = bank.masks[i, :, :height, :width]
            row.update({name: value[i, :, :height, :width] for name, value in bank.hints.items()})
            if bank.object_masks is not None:
                row["object_masks"] = bank.object_masks[i, ..., :height, :width]
        iou = torch.where(has_seg, mask_iou(logits, bank.masks), 0.0)
        reflective = [is_reflective(text) for text in texts]
        shares = {"seg_share": has_seg, "reflective_share": torch.tensor(reflective, device=iou.device)}
        self.log_gathered({"iou": iou.mean(), **{name: share.float().mean() for name, share in shares.items()}})
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._log_group_deviation(rewards)
        if self.source_names and self._mode == "train":
            self.log_rewards_by_source([row[SOURCE_COLUMN] for row in inputs], rewards, iou)
        return rewards

    def _log_group_deviation(self, rewards: torch.Tensor) -> None:
        """
        Log the deviation of the rewards within groups (AURORA, figure 9b), and the share of groups whose rewards are
        all equal, from which nothing is learnt: TRL's `reward_std` is the batch's, and so may its share be.
        """
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)  # of all processes
        size = self.num_generations if self._mode == "train" else self.num_generations_eval
        groups = total.view(-1, size)
        self._group_deviation = groups.std(dim=1) if size > 1 else total.new_zeros(len(groups))
        self._metrics[self._mode]["reward_std_in_group"].append(self._group_deviation.mean().item())
        equal = torch.isclose(groups.amin(dim=1), groups.amax(dim=1)).float().mean()
        self._metrics[self._mode]["equal_reward_share"].append(equal.item())

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, plus the mask terms of the same forward (AURORA, equation 8)."""
        self._samples = inputs["sample_index"]
        loss = super()._compute_loss(model, inputs)
        seg_positions, output = self._seg_output
        self._seg_output = (None, {})
        if "mask_logits" not in output:
            return loss
        targets = MaskTargets(**self._bank.targets(inputs["sample_index"]))
        extra, metrics = seg_losses(
            output,
            targets.of_frames(self._mask_frames),
            seg_positions >= 0,
            self.args,
            present=targets.find_present(),
        )
        self.log_gathered(metrics)
        steps = self.current_gradient_accumulation_steps if self._mode == "train" else 1
        return loss + extra / steps


def _as_text(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the name of each medium in the place of its part."""
    shown = []
    for message in messages:
        parts = message["content"]
        if not isinstance(parts, str):
            parts = " ".join(part.get("text") or f"<{part['type']}>" for part in parts)
        shown.append({**message, "content": parts})
    return shown
