"""The states at `[SEG]` of a rollout's completions, and its prompts as an engine that has no towers takes them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing

from ..generation.box_answers import draw_box_answers, read_places
from ..generation.clip_loader import pad_ids
from ..generation.engines import gather_seg_states, read_states
from ..models.box_prompts import ObjectPrompt, stack_prompts
from ..models.objects import along_rows, mean_quality
from ..models.shared_prefix import first_of_each
from .clip_forwards import ClipForwards


class RolloutStates(ClipForwards):
    """Stands before TRL's class among a trainer's bases."""

    use_vllm: bool
    vllm_importance_sampling_correction: bool
    _tokenizer: Any
    # What `record_last_states` saw while completions were generated; nothing where an engine of its own did.
    _generation_states: list[torch.Tensor]

    def _whole_model(self) -> AbstractContextManager[Any]:
        """ZeRO-3 holds the weights in parts outside a training forward: bring them together, as for generation."""
        return unwrap_model_for_generation(self.model_wrapped, self.accelerator)

    @property
    def _makes_old_pass(self) -> bool:
        """Whether TRL compares vLLM's log-probs with the trainer's before the rewards: that pass reads `[SEG]`."""
        return self.use_vllm and self.vllm_importance_sampling_correction

    @torch.no_grad()
    def _embed_prompts(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The rollout's distinct prompts as the language model reads them, and which of them each completion has."""
        first, prompt_of_each = first_of_each(self._bank.prompt_index)
        prompts = [self._bank.prompt_ids[i] for i in first.tolist()]
        input_ids = pad_ids(prompts, self._tokenizer.pad_token_id).to(self.accelerator.device)
        with self._whole_model(), self.accelerator.autocast():
            media = self._bank.forward_inputs(first, with_masks=False)
            media = self.aurora.media_of_rows(media, media.pop("clip_index"))
            embeds = self.aurora.base_model.embed_inputs(input_ids, **media)
        return [row[: len(ids)] for row, ids in zip(embeds, prompts, strict=True)], prompt_of_each

    @property
    def _writes_boxes(self) -> bool:
        return self.aurora.config.mask_source == "box"

    @torch.no_grad()
    def _draw_rollout(
        self, inputs: list[dict[str, Any]], texts: list[str], completion_ids_list: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Decode all frames of all completions at once.

        Args:
            inputs (`list[dict]`): the rollout's rows; of completions with boxes, what was read goes into them as
                `pred_boxes` `(N, T, 4)` and `pred_points` `(N, T, 2)`, see `box_rewards.py`, or None.
            texts (`list[str]`), completion_ids_list (`list[list[int]]`): the completions.

        Returns:
            `tuple`: mask logits `(B, T, h, w)` or `(B, K, T, h, w)`, and which of them were drawn.
        """
        bank = self._bank
        # Not in the block below: what it runs brings ZeRO-3's weights together itself.
        seg = None if self._writes_boxes else self._rollout_seg_states(completion_ids_list)
        with self._whole_model(), self.accelerator.autocast():
            embeddings = bank.mask_inputs.get("mask_embeddings")
            if embeddings is None:
                embeddings = self.aurora.encode_masks(bank.mask_inputs["mask_frames"])
            if seg is not None:
                if self.aurora.config.mask_source == "both":
                    prompts, places = read_places(texts, bank.views, self.processing_class)
                    bank.seg_boxes = places.to(embeddings.device)
                    _show_prompts(inputs, prompts, embeddings.size(1))
                return self._draw_states(*seg, embeddings, inputs), seg[1]
            drawn = draw_box_answers(
                self.aurora, self.processing_class, texts, bank.views, embeddings, bank.clip_index
            )
        _show_prompts(inputs, drawn.prompts, embeddings.size(1))
        return drawn.mask_logits, drawn.drawn

    def _draw_states(
        self, seg_states: torch.Tensor, has_seg: torch.Tensor, embeddings: torch.Tensor, rows: list[dict[str, Any]]
    ) -> torch.Tensor:
        """Mask logits; rows get the decoder's own score of their masks as `mask_quality`, if it has one."""
        drawn_in = (seg_states, embeddings, self._bank.clip_index, self._bank.seg_boxes)
        if not self.aurora.mask_decoder.gives_quality:
            return self.aurora.decode_masks(*drawn_in)
        mask_logits, quality = self.aurora.decode_masks_with_quality(*drawn_in)
        scores = mean_quality(quality, has_seg, self._bank.frames_taken)
        for row, score in zip(rows, scores, strict=True):
            row["mask_quality"] = score
        return mask_logits

    @torch.no_grad()
    def _rollout_seg_states(self, completion_ids_list: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The states at the `[SEG]` of each completion `(B, H)` or `(B, K, H)`, and whether there are such."""
        device = self.accelerator.device
        completion_ids = pad_ids(completion_ids_list, self._tokenizer.pad_token_id).to(device)
        completion_mask = pad_ids([[1] * len(ids) for ids in completion_ids_list], 0).to(device)
        positions = self.processing_class.find_seg_positions(completion_ids, completion_mask)
        recorded = self._generation_states
        unread = torch.ones((), dtype=torch.bool, device=device)
        if self._states_read is None:
            states, has_seg, known = gather_seg_states(recorded, positions)
        else:  # `mask_truncated_completions` hides those that were cut from this pass
            states, known = self._states_read
            has_seg = positions >= 0
        if recorded or self._states_read is not None:
            unread = (has_seg & ~known).any()
        self._generation_states, self._states_read = [], None
        # A completion cut right at `[SEG]` was never read at that token. All ranks run this forward, or none does.
        if self.accelerator.gather(unread[None]).any():
            late = self._read_written(completion_ids_list, positions)
            states = torch.where(known[..., None], states, late)
        return states, has_seg

    @torch.no_grad()
    def _read_written(self, completion_ids_list: list[list[int]], positions: torch.Tensor) -> torch.Tensor:
        """States at places of completions by forwards over whole sequences, as many at a time as training takes."""
        prompt_ids = self._bank.prompt_ids
        written = [prompt + ids for prompt, ids in zip(prompt_ids, completion_ids_list, strict=True)]
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=positions.device)
        positions = positions + along_rows(lengths, positions)
        size = self.args.per_device_train_batch_size
        checkpointing = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        states = []
        with self._whole_model(), checkpointing, self.accelerator.autocast():
            for start in range(0, len(written), size):
                rows = slice(start, start + size)
                media = self._bank.forward_inputs(self._samples[rows], with_masks=False)
                media = self.aurora.media_of_rows(media, media.pop("clip_index"))
                pad_token_id = self._tokenizer.pad_token_id
                states.append(read_states(self.aurora, written[rows], positions[rows], pad_token_id, **media))
        return torch.cat(states)


def _show_prompts(
    rows: Sequence[dict[str, Any]], prompts: Sequence[Sequence[ObjectPrompt] | None], num_frames: int
) -> None:
    """Put what completions say of places where rewards find it."""
    for row, own in zip(rows, prompts, strict=True):
        row["pred_boxes"], row["pred_points"] = stack_prompts(own, num_frames)
