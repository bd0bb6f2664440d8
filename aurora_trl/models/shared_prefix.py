"""Rows in which several sequences share what they begin with, so that a forward reads it once.

A row holds the common beginning and one segment for what follows in each sequence. A segment sees the beginning and
itself, with positions that go on where the beginning ends, so that its log-probabilities and gradients are those of
the sequence alone. A clip is thousands of tokens and an answer some hundred: G completions of a prompt cost
`P + G * C` tokens in place of `G * (P + C)`, and so do G references about a clip.

The attention is computed in two parts, beginning and segments, by transformers' own function: nothing grows with the
square of `G * C`, and no mask of the whole row exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.logging import get_logger
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .objects import along_rows

logger = get_logger(__name__)

ATTENTION_NAME = "aurora_shared_prefix"
IGNORE_INDEX = -100  # of labels: not learned


@dataclass
class SharedPrefix:
    """
    How the rows of a forward are divided, for the attention.

    Attributes:
        prefix_length, segment_length (`int`): places of a beginning, P, and of a segment, S.
        prefix_mask (`torch.Tensor` of shape `(U, 1, P, P)`, bool, or `None`): what a place of a beginning sees; None
            where none is padded and it is all that stands before.
        segment_mask (`torch.Tensor` of shape `(U * K, 1, S, P + S)`, bool): what a place of a segment sees of the
            beginning and of its own segment.
    """

    prefix_length: int
    segment_length: int
    prefix_mask: torch.Tensor | None
    segment_mask: torch.Tensor


@dataclass
class SharedRows:
    """
    Sequences that begin alike as rows, one per distinct beginning.

    Attributes:
        row, slot (`torch.Tensor` of shape `(B,)`): the row of each sequence and its segment there.
        num_slots (`int`): K, segments of a row.
        layout (`SharedPrefix`): for the attention.
    """

    row: torch.Tensor
    slot: torch.Tensor
    num_slots: int
    layout: SharedPrefix

    def join(self, prefix: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Values of the beginnings `(..., U, P)` and the segments `(..., B, S)` as rows `(..., U, P + K * S)`."""
        return torch.cat([prefix, self.spread(segments, 0, num_rows=prefix.size(-2))], dim=-1)

    def spread(self, segments: torch.Tensor, fill: Any, num_rows: int | None = None) -> torch.Tensor:
        """Values of the segments `(..., B, S)` where they stand in the rows, `(..., U, K * S)`."""
        num_rows = int(self.row.max()) + 1 if num_rows is None else num_rows
        spread = segments.new_full((*segments.shape[:-2], num_rows, self.num_slots, segments.size(-1)), fill)
        spread[..., self.row, self.slot, :] = segments
        return spread.flatten(-2)

    def collect(self, values: torch.Tensor) -> torch.Tensor:
        """The opposite of `spread`: from `(U, K * S)` to `(B, S)`."""
        return values.unflatten(1, (self.num_slots, -1))[self.row, self.slot]

    def place(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions in the segments `(B,)` or `(B, K)` as places among those of their rows; negative ones stay."""
        begin = along_rows(self.slot * self.layout.segment_length, positions)
        return torch.where(positions >= 0, begin + positions, positions)


def shared_rows(prefix_mask: torch.Tensor, segment_mask: torch.Tensor, row: torch.Tensor) -> SharedRows:
    """
    The layout of rows that share prefixes.

    Args:
        prefix_mask (`torch.Tensor` of shape `(U, P)`): the beginnings, padded on the left.
        segment_mask (`torch.Tensor` of shape `(B, S)`): what follows in each sequence, padded on the right.
        row (`torch.Tensor` of shape `(B,)`): which beginning each sequence has.

    Returns:
        `SharedRows`.
    """
    prefix, segment = prefix_mask.size(1), segment_mask.size(1)
    slot = _slots(row)
    valid = prefix_mask.bool()
    layout = SharedPrefix(
        prefix, segment, None if bool(valid.all()) else _causal_mask(_seen(valid)), torch.empty(0, device=row.device)
    )
    rows = SharedRows(row, slot, int(slot.max()) + 1, layout)
    # A segment that no sequence fills, where rows have different numbers of them, sees what a full one would.
    own = rows.spread(segment_mask.bool(), True, num_rows=len(valid)).view(-1, 1, 1, segment)
    seen = _seen(valid).repeat_interleave(rows.num_slots, dim=0).expand(-1, -1, segment, -1)
    layout.segment_mask = torch.cat([seen, _causal_mask(own)], dim=-1)
    return rows


def _slots(row: torch.Tensor) -> torch.Tensor:
    """How many of the row's sequences stand before each `(B,)`."""
    return (row[:, None] == row[None, :]).tril(-1).sum(dim=1)


def collect_segments(values: torch.Tensor, clip_index: torch.Tensor) -> torch.Tensor:
    """
    What a forward over rows of clips, see `rows_of_clips`, gave for each row of references.

    Args:
        values (`torch.Tensor` of shape `(C, K * S)`): of the segments.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each row.

    Returns:
        `torch.Tensor` of shape `(B, S)`.
    """
    row = first_of_each(clip_index)[1]
    slot = _slots(row)
    return values.unflatten(1, (int(slot.max()) + 1, -1))[row, slot]


def first_of_each(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The distinct values of an index, by their first occurrence.

    Args:
        index (`torch.Tensor` of shape `(B,)`).

    Returns:
        `tuple`: where each distinct value first stands `(U,)`, in ascending order of the values, and for each entry
        which of them it has `(B,)`.
    """
    values, inverse = index.unique(return_inverse=True)
    places = torch.arange(index.numel(), device=index.device)
    first = torch.full_like(values, index.numel()).scatter_reduce(0, inverse, places, "amin")
    return first, inverse


def _causal_mask(seen: torch.Tensor) -> torch.Tensor:
    """Keys that may be seen `(N, 1, 1, L)` to what each place sees of itself and before, `(N, 1, L, L)`."""
    length = seen.size(-1)
    causal = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
    # A place always sees itself: what sees nothing would be no number.
    return causal & (seen | torch.eye(length, dtype=torch.bool, device=seen.device))


def _seen(valid: torch.Tensor) -> torch.Tensor:
    """Valid places `(U, P)` as a mask over keys `(U, 1, 1, P)`."""
    return valid[:, None, None, :]


def shared_prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    Attention in transformers' form: its `sdpa`, in two parts where rows share prefixes.

    Args:
        module (`nn.Module`): the attention layer.
        query, key, value (`torch.Tensor` of shape `(U, heads, L, D)`): of whole rows.
        attention_mask (`torch.Tensor`, *optional*): as for `sdpa`; not read where rows share prefixes.
        shared_prefix (`SharedPrefix`, *optional*): how the rows are divided.
        **kwargs: for `sdpa`.

    Returns:
        `tuple`: states `(U, L, heads, D)` and None.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    prefix, num_rows = shared_prefix.prefix_length, query.size(0)
    before, _ = sdpa_attention_forward(
        module, *(x[:, :, :prefix] for x in (query, key, value)), shared_prefix.prefix_mask, **kwargs
    )

    def segments(states: torch.Tensor) -> torch.Tensor:
        """`(U, heads, L, D)` to `(U * K, heads, S, D)`."""
        split = states[:, :, prefix:].unflatten(2, (-1, shared_prefix.segment_length))
        return split.transpose(1, 2).flatten(0, 1)

    def with_prefix(states: torch.Tensor) -> torch.Tensor:
        """`(U, heads, L, D)` to `(U * K, heads, P + S, D)`."""
        own = segments(states)
        seen = states[:, None, :, :prefix].expand(-1, own.size(0) // num_rows, -1, -1, -1).flatten(0, 1)
        return torch.cat([seen, own], dim=2)

    after, _ = sdpa_attention_forward(
        module, segments(query), with_prefix(key), with_prefix(value), shared_prefix.segment_mask, **kwargs
    )
    after = after.unflatten(0, (num_rows, -1)).flatten(1, 2)  # (U, K * S, heads, D)
    return torch.cat([before, after], dim=1), None


AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def rows_of_clips(
    inputs: Mapping[str, torch.Tensor],
    position_ids: torch.Tensor,
    clip_index: torch.Tensor,
    prefix_lengths: torch.Tensor,
) -> tuple[SharedRows, dict[str, Any]]:
    """
    Rows of clips out of rows of references: what the prompts about a clip begin with is read once.

    Args:
        inputs (`dict`): `input_ids`, `attention_mask` and, where there are such, `labels`, `(B, L)` each, padded on
            the right.
        position_ids (`torch.Tensor` of shape `(..., B, L)`): the positions that the policy gives them.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each row; each clip has one.
        prefix_lengths (`torch.Tensor` of shape `(C,)`): how many tokens the rows of each clip have in common. None of
            them is learned, nor is the next.

    Returns:
        `tuple`: the `SharedRows`, and what the policy's forward takes in place of the inputs; labels are shifted.
    """
    device, lengths = clip_index.device, prefix_lengths[clip_index]
    first, row = first_of_each(clip_index)
    prefix, total = int(prefix_lengths.max()), inputs["input_ids"].size(1)
    # Where the places of beginnings, padded on the left, and of segments, padded on the right, stand in the inputs.
    before = torch.arange(prefix, device=device) - prefix + prefix_lengths[:, None]  # (C, P)
    after = torch.arange(total - int(prefix_lengths.min()), device=device) + lengths[:, None]  # (B, S)
    valid_before, valid_after = before >= 0, after < total
    before, after = before.clamp(min=0), after.clamp(max=total - 1)

    def split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lead = values.shape[:-2]
        return (
            values[..., first, :].gather(-1, before.expand(*lead, *before.shape)),
            values.gather(-1, after.expand(*lead, *after.shape)),
        )

    mask_before, mask_after = split(inputs["attention_mask"])
    rows = shared_rows(mask_before * valid_before, mask_after * valid_after, row)
    shared: dict[str, Any] = {
        "input_ids": rows.join(*split(inputs["input_ids"])),
        "position_ids": rows.join(*split(position_ids)),
        # Four-dimensional, it is left as it is by the model, and no mask of the whole row is made.
        "attention_mask": rows.layout.segment_mask,
        "shared_prefix": rows.layout,
    }
    if inputs.get("labels") is not None:
        labels = split(inputs["labels"])[1].masked_fill(~valid_after, IGNORE_INDEX)
        shared["shift_labels"] = rows.spread(F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX), IGNORE_INDEX)
    return rows, shared


def attends_to_all(policy: PreTrainedModel) -> bool:
    """Whether each layer of a policy's language model attends to the whole text, so that its cache holds all of it."""
    layers = getattr(policy.config.get_text_config(), "layer_types", None) or {"full_attention"}
    return set(layers) == {"full_attention"}


def allow_shared_prefix(policy: PreTrainedModel) -> str | None:
    """
    Let a policy's language model take rows that share prefixes. Other forwards stay what they are.

    Args:
        policy (`PreTrainedModel`): says with `supports_shared_prefix` whether its positions can start again.

    Returns:
        `str` or `None`: why it can not, or None where it now can.
    """
    if not getattr(policy, "supports_shared_prefix", False):
        return f"{type(policy).__name__} does not support it"
    text_config = policy.config.get_text_config()
    if text_config._attn_implementation not in ("sdpa", ATTENTION_NAME):
        return f"it needs the attention `sdpa`, and the language model has `{text_config._attn_implementation}`"
    text_config._attn_implementation = ATTENTION_NAME
    return None


def shares_prefix(models: Sequence[Any], wanted: bool) -> bool:
    """
    Let models read what rows begin with once.

    Args:
        models (`list[AuroraModel]`): all that a trainer runs.
        wanted (`bool`): what its config says.

    Returns:
        `bool`: whether all of them do; where one can not, a warning says why.
    """
    if not wanted:
        return False
    obstacles = [reason for model in models if (reason := allow_shared_prefix(model.policy)) is not None]
    if obstacles:
        logger.warning(f"`shared_prefix` is of no use here, every row is read from its beginning: {obstacles[0]}")
    return not obstacles
