"""What stands between a trainer and its reward functions: which they are, what they are given and what they give."""

import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from ..errors import DataError
from .rewards import get_reward, mask_quality_reward, require_fitting_rewards

logger = logging.getLogger(__name__)

# Keywords of a reward function beside a dataset's columns: TRL's and ours.
_FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_OURS = (
    *("pred_masks", "masks", "object_masks", "max_objects", "mask_quality", "pred_boxes", "pred_points"),
    *("box_masks", "point_masks"),
)
# Functions of which a nan was said.
_GAVE_NAN: set[str] = set()


def find_rewards(given: Any, names: Sequence[str], model: Any, columns: Sequence[str]) -> list[Any]:
    """
    The reward functions of a trainer, as TRL calls them.

    Args:
        given (`list`, *optional*): functions, reward models, or names; a single one stands for a list.
        names (`list[str]`): in their place where there are none, the config's.
        model (`AuroraModel`): to be trained.
        columns (`list[str]`): of the dataset.

    Returns:
        `list`: each function with what it gives looked at; of several with one name the others are numbered, since TRL
        would log all of them as one.

    Raises:
        `ValueError`: where there is no such reward, or one that the model can not earn, or that can not be called.
    """
    rewards = list(names) if given is None else given if isinstance(given, list) else [given]
    # TRL would ask the Hub for a model of a name that it is given; those have a slash.
    found = [get_reward(one) if isinstance(one, str) and "/" not in one else one for one in rewards]
    require_fitting_rewards([getattr(one, "__name__", "") for one in found], model.config.mask_source)
    if mask_quality_reward in found and not model.mask_decoder.gives_quality:
        raise ValueError(
            "`mask_quality_reward` is the mask decoder's score of its masks, and "
            f"{type(model.mask_decoder).__name__} has none: leave it out"
        )
    checked: list[Any] = []
    for one in found:
        if isinstance(one, str | nn.Module):
            checked.append(one)
            continue
        _require_callable(one, columns)
        own = _is_ours(one)
        reward = functools.update_wrapper(_checked(one, own), one)
        said = [getattr(other, "__name__", None) for other in checked]
        reward.__name__ = next(name for name in _numbered(get_callable_name(one)) if name not in said)
        checked.append(reward)
    return checked


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _is_ours(reward: Any) -> bool:
    return str(getattr(reward, "__module__", "")).partition(".")[0] == "aurora_trl"


def _require_callable(reward: Any, columns: Sequence[str]) -> None:
    """Raise for a function that could not be called with what rollouts have, before one is sampled."""
    name = get_callable_name(reward)
    if inspect.isclass(reward):
        raise ValueError(f"reward function `{name}` is a class: give `{name}()`")
    if not callable(reward):
        raise ValueError(f"reward function {reward!r} is a {type(reward).__name__}, and can not be called")
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (ValueError, TypeError):
        return  # one written in C says nothing of itself
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    missing = [
        one.name for one in named if one.default is one.empty and one.name not in {*columns, *_FROM_TRL, *_OURS}
    ]
    if missing:
        raise ValueError(
            f"reward function `{name}` asks for a column `{missing[0]}`, which `train_dataset` has not; it has "
            f"{', '.join(columns)}"
        )
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        raise ValueError(
            f"reward function `{name}` takes {', '.join(one.name for one in named)} alone, and is called with every "
            "column: add `**columns` to what it takes"
        )


def _checked(reward: Callable[..., Any], own: bool) -> Callable[..., Any]:
    """The function with copies of what it is shown, and with its numbers looked at; ours need no copies."""
    name = get_callable_name(reward)
    given = (lambda columns: columns) if own else _copied

    if is_async_callable(reward):

        async def call_async(**columns: Any) -> list[float | None]:
            return read_rewards(name, await reward(**given(columns)), columns)

        return call_async

    def call(**columns: Any) -> list[float | None]:
        return read_rewards(name, reward(**given(columns)), columns)

    return call


def _copied(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as copies: targets are trained on after the rewards, and predictions are shown to the next function."""

    def copied(column: Any) -> Any:
        if not isinstance(column, list):
            return column
        return [value.clone() if isinstance(value, torch.Tensor) else value for value in column]

    return {name: copied(column) for name, column in columns.items()}


def read_rewards(name: str, given: Any, columns: Mapping[str, Any]) -> list[float | None]:
    """
    What a reward function gave, as one number or None per completion.

    Args:
        name (`str`): of the function.
        given (`Sequence`, `torch.Tensor`, `np.ndarray` or `Iterator`): what it returned.
        columns (`Mapping[str, Any]`): what it was called with.

    Raises:
        `DataError`: names the function, and the row, where that is anything else.
    """
    number = len(columns["completions"])
    wanted = f"it has to return a list with one number, or None, for each of the {number} completions"
    if isinstance(given, torch.Tensor | np.ndarray):
        given = given.tolist()
    if not isinstance(given, Sequence | Iterator) or isinstance(given, str | bytes):
        raise DataError(f"reward function `{name}` returned a {type(given).__name__}; {wanted}")
    given = list(given)
    if len(given) != number:
        raise DataError(f"reward function `{name}` returned {len(given)} rewards; {wanted}")
    rows = columns.get("id") or list(range(number))
    return [_read_one(name, value, f"row {row!r}", wanted) for value, row in zip(given, rows, strict=True)]


def _read_one(name: str, value: Any, where: str, wanted: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 1:  # a column of an array
        value = value[0]
    try:
        reward = None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        reward = None
    if reward is None:
        raise DataError(f"reward function `{name}` gave {where} {value!r}, which is no number; {wanted}")
    if math.isnan(reward):
        if name not in _GAVE_NAN:
            _GAVE_NAN.add(name)
            logger.warning(f"reward function `{name}` gave {where} nan: such rows are left out, as with None")
        return None
    if abs(reward) > torch.finfo(torch.float32).max:
        raise DataError(f"reward function `{name}` gave {where} {reward}, which can not be compared with others")
    return reward
