"""Prompts that several answers begin with, read once."""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from .shared_prefix import first_of_each


@torch.no_grad()
def read_prompts_once(
    model: PreTrainedModel, inputs: dict[str, Any], clip_index: torch.Tensor | None, prompt_index: torch.Tensor
) -> dict[str, Any]:
    """
    Read each distinct prompt but its last token, a few prompts at a time.

    Args:
        model (`AuroraModel`): the model; its `prefill_tokens` says how many tokens are read at once, one prompt at the
            least.
        inputs (`dict`): of `generate`; the media are those of distinct clips where `clip_index` is given.
        clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row.
        prompt_index (`torch.Tensor` of shape `(B,)`): rows with the same number have the same prompt.

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
    # The last token's may depend on the media before it, which are not given again.
    position_ids = model.policy.position_ids(input_ids, attention_mask, **media)
    prompts_at_once = max(1, model.prefill_tokens // input_ids.size(1))
    caches = []
    for some in torch.arange(len(first), device=input_ids.device).split(prompts_at_once):
        caches.append(DynamicCache(config=model.policy.config.get_text_config()))
        model.base_model(
            input_ids=input_ids[some, :-1],
            attention_mask=attention_mask[some, :-1],
            position_ids=position_ids[..., some, :-1],
            use_cache=True,
            cache=caches[-1],
            **{name: value[some] for name, value in media.items()},
        )
    return {**others, "position_ids": position_ids[..., row, :], "cache": _rows_of_caches(caches, row)}


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
