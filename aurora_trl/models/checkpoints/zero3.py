"""Weights that ZeRO-3 has split over the processes, brought together.

But for `gathered`, no function here holds more than one whole weight, or one of each of two models.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_partitioned(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether ZeRO-3 holds any of these in parts."""
    return any(hasattr(parameter, "ds_id") for parameter in parameters)


def full_shape(parameter: torch.Tensor) -> torch.Size:
    """The shape of a parameter, also where ZeRO-3 holds it in parts."""
    return getattr(parameter, "ds_shape", parameter.shape)


def split_the_rest(model: nn.Module) -> None:
    """Split what is whole in a model that ZeRO-3 holds in parts otherwise, as an engine would do later."""
    parameters = list(model.parameters())
    split: list[Any] = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    whole = [parameter for parameter in parameters if not hasattr(parameter, "ds_id")]
    if split and whole:
        split[0].convert_to_zero_parameters(param_list=whole)


@contextmanager
def gathered(parameters: Iterable[torch.Tensor], *, read_only: bool = False) -> Iterator[None]:
    """
    Inside the block these are whole on every process; every process has to come here.

    Args:
        parameters (`Iterable[torch.Tensor]`): in parts, or whole already.
        read_only (`bool`, *optional*, defaults to `False`): nothing is kept of what is written in the block; otherwise
            what process 0 writes into those that were in parts is what all of them keep.
    """
    split = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split, modifier_rank=None if read_only else 0):
        yield


@torch.no_grad()
def copy_tensors(source: Mapping[str, torch.Tensor], target: nn.Module, what: str) -> set[str]:
    """
    Write tensors into a module's parameters and buffers of the same names; either side may be in parts.

    Args:
        source (`Mapping[str, torch.Tensor]`): by the module's names; on every process the same.
        target (`nn.Module`): where they go.
        what (`str`): the source's name, for the error.

    Returns:
        `set[str]`: names of the tensors that are no longer what they were.

    Raises:
        `ValueError`: names a tensor that the module does not have, or has in another shape.
    """
    parameters = target.state_dict(keep_vars=True)
    changed = set()
    for name, value in source.items():
        if name not in parameters:
            raise ValueError(f"{what}: {name} is no weight of the model that it goes into; it is of another version")
        parameter = parameters[name]
        with gathered([value, parameter]):
            if value.shape != parameter.shape:
                raise ValueError(
                    f"{what}: {name} is {tuple(value.shape)} in place of {tuple(parameter.shape)}; it is of "
                    "another model"
                )
            if not torch.equal(value, parameter.to(value)):
                changed.add(name)
            parameter.copy_(value)
    return changed
