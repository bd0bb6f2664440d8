"""A cache of fixed size for a step that is compiled."""

from typing import Any

import torch
from transformers import Cache, StaticCache
from transformers.cache_utils import StaticLayer


def fixed_cache(cache: Cache, length: int) -> StaticCache:
    """
    Move what a prompt left in a cache to one that has room for the answer.

    Args:
        cache (`Cache`): of full attention; it is empty afterwards, layer by layer, so that two layers at most are held
            twice.
        length (`int`): tokens that fit in.

    Returns:
        `StaticCache`: as full as the other was.
    """
    # transformers' layer tells dynamo that its tensors stay where they are, and a new one would be compiled for anew:
    # it is filled here and not by its own `lazy_initialization`.
    fixed = StaticCache.__new__(StaticCache)
    Cache.__init__(fixed, layers=[_fixed_layer(layer, length) for layer in cache.layers])
    return fixed


def _fixed_layer(layer: Any, length: int) -> StaticLayer:
    fixed = StaticLayer(max_cache_len=length)
    keys, values = layer.keys, layer.values
    layer.keys = layer.values = None
    for name, value in (("keys", keys), ("values", values)):
        room = value.new_zeros(*value.shape[:2], length, value.shape[3])
        room[:, :, : value.shape[2]] = value
        setattr(fixed, name, room)
    fixed.batch_size, fixed.num_heads = keys.shape[:2]
    fixed.k_head_dim, fixed.v_head_dim, fixed.device = keys.shape[3], values.shape[3], keys.device
    fixed.cumulative_length = torch.tensor(keys.shape[2], device=keys.device)
    fixed.is_initialized = True
    return fixed


def keep_rows(cache: StaticCache, rows: torch.Tensor) -> None:
    """Leave only these rows in a cache, one layer after the other."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        layer.batch_size = len(rows)


def set_length(cache: StaticCache, length: int) -> None:
    """Forget what was written from this token on."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(length)
