"""Rows in which several completions share the prompt before them, so that a forward reads the prompt once.

A row holds the prompt without its last token, then one segment per completion: the prompt's last token again and the
completion. A segment sees the prompt and itself, with positions that go on where the prompt ends, so that its
log-probabilities and gradients are those of the prompt and the completion alone. A clip is thousands of tokens and an
answer some hundred: G completions cost `P + G * C` tokens in place of `G * (P + C)`.

The attention is computed in two parts, prompt and segments, by transformers' own function: nothing grows with the
square of `G * C`, and no mask of the whole row exists.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION_NAME = "aurora_shared_prefix"


@dataclass
class SharedPrefix:
    """
    How the rows of a forward are divided, for the attention.

    Attributes:
        prefix_length (`int`): places of the prompt without its last token.
        segment_length (`int`): places of a segment: the prompt's last token and the longest completion.
        prefix_mask (`torch.Tensor` of shape `(U, 1, P, P)`, bool, or `None`): what a place of the prompt sees; None
            where no prompt is padded and it is all that stands before.
        segment_mask (`torch.Tensor` of shape `(U * K, 1, S, P + S)`, bool): what a place of a segment sees of the
            prompt and of its own segment.
    """

    prefix_length: int
    segment_length: int
    prefix_mask: torch.Tensor | None
    segment_mask: torch.Tensor


@dataclass
class SharedRows:
    """
    The completions of some prompts as rows, one per distinct prompt.

    Attributes:
        first (`torch.Tensor` of shape `(U,)`): a completion of each row's prompt.
        row, slot (`torch.Tensor` of shape `(B,)`): the row of each completion and its segment there.
        input_ids (`torch.Tensor` of shape `(U, P + K * S)`): the rows.
        layout (`SharedPrefix`): for the attention.
    """

    first: torch.Tensor
    row: torch.Tensor
    slot: torch.Tensor
    input_ids: torch.Tensor
    layout: SharedPrefix

    def position_ids(self, prompt_positions: torch.Tensor) -> torch.Tensor:
        """From the positions of the prompts `(..., U, P + 1)` to those of the rows: every completion counts on."""
        prefix, segment = self.layout.prefix_length, self.layout.segment_length
        num_slots = (self.input_ids.size(1) - prefix) // segment
        steps = torch.arange(segment, device=prompt_positions.device).repeat(num_slots)
        return torch.cat([prompt_positions[..., :-1], prompt_positions[..., -1:] + steps], dim=-1)

    def spread(self, values: torch.Tensor, fill: Any) -> torch.Tensor:
        """One value per place of each completion's segment `(B, S)` to where the segments stand, `(U, K * S)`."""
        num_rows, num_slots = self.first.numel(), int(self.slot.max()) + 1
        spread = values.new_full((num_rows, num_slots, values.size(1)), fill)
        spread[self.row, self.slot] = values
        return spread.flatten(1)

    def collect(self, values: torch.Tensor) -> torch.Tensor:
        """The opposite of `spread`: from `(U, K * S)` to `(B, S)`."""
        return values.unflatten(1, (-1, self.layout.segment_length))[self.row, self.slot]

    def place(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions in the completions `(B,)` as places among the segments of their rows; negative ones stay."""
        # The completion starts behind the copy of the prompt's last token.
        return torch.where(positions >= 0, self.slot * self.layout.segment_length + 1 + positions, positions)


def share_prefix(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    prompt_index: torch.Tensor,
) -> SharedRows:
    """
    Rows of distinct prompts out of rows of prompt and completion.

    Args:
        input_ids, attention_mask (`torch.Tensor` of shape `(B, P + 1 + C)`): prompts padded on the left, completions
            on the right.
        completion_length (`int`): C.
        prompt_index (`torch.Tensor` of shape `(B,)`): rows with the same number have the same prompt.

    Returns:
        `SharedRows`: in the order of the prompts' numbers.
    """
    prefix, segment = input_ids.size(1) - completion_length - 1, completion_length + 1
    first, row = first_of_each(prompt_index)
    same = row[:, None] == row[None, :]
    slot = same.tril(-1).sum(dim=1)  # how many of its prompt's completions stand before it
    prefix_valid = attention_mask[first, :prefix].bool()
    layout = SharedPrefix(
        prefix,
        segment,
        None if bool(prefix_valid.all()) else _causal_mask(_seen(prefix_valid)),
        torch.empty(0),
    )
    rows = SharedRows(first, row, slot, input_ids[first, :prefix], layout)
    # A segment without a completion, where prompts have different numbers of them, sees what it would see with one.
    own = rows.spread(attention_mask[:, prefix:].bool(), True).view(-1, 1, 1, segment)
    num_slots = own.size(0) // first.numel()
    seen_prefix = _seen(prefix_valid).repeat_interleave(num_slots, dim=0).expand(-1, -1, segment, -1)
    layout.segment_mask = torch.cat([seen_prefix, _causal_mask(own)], dim=-1)
    rows.input_ids = torch.cat([rows.input_ids, rows.spread(input_ids[:, prefix:], 0)], dim=1)
    return rows


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
