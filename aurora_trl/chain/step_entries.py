"""What the entries of a chain's `steps` may hold."""

import re
import shlex
from pathlib import Path
from typing import Any

from ..errors import DataError

STEP_KEYS = {"name", "run", "train", "config", "set", "accelerate", "most_processes", "makes", "needs", "minutes"}
# Outside quotes: what chains commands, and what redirects them.
_SHELL_WORD = re.compile(r"&&?|\|\|?|[^\s\\'\"]*;|\d*[<>]{1,2}[^\s'\"]*")


def check_entry(file: Path, entry: Any) -> str:
    """
    The name of a step whose keys are known and hold what they should.

    Args:
        file (`Path`): the chain's YAML, for errors.
        entry (`Any`): one of its `steps`.

    Raises:
        `DataError`: names the step and the key.
    """
    if not isinstance(entry, dict):
        raise DataError(f"{file}: a step is a mapping of keys to values, not {entry!r}")
    name = entry.get("name")
    unknown = sorted(map(str, set(entry) - STEP_KEYS))
    if not name or unknown or "makes" not in entry or ("run" in entry) == ("train" in entry):
        raise DataError(
            f"{file}: step {name!r}: needs `name`, `makes` and either `run` or `train` with `config`"
            + (f"; unknown key `{unknown[0]}`" if unknown else "")
        )
    if not isinstance(name, str) or re.fullmatch(r"\w[\w.-]*", name) is None:
        raise DataError(f"{file}: step {name!r}: `name` must be a word, which a file is named by")
    if not isinstance(entry.get("set") or {}, dict) or ("set" in entry and "run" in entry):
        raise DataError(f"{file}: step `{name}`: `set` is a mapping of keys to values, of a step that trains")
    for key in ("makes", "run", "train", "config", "accelerate"):
        left_out = entry.get(key) is None and key in ("config", "accelerate")
        if key in entry and not left_out and not (isinstance(entry[key], str) and entry[key]):
            raise DataError(f"{file}: step `{name}`: `{key}` must be a text, got {entry[key]!r}")
    makes = Path(entry["makes"])
    if makes.is_absolute() or ".." in makes.parts or not makes.name or "{" in entry["makes"]:
        raise DataError(
            f"{file}: step `{name}`: `makes` must be inside `output_dir`, written without it, got {str(makes)!r}"
        )
    needs, minutes = entry.get("needs") or [], entry.get("minutes", 1)
    if not isinstance(needs, list) or not all(isinstance(other, str) for other in needs):
        raise DataError(f"{file}: step `{name}`: `needs` must be a list of steps' names, got {needs!r}")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 <= minutes < float("inf"):
        raise DataError(f"{file}: step `{name}`: `minutes` must be a number, got {minutes!r}")
    return name


def require_no_shell(where: str, text: str) -> None:
    """Raise `DataError` for what only a shell understands: a command would get it as one more argument."""
    words = shlex.shlex(text, posix=False)  # which leaves quotes where they are
    words.whitespace_split, words.commenters = True, ""
    found = next((word for word in words if _SHELL_WORD.fullmatch(word)), None)
    if found is not None:
        raise DataError(
            f"{where}: `run` holds {found!r}, and is no line of a shell: write two steps, or `sh -c '…'` around it"
        )
