"""Paths as people write them for a shell, with `~` and variables, in files that no shell reads."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DataError

_HOME = re.compile(r"(--[\w-]+=)?(~\w*)(?=/|$)")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value of a YAML with all its texts changed, those of its lists and mappings too; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: in_texts(entry, change) for key, entry in value.items()}
    return [in_texts(entry, change) for entry in value] if isinstance(value, list) else value


def expand_paths(value: Any, where: str | Path) -> Any:
    """
    A value of a YAML, or a list of words, with `~` and variables filled in as a shell does.

    Args:
        value (`Any`): a text, or what holds some. A text with blanks is a sentence or a script: of it `~/` and a
            variable before a `/` count, where it begins with them.
        where (`str` or `Path`): the file, for the error.

    Raises:
        `DataError`: names a variable that is not set.
    """
    return in_texts(value, lambda text: _expand(text, where))


def expand_home(text: str) -> str:
    """A path, or one behind `--flag=`, which a shell leaves as it is, with `~` filled in."""
    home = _HOME.match(text)
    return text if home is None else f"{home[1] or ''}{os.path.expanduser(text[home.start(2) :])}"


def _expand(text: str, where: str | Path) -> str:
    text = expand_home(text)
    if not any(letter.isspace() for letter in text):
        return _VARIABLE.sub(lambda match: _value(match, text, where), text)
    head = _VARIABLE.match(text)
    return text if head is None or text[head.end()] != "/" else _value(head, text, where) + text[head.end() :]


def _value(match: re.Match[str], text: str, where: str | Path) -> str:
    name = match[1] or match[2]
    if name not in os.environ:
        raise DataError(f"{where}: {text!r}: the environment variable {name} is not set; export it, or write the path")
    return os.environ[name]
