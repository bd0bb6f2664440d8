"""GRPO with rewards and losses from decoded masks."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing

from ..data.collator import ClipLoader, RolloutCollator, clip_key, pad_ids, stack_clips
from ..inference import gather_seg_states, record_last_states
from ..models.modeling_aurora import AuroraModel, add_mask_head, find_seg_positions
from ..models.processing_aurora import AuroraProcessor
from .checkpoints import AuroraCheckpoints
from .grpo_config import AuroraGRPOConfig
from .mask_training import mask_iou, mask_losses, unwrap_aurora


@dataclass
class ClipBank:
    """
    The media of one rollout, once per distinct clip.

    Attributes:
        policy_inputs (`dict[str, torch.Tensor]`): per clip; encoded where the towers and the connector are frozen.
        mask_inputs (`dict[str, torch.Tensor]`): `mask_embeddings` `(C, T, E, h, w)`, or `mask_frames` where the mask
            encoder trains.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each completion.
        masks (`torch.Tensor` of shape `(B, T, M, M)`): the target of each completion.
    """

    policy_inputs: dict[str, torch.Tensor]
    mask_inputs: dict[str, torch.Tensor]
    clip_index: torch.Tensor
    masks: torch.Tensor

    def policy_rows(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        """The policy's media inputs of these completions, one row each."""
        return {name: value[self.clip_index[samples]] for name, value in self.policy_inputs.items()}

    def forward_inputs(self, samples: torch.Tensor, with_masks: bool) -> dict[str, torch.Tensor]:
        """What `AuroraModel.forward` needs of these completions' clips, one entry per distinct clip."""
        used, clip_index = self.clip_index[samples].unique(return_inverse=True)
        inputs = {**self.policy_inputs, **(self.mask_inputs if with_masks else {})}
        return {"clip_index": clip_index, **{name: value[used] for name, value in inputs.items()}}


class AuroraGRPOTrainer(AuroraCheckpoints, GRPOTrainer):
    r"""
    TRL's [`~trl.GRPOTrainer`] for clips, with masks (AURORA, section 3.3): the rewards see the masks that the
    completions decode to, and the loss is `GRPO + bce + dice` (equation 8). With text rewards only and the mask
    weights at 0 it is TRL's loss.

    TRL carries images only, shuffled and split with the completions. Here each distinct clip of a rollout is read and
    encoded once into a bank, and completions carry their index.

    Args:
        model (`AuroraModel`): the policy; what the config freezes is frozen here.
        reward_funcs (`list`): TRL reward functions. Besides the dataset's columns they get `pred_masks`, per
            completion logits `(T, M, M)` or None, and `masks`, per completion binary `(T, M, M)`.
        args (`AuroraGRPOConfig`): settings.
        train_dataset, eval_dataset (`Dataset`): rows with the columns of `aurora_trl.data.schema`.
        processing_class (`AuroraProcessor`): the model's processor.
        callbacks, optimizers, peft_config: as in TRL.
    """

    _tag_names = ["trl", "grpo", "aurora", "reasoning-segmentation"]
    _name = "AURORA-GRPO"

    def __init__(
        self,
        model: AuroraModel,
        reward_funcs: Any,
        args: AuroraGRPOConfig,
        train_dataset: Dataset,
        processing_class: AuroraProcessor,
        eval_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any | None = None,
    ):
        unwrap_aurora(model).set_trainable(args.trainable_groups())
        self._media_frozen = args.freeze_vision_tower and args.freeze_audio_tower and args.freeze_connector
        self._banks: dict[str, ClipBank] = {}
        # The completions that the next forward is about, as indices into the bank.
        self._samples = torch.empty(0, dtype=torch.long)
        self._rows: list[dict[str, Any]] = []
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        self.loader = ClipLoader(processing_class, args.media_cache_clips)
        # TRL hands rows over as they are; ours reads their media in the data loader's workers.
        self.data_collator = RolloutCollator(self.loader)
        self.aurora = unwrap_aurora(self.model)
        add_mask_head(self.aurora)

    def _whole_model(self) -> AbstractContextManager[Any]:
        """ZeRO-3 holds the weights in parts outside a training forward: bring them together, as for generation."""
        return unwrap_model_for_generation(self.model_wrapped, self.accelerator)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _bank(self) -> ClipBank:
        return self._banks[self._mode]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Encode the rollout's clips once, let TRL generate and score, and add the index of each completion."""
        self._banks[self._mode] = self._build_bank(inputs)
        self._rows = inputs
        self._samples = torch.arange(len(inputs), device=self.accelerator.device)
        output = super()._generate_and_score_completions(inputs)
        output["sample_index"] = torch.arange(len(inputs), device=self.accelerator.device)
        return output

    @torch.no_grad()
    def _build_bank(self, rows: list[dict[str, Any]]) -> ClipBank:
        """Read each distinct clip's media and, where they are frozen, run the towers and the mask encoder on them."""
        device = self.accelerator.device
        keys = [clip_key(row) for row in rows]
        order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        clips = [rows[keys.index(key)]["clip"] for key in order]
        media = {name: value.to(device) for name, value in stack_clips(clips).items()}
        mask_inputs = {"mask_frames": media.pop("mask_frames")}
        with self._whole_model(), self.accelerator.autocast():
            if self.args.freeze_mask_encoder:
                mask_inputs = {"mask_embeddings": self.aurora.encode_masks(mask_inputs["mask_frames"])}
            if self._media_frozen:
                media = self.aurora.base_model.encode_media(**media).as_inputs()
        return ClipBank(
            policy_inputs=media,
            mask_inputs=mask_inputs,
            clip_index=torch.tensor([order[key] for key in keys], device=device),
            masks=torch.stack([row["masks"] for row in rows]).to(device),
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """TRL's would drop sound and video: tokenise with their places expanded, and hand the media to `generate`."""
        prompt_ids = [self.processing_class.prompt_ids(row, row["clip"]) for row in self._rows]
        return prompt_ids, None, self._bank.policy_rows(self._samples)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], Any]:
        """Keep the states at `[SEG]` that generation computes anyway."""
        with record_last_states(self.aurora) as states:
            completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        self._generation_states = states
        return completion_ids, logprobs

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        """Decode all frames of all completions at once, and show the masks to the reward functions."""
        seg_states, has_seg = self._rollout_seg_states(completion_ids_list)
        bank = self._bank
        with torch.no_grad(), self._whole_model(), self.accelerator.autocast():
            embeddings = bank.mask_inputs.get("mask_embeddings")
            if embeddings is None:
                embeddings = self.aurora.encode_masks(bank.mask_inputs["mask_frames"])
            _, mask_logits = self.aurora.decode_masks(seg_states, embeddings, bank.clip_index)
        logits = torch.nn.functional.interpolate(
            mask_logits.float(), bank.masks.shape[-2:], mode="bilinear", align_corners=False
        )
        for row, sample_logits, drawn in zip(inputs, logits, has_seg.tolist(), strict=True):
            row["pred_masks"] = sample_logits if drawn else None
        iou = torch.where(has_seg, mask_iou(logits, bank.masks), 0.0)
        self._log_gathered({"iou": iou.mean(), "seg_share": has_seg.float().mean()})
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @torch.no_grad()
    def _rollout_seg_states(self, completion_ids_list: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The state at the last `[SEG]` of each completion `(B, H)`, and whether there is one `(B,)`."""
        device = self.accelerator.device
        completion_ids = pad_ids(completion_ids_list, self._tokenizer.pad_token_id).to(device)
        completion_mask = pad_ids([[1] * len(ids) for ids in completion_ids_list], 0).to(device)
        seg_token_id = self.processing_class.seg_token_id
        states, has_seg, known = gather_seg_states(
            self._generation_states, completion_ids, completion_mask, seg_token_id
        )
        self._generation_states = []
        # A completion cut right at `[SEG]` was never read at that token. All ranks run this forward, or none does.
        if self.accelerator.gather((has_seg & ~known).any()[None]).any():
            prompt_ids = [self.processing_class.prompt_ids(row, row["clip"]) for row in self._rows]
            sequences = [p + c for p, c in zip(prompt_ids, completion_ids_list, strict=True)]
            input_ids = pad_ids(sequences, self._tokenizer.pad_token_id).to(device)
            attention_mask = pad_ids([[1] * len(ids) for ids in sequences], 0).to(device)
            pairs = zip(prompt_ids, completion_ids_list, strict=True)
            completion = pad_ids([[0] * len(prompt) + [1] * len(ids) for prompt, ids in pairs], 0).to(device)
            positions = find_seg_positions(input_ids, completion, seg_token_id)
            checkpointing = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
            with self._whole_model(), checkpointing:
                hidden = self.aurora.base_model(
                    input_ids=input_ids, attention_mask=attention_mask, **self._bank.policy_rows(self._samples)
                )[0]
            late = hidden[torch.arange(len(sequences), device=device), positions.clamp(min=0)]
            states = torch.where(known[:, None], states, late)
        return states, has_seg

    def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **kwargs,
    ):
        """TRL's keyword list knows images only: run the policy with its clips, and with its masks where they train."""
        samples = self._samples
        batch_size = batch_size or input_ids.size(0)
        log_probs, entropies = [], []
        for start in range(0, input_ids.size(0), batch_size):
            rows = slice(start, start + batch_size)
            labels = input_ids[rows].masked_fill(attention_mask[rows] == 0, -100)
            labels[:, :-logits_to_keep] = -100
            with_masks = torch.is_grad_enabled() and self.args.uses_mask_losses
            inputs = {
                "input_ids": input_ids[rows],
                "attention_mask": attention_mask[rows],
                **self._bank.forward_inputs(samples[rows], with_masks),
            }
            if with_masks:
                inputs["seg_positions"] = find_seg_positions(
                    input_ids[rows], labels != -100, self.processing_class.seg_token_id
                )
            with self.accelerator.autocast():
                output = model(**inputs, labels=labels, fused_lm_head=True)
            log_probs.append(output.log_probs[:, -logits_to_keep:])
            entropies.append(output.entropy[:, -logits_to_keep:])
            self._seg_output = (inputs.get("seg_positions"), output.get("mask_logits"))
        entropy = torch.cat(entropies) if compute_entropy else None
        return torch.cat(log_probs), entropy, None

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, plus the mask terms of the same forward (AURORA, equation 8)."""
        self._samples = inputs["sample_index"]
        loss = super()._compute_loss(model, inputs)
        seg_positions, mask_logits = self._seg_output
        self._seg_output = (None, None)
        if mask_logits is None:
            return loss
        masks = self._bank.masks[inputs["sample_index"]]
        extra, metrics = mask_losses(mask_logits, masks, seg_positions >= 0, self.args)
        self._log_gathered(metrics)
        steps = self.current_gradient_accumulation_steps if self._mode == "train" else 1
        return loss + extra / steps

    def _log_gathered(self, values: dict[str, torch.Tensor]) -> None:
        """Append the mean over ranks of each scalar to TRL's metrics."""
        stacked = torch.stack([value.detach().float() for value in values.values()])[None]
        for name, value in zip(values, self.accelerator.gather(stacked).mean(dim=0).tolist(), strict=True):
            self._metrics[self._mode][name].append(value)
