"""Whether the values of a recipe's YAML are of the kinds that its options take."""

import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text; put it in quotes",
    list: "a list",
    dict: "a mapping of keys to values",
}


def require_types(values: Mapping[str, Any], config_classes: tuple[type, ...]) -> None:
    """
    Raise where a value is of another kind than its option.

    argparse, which reads recipes for TRL, looks at texts alone: `max_steps: 1.5` would train for a step and a half.

    Args:
        values (`Mapping[str, Any]`): of a YAML, by option. A text is left to argparse, which turns it into a number.
        config_classes (`tuple[type]`): dataclasses that have the options.

    Raises:
        `ValueError`: names the option, what it takes and what it got.
    """
    hints: dict[str, Any] = {}
    for config_class in config_classes:
        hints.update(typing.get_type_hints(config_class))
    for name, value in values.items():
        hint = hints.get(name)
        if hint is None or isinstance(value, str) or _fits(value, hint):
            continue
        if value is None:
            raise ValueError(f"`{name}` is empty; give it a value, or leave the key out")
        wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in _kinds(hint)))
        switch = " (YAML reads on, off, yes and no so)" if isinstance(value, bool) else ""
        raise ValueError(f"`{name}` must be {wanted}, got {_shown(value)}{switch}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, alternative) for alternative in _alternatives(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    if origin is Any or origin is object:
        return True
    if origin is typing.Literal:
        return any(value is choice or value == choice for choice in typing.get_args(hint))
    if origin is list and isinstance(value, list):
        inner = typing.get_args(hint)
        return not inner or all(isinstance(item, str) or _fits(item, inner[0]) for item in value)
    if isinstance(value, bool):
        return origin is bool
    if origin is float:
        return isinstance(value, int | float)
    # Options of other types, such as enumerations, are given by name.
    return origin in (int, dict, type(None)) and isinstance(value, origin)


def _kinds(hint: Any) -> list[type]:
    """The kinds in a hint that a YAML can hold, as `_KINDS` names them."""
    found = []
    for alternative in _alternatives(hint):
        origin = typing.get_origin(alternative) or alternative
        if isinstance(origin, type) and issubclass(origin, Enum):
            origin = str
        found += [origin] if origin in _KINDS else []
    return found or [str]


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
