"""The files of a step: what it makes, what its flags name besides, and what a data command leaves beside both."""

import glob
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from ..errors import DataError
from ..journal import beside

# Flags of a data command that name files which it writes.
_WRITTEN_BY_FLAGS = {"annotate": ("--output",), "mine": ("--output",), "correct": ("--output", "--corrected")}


class StepFiles(Protocol):
    """What is to be known of a step: its name, what it makes, what else it writes."""

    name: str
    makes: Path
    writes: list[Path]


def option(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag on a command line, the last where it comes twice; None where it is not given."""
    value = None
    for word, after in pairwise([*words, None]):
        if word == flag and after is not None:
            value = after
        elif word is not None and word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def further_files(words: Sequence[str], makes: Path) -> list[Path]:
    """
    What a command writes besides what its step `makes`.

    Args:
        words (`Sequence[str]`): the command.
        makes (`Path`): of its step.
    """
    pairs = pairwise(words)
    command = next((after for word, after in pairs if word == "aurora_trl.cli" or Path(word).name == "aurora"), "")
    named = [option(words, flag) for flag in _WRITTEN_BY_FLAGS.get(command, ())]
    return [Path(name) for name in named if name is not None and _place(Path(name)) != _place(makes)]


def own_files(step: StepFiles, others: Sequence[StepFiles]) -> list[Path]:
    """
    All files of a step that may be there: what it makes, what else it writes, and what stands beside these.

    Args:
        step (`StepFiles`): of a chain.
        others (`Sequence[StepFiles]`): the chain's steps, whose files are not the step's own whatever they are called.
    """
    written = [step.makes, *step.writes]
    of_others = {
        _place(path)
        for other in others
        if other.name != step.name
        for made in (other.makes, *other.writes)
        for path in (made, *_beside(made))
    }
    found = [path for made in written for path in (*_beside(made), *_parts(made)) if _place(path) not in of_others]
    return [*written, *found]


def require_apart(file: Path, steps: Sequence[StepFiles]) -> None:
    """
    Raise `DataError` where a step would write what another makes, or in it: one would take the other's result away.

    Args:
        file (`Path`): the chain's YAML, for the error.
        steps (`Sequence[StepFiles]`): of the chain.
    """
    makers: dict[Path, StepFiles] = {}
    for step in steps:
        for path in (step.makes, *step.writes):
            other = makers.setdefault(_place(path), step)
            if other is not step:
                raise DataError(f"{file}: steps `{other.name}` and `{step.name}` both write {path}; name another")
    for place, step in makers.items():
        other = next((makers[parent] for parent in place.parents if parent in makers), step)
        if other is not step:
            raise DataError(
                f"{file}: step `{step.name}` writes {os.path.relpath(place)} inside what step `{other.name}` makes, "
                "which is moved away where that one runs again; name another place"
            )


def _place(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _beside(path: Path) -> list[Path]:
    """What `aurora annotate`, `mine` and `correct` leave beside a JSONL file, and steps of one's own like them."""
    if path.suffix != ".jsonl":
        return []
    return [beside(path, "journal"), beside(path, "failed"), beside(path, "report", ".json")]


def _parts(path: Path) -> list[Path]:
    """The journals of a run's other processes, which it has not taken up yet."""
    pattern = beside(path.with_name(glob.escape(path.name)), "part-*.journal").name
    found = path.parent.glob(pattern) if path.suffix == ".jsonl" else ()
    return [part for part in found if part.name.removeprefix(f"{path.stem}.part-").split(".")[0].isdecimal()]
