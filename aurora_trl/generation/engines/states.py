"""The states at `[SEG]` of what was generated."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ...models.mask_head import capture_layers
from ...models.modeling_aurora import AuroraModel
from ...models.objects import along_rows
from ..clip_loader import pad_ids


@contextmanager
def record_last_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """
    Collect the state that `[SEG]` would have in each step of a `generate` inside the block, `(B, H)` each.

    The i-th of them belongs to the token that stands before the i-th generated one: the prompt's last token first,
    then each generated token but the last.

    Args:
        model (`AuroraModel` or a policy): whose output embeddings are the head.
    """
    states: list[torch.Tensor] = []
    several = getattr(model.config, "seg_layers", 1) > 1
    with ExitStack() as stack:
        layers: list[Any] = stack.enter_context(capture_layers(model)) if several else []

        def keep(_module: nn.Module, args: Any) -> None:
            # The head runs once a step. A prompt that is read beforehand passes the backbone alone.
            state = model.seg_state([layer[:, -1] for layer in layers[-1]]) if several else args[0][:, -1]
            layers.clear()
            states.append(state)

        handle = model.get_output_embeddings().register_forward_pre_hook(keep)
        stack.callback(handle.remove)
        yield states


def gather_seg_states(
    states: Sequence[torch.Tensor], positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The states at the `[SEG]` of completions, out of those recorded while they were generated.

    Args:
        states (`list[torch.Tensor]`): from `record_last_states`.
        positions (`torch.Tensor` of shape `(B,)` or `(B, K)`): where `[SEG]` stands among the generated tokens, see
            [`AuroraProcessor.find_seg_positions`].

    Returns:
        `tuple`: states `(B, H)`; whether a row has a `[SEG]` `(B,)`; whether its state is known `(B,)`. It is not
        where `[SEG]` was the last token that could be generated: no forward has read it. With K positions a row, each
        has that dimension, too.
    """
    if not states:  # the completions came from elsewhere
        return torch.zeros_like(positions, dtype=torch.float)[..., None], positions >= 0, positions > positions
    stacked = torch.stack(tuple(states), dim=1)  # (B, steps, H)
    index = (positions + 1).clamp(min=0)
    known = (positions >= 0) & (index < stacked.size(1))
    rows = along_rows(torch.arange(positions.size(0), device=stacked.device), positions)
    return stacked[rows, index.clamp(max=stacked.size(1) - 1)], positions >= 0, known


@torch.no_grad()
def read_states(
    model: AuroraModel, sequences: Sequence[Sequence[int]], positions: torch.Tensor, pad_token_id: int, **media: Any
) -> torch.Tensor:
    """
    Hidden states by one forward over whole sequences, for what generation has written but not read.

    Args:
        model (`AuroraModel`): the model.
        sequences (`list[list[int]]`): B prompts with their completions.
        positions (`torch.Tensor` of shape `(B,)` or `(B, K)`): the places to read, of a model's queries the first one;
            a negative one gives a dummy.
        pad_token_id (`int`): fills the shorter sequences.
        **media: the policy's media or their features, one entry per row.

    Returns:
        `torch.Tensor` of shape `(B, H)` or `(B, K, H)`.
    """
    device = positions.device
    with capture_layers(model) as layers:
        model.base_model(
            input_ids=pad_ids(sequences, pad_token_id).to(device),
            attention_mask=pad_ids([[1] * len(ids) for ids in sequences], 0).to(device),
            **media,
        )
    return model.seg_states_at(layers[-1], torch.arange(len(sequences), device=device), positions)
