"""Prompts that several answers begin with, read once; of prompts about one clip, what they begin with in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from .positions import require_positions
from .shared_prefix import attends_to_all, first_of_each

# Of all tokens of the prompts; a pass more, and copies of keys and values, cost something, too.
_LEAST_SAVED = 0.2


@dataclass
class _Prompts:
    """
    Distinct prompts, or parts of some, padded on the left.

    Attributes:
        input_ids, attention_mask (`torch.Tensor` of shape `(P, L)`), position_ids (`torch.Tensor` of shape
            `(..., P, L)`): of the tokens.
        media (`dict`): features, one entry per prompt; none for a part without them.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    media: dict[str, torch.Tensor]

    def cut(self, start: torch.Tensor, end: torch.Tensor, media: dict[str, torch.Tensor]) -> "_Prompts":
        """The columns from `start` to `end`, each `(P,)`, padded on the left."""
        width = int((end - start).max())
        columns = torch.arange(width, device=start.device) - width + end[:, None]
        filled, columns = (columns >= start[:, None]).long(), columns.clamp(min=0)
        positions = self.position_ids.gather(-1, columns.expand(*self.position_ids.shape[:-1], width))
        return _Prompts(self.input_ids.gather(1, columns), filled, positions, media)

    def select(self, rows: torch.Tensor) -> "_Prompts":
        """Some of the prompts."""
        media = {name: value[rows] for name, value in self.media.items()}
        return _Prompts(self.input_ids[rows], self.attention_mask[rows], self.position_ids[..., rows, :], media)

    def portions(self, model: Any) -> Iterator[torch.Tensor]:
        """Their numbers, as many at a time as `prefill_tokens` allows, one at the least."""
        number, length = self.input_ids.shape
        yield from torch.arange(number, device=self.input_ids.device).split(max(1, model.prefill_tokens // length))

    def read(self, model: Any, after: DynamicCache | None = None, mask: torch.Tensor | None = None) -> DynamicCache:
        """Their cache; `after` is that of what they follow, of which `mask` `(P, L')` says what is padding."""
        cache = DynamicCache(config=model.policy.config.get_text_config()) if after is None else after
        model.base_model(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask if mask is None else torch.cat([mask, self.attention_mask], dim=1),
            position_ids=self.position_ids,
            use_cache=True,
            cache=cache,
            **self.media,
        )
        return cache


@torch.no_grad()
def read_prompts_once(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    clip_index: torch.Tensor | None,
    prompt_index: torch.Tensor,
    new_tokens: int = 0,
) -> dict[str, Any]:
    """
    Read each distinct prompt but its last token, a few prompts at a time.

    Where several are about one clip, what they begin with in common, the clip in it, is read once for all of them.

    Args:
        model (`AuroraModel`): the model; its `prefill_tokens` says how many tokens are read at once, one prompt at the
            least.
        inputs (`dict`): of `generate`; the media are those of distinct clips where `clip_index` is given.
        clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row.
        prompt_index (`torch.Tensor` of shape `(B,)`): rows with the same number have the same prompt.
        new_tokens (`int`, *optional*, defaults to 0): that may follow.

    Returns:
        `dict`: the inputs with the cache of each row in the place of the media.
    """
    names = (*model.policy.media_inputs, *model.policy.media_embeds)
    media = {name: inputs[name] for name in names if name in inputs}
    others = {name: value for name, value in inputs.items() if name not in media}
    first, row = first_of_each(prompt_index)
    clips = first if clip_index is None else clip_index[first]
    input_ids, attention_mask = inputs["input_ids"][first], inputs["attention_mask"][first]
    media = model.media_of_rows(media, clips)
    require_positions(model.policy, {"input_ids": input_ids, "attention_mask": attention_mask, **media}, new_tokens)
    # The last token's may depend on the media before it, which are not given again.
    position_ids = model.policy.position_ids(input_ids, attention_mask, **media)
    prompts = _Prompts(input_ids[:, :-1], attention_mask[:, :-1], position_ids[..., :-1], media)
    common = _common_lengths(model, prompts, clips)
    caches = _read_whole(model, prompts) if common is None else _read_by_clip(model, prompts, clips, common)
    return {**others, "position_ids": position_ids[..., row, :], "cache": _rows_of_caches(list(caches), row)}


def _read_whole(model: Any, prompts: _Prompts) -> Iterator[DynamicCache]:
    return (prompts.select(some).read(model) for some in prompts.portions(model))


def _common_lengths(model: Any, prompts: _Prompts, clips: torch.Tensor) -> torch.Tensor | None:
    """
    With how many tokens each prompt begins as all prompts about its clip do, one less than it has at most.

    Args:
        model (`AuroraModel`): the model.
        prompts (`_Prompts`): P prompts.
        clips (`torch.Tensor` of shape `(P,)`): the clip of each.

    Returns:
        `torch.Tensor` of shape `(P,)` or `None`: None where reading these apart would save too little, or is not
            possible: a layer attends to a window, or media stand behind them.
    """
    first, clip = first_of_each(clips)
    number, length = prompts.input_ids.shape
    if not attends_to_all(model.policy) or len(first) == number:
        return None
    lengths = prompts.attention_mask.sum(dim=1)
    # Their beginnings stand below each other.
    columns = (torch.arange(length, device=clips.device) + (length - lengths)[:, None]).clamp(max=length - 1)
    like_first = torch.ones_like(columns, dtype=torch.bool)
    for values in (prompts.input_ids[None], prompts.position_ids.reshape(-1, number, length)):
        begun = values.gather(-1, columns.expand_as(values))
        like_first &= (begun == begun[:, first[clip]]).all(dim=0)
    each = torch.minimum(like_first.long().cumprod(dim=1).sum(dim=1), lengths - 1)
    common = torch.full_like(first, length).scatter_reduce(0, clip, each, "amin")[clip]
    places = torch.isin(prompts.input_ids, torch.tensor(model.policy.media_token_ids, device=clips.device))
    behind = torch.arange(length, device=clips.device) >= (length - lengths + common)[:, None]
    saved = int(common.sum()) - int(common[first].sum())
    return None if bool((places & behind).any()) or saved < _LEAST_SAVED * number * length else common


def _read_by_clip(model: Any, prompts: _Prompts, clips: torch.Tensor, common: torch.Tensor) -> Iterator[DynamicCache]:
    """Read what the prompts about each clip have in common, then what each has by itself."""
    first, clip = first_of_each(clips)
    length = prompts.input_ids.size(1)
    padding = length - prompts.attention_mask.sum(dim=1)
    own = prompts.cut(padding + common, torch.full_like(padding, length), {})
    beginning = prompts.select(first)
    beginning = beginning.cut(padding[first], (padding + common)[first], beginning.media)
    caches = [beginning.select(some).read(model) for some in beginning.portions(model)]
    begun = _rows_of_caches(caches, torch.arange(len(first), device=clips.device))
    widths = beginning.input_ids.size(1), own.input_ids.size(1)
    for some in own.portions(model):
        cache = DynamicCache()
        for number, layer in enumerate(begun.layers):
            cache.update(layer.keys[clip[some]], layer.values[clip[some]], number)
        cache = own.select(some).read(model, cache, beginning.attention_mask[clip[some]])
        # Between the two there is padding, and the prompts are to be padded on the left.
        token = torch.arange(length, device=clips.device) - padding[some, None]
        in_common, ends = token < common[some, None], (length - padding)[some, None]
        columns = torch.where(in_common, widths[0] - common[some, None] + token, sum(widths) - ends + token)
        index = columns.clamp(min=0)[:, None, :, None]
        for layer in cache.layers:
            layer.keys, layer.values = (values.take_along_dim(index, dim=2) for values in (layer.keys, layer.values))
        yield cache


def _rows_of_caches(caches: list[DynamicCache], rows: torch.Tensor) -> DynamicCache:
    """These rows out of caches that follow each other; a layer at a time, so that no more is held twice."""
    cache, *others = caches
    for number, layer in enumerate(cache.layers):
        for other in others:
            following = other.layers[number]
            layer.keys = torch.cat([layer.keys, following.keys])
            layer.values = torch.cat([layer.values, following.values])
            following.keys = following.values = None
        layer.batch_select_indices(rows)
    return cache
