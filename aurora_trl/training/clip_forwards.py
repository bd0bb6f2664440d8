"""The two forwards of GRPO over completions with clips: one row for each, or one for all of a prompt."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Trainer

from ..models.modeling_aurora import AuroraModel
from ..models.shared_prefix import IGNORE_INDEX, first_of_each, shared_rows
from .mask_losses import draw_mask_frames
from .mask_targets import MaskTargets

# Log-probabilities and entropy `(B, C)`, the latter not from a reference model; where `[SEG]` stands in each
# completion, and what the mask head made of it, by name.
ForwardOutput = tuple[torch.Tensor, torch.Tensor | None, tuple[Any, dict[str, torch.Tensor]]]
_SEG_OUTPUTS = ("mask_logits", "mask_quality", "seg_features", "existence_logits", "seg_states")


class ClipForwards(Trainer):
    """
    Stands before TRL's class among a trainer's bases: log-probabilities of completions, with the masks that are
    learned from.
    """

    aurora: AuroraModel
    # The completions that the next forward is about, as indices into the bank.
    _samples: torch.Tensor
    _bank: Any  # a ClipBank
    _shares_prefix: bool
    # Whether the next forward of the policy reads the states at `[SEG]` though it decodes no masks, and what it read.
    _reads_states = False
    _states_read: tuple[torch.Tensor, torch.Tensor] | None = None

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
        batch_size = batch_size or input_ids.size(0)
        forward = self._shared_forward if self._shares_prefix else self._plain_forward
        outputs = []
        for start in range(0, input_ids.size(0), batch_size):
            rows = slice(start, start + batch_size)
            outputs.append(forward(model, self._samples[rows], input_ids[rows], attention_mask[rows], logits_to_keep))
        log_probs, entropies, seg_outputs = zip(*outputs, strict=True)
        self._seg_output = seg_outputs[-1]
        if self._reads_states:
            self._states_read = (
                torch.cat([output["seg_states"] for _, output in seg_outputs]),
                torch.cat([positions >= 0 for positions, _ in seg_outputs]),
            )
            self._reads_states = False
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _plain_forward(
        self,
        model: PreTrainedModel,
        samples: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion_length: int,
    ) -> ForwardOutput:
        """One row per completion, prompt and all: the reference for `_shared_forward`."""
        labels = input_ids.masked_fill(attention_mask == 0, IGNORE_INDEX)
        labels[:, :-completion_length] = IGNORE_INDEX
        with_masks = self._masks_train
        inputs = self._bank.forward_inputs(samples, with_masks, self._mask_frames)
        positions = None
        if with_masks or self._reads_states:
            positions = self.processing_class.find_seg_positions(input_ids, labels != IGNORE_INDEX)
            inputs.update(seg_positions=positions, **self._bank.boxes(samples, self._mask_frames))
        with self.accelerator.autocast():
            output: Any = model(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True, **inputs
            )
        log_probs = output.log_probs[:, -completion_length:]
        entropy = None if output.entropy is None else output.entropy[:, -completion_length:]
        return log_probs, entropy, (positions, _seg_outputs(output))

    def _shared_forward(
        self,
        model: PreTrainedModel,
        samples: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion_length: int,
    ) -> ForwardOutput:
        """One row per prompt, which its completions share."""
        first, row = first_of_each(self._bank.prompt_index[samples])
        # The prompt's last token writes the completion's first: it stands in every segment.
        prompt, segment = slice(None, -completion_length - 1), slice(-completion_length - 1, None)
        rows = shared_rows(attention_mask[first, prompt], attention_mask[:, segment], row)
        media = self._bank.forward_inputs(samples[first], with_masks=False)
        clip_index = media.pop("clip_index")
        positions = self.aurora.policy.position_ids(
            input_ids[first, :-completion_length],
            attention_mask[first, :-completion_length],
            **{name: value[clip_index] for name, value in media.items()},
        )  # (..., U, P + 1), from where every completion counts on
        steps = torch.arange(completion_length + 1, device=positions.device)
        ids, valid = input_ids[:, -completion_length:], attention_mask[:, -completion_length:]
        labels = F.pad(ids.masked_fill(valid == 0, IGNORE_INDEX), (0, 1), value=IGNORE_INDEX)
        with_masks = self._masks_train
        inputs = self._bank.forward_inputs(samples[first], with_masks, self._mask_frames)
        seg_positions = None
        if with_masks or self._reads_states:
            # Among the segment's places, of which the first belongs to the prompt.
            seg_positions = self.processing_class.find_seg_positions(input_ids[:, segment], F.pad(valid, (1, 0)))
            boxes = self._bank.boxes(samples, self._mask_frames)
            inputs.update(seg_positions=rows.place(seg_positions), seg_rows=row, **boxes)
        with self.accelerator.autocast():
            output: Any = model(
                input_ids=rows.join(input_ids[first, prompt], input_ids[:, segment]),
                position_ids=rows.join(positions[..., :-1], positions[..., row, -1:] + steps),
                # Four-dimensional, it is left as it is by the model, and no mask of the whole row is made.
                attention_mask=rows.layout.segment_mask,
                shared_prefix=rows.layout,
                states_from=rows.layout.prefix_length,
                shift_labels=rows.spread(labels, IGNORE_INDEX),
                fused_lm_head=True,
                **inputs,
            )
        log_probs = rows.collect(output.log_probs)[:, :-1]
        entropy = None if output.entropy is None else rows.collect(output.entropy)[:, :-1]
        return log_probs, entropy, (seg_positions, _seg_outputs(output))

    @property
    def _masks_train(self) -> bool:
        """Whether a forward decodes masks: those that are learned from do."""
        return torch.is_grad_enabled() and self.args.uses_mask_losses

    @property
    def _mask_frames(self) -> torch.Tensor | None:
        """The frames of this step's mask losses; None where it is all of them."""
        if self.args.mask_frames_per_step is None:
            return None
        annotated = MaskTargets(**self._bank.targets(self._samples)).annotated.any(dim=0)
        frames = draw_mask_frames(self.args, self.args.seed, self.state.global_step, annotated)
        return None if frames is None else frames.to(self._bank.masks.device)


def _seg_outputs(output: Any) -> dict[str, torch.Tensor]:
    return {name: output[name] for name in _SEG_OUTPUTS if output.get(name) is not None}
