"""Paths into the folder that a chain is written for: where it writes elsewhere, they are meant to lie there."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..shell_paths import in_texts

# A path, or one behind `--flag=`, `NAME=` or `synthetic:`.
_WORD = re.compile(r"((?:[\w-]+=)?(?:[\w-]+:)?)(.*)", re.S)


class MovedPaths:
    """
    Moves the paths of a chain to the folder that is used.

    Args:
        written (`Iterable[str]`): the `output_dir` of the chain and of all that it includes.
        used (`str`): the folder that is written to.
        made (`Iterable[str]`): what the steps make in it. Where a folder is the current one, or holds it, every word
            may be a path in it: there only these move.
    """

    def __init__(self, written: Iterable[str], used: str, made: Iterable[str]):
        self._used, self._made = used, [Path(path) for path in made]
        self._used_at, here = os.path.abspath(used), Path.cwd()
        names = {os.path.abspath(folder): str(Path(folder)) for folder in written}
        # The innermost first: one chain's folder may lie in another's.
        self._folders = [Path(place) for place in sorted({*names, self._used_at}, key=len, reverse=True)]
        self._broad = {place for place in self._folders if place in (here, *here.parents)}
        self._inside_texts = [
            re.compile(rf"(?<![\w./-])(?:\./)?{re.escape(form)}" + (r"(?![\w.-])" if "/" in form else "/"))
            for place, name in names.items()
            if place != self._used_at and Path(place) not in self._broad
            for form in {place, name}
        ]

    def move(self, value: Any, where: str, to: str | None = None) -> Any:
        """
        A value of a YAML, or a word of a command, with all its paths moved.

        Args:
            value (`Any`): a text, or what holds some.
            where (`str`): the file and step, for errors.
            to (`str`, *optional*): put in the folder's place, such as `{output_dir}` (default: the folder used).

        Raises:
            `DataError`: for a text that names the folder somewhere inside.
        """
        return in_texts(value, lambda text: self._move_text(text, where, self._used if to is None else to))

    def _move_text(self, text: str, where: str, to: str) -> str:
        named = _WORD.fullmatch(text)
        heads = ["", named[1]] if named and named[1] else [""]
        for head in heads:
            folder, rest = self._place(text[len(head) :])
            if folder == self._used_at:
                return text
            if folder is not None:
                self._require_moved(rest, text, where)
                return f"{head}{to}/{rest}" if rest else f"{head}{to}"
        self._require_moved(text, text, where)
        return text

    def _place(self, path: str) -> tuple[str | None, str]:
        """The folder that a path lies in, and where in it."""
        place = Path(os.path.abspath(path)) if path.strip() else None
        for folder in self._folders:
            if place is not None and place.is_relative_to(folder):
                rest = place.relative_to(folder)
                if folder not in self._broad or any(rest.is_relative_to(made) for made in self._made):
                    return str(folder), "" if rest == Path() else str(rest)
        return None, ""

    def _require_moved(self, left: str, text: str, where: str) -> None:
        found = next((match for match in (form.search(left) for form in self._inside_texts) if match), None)
        if found is not None:
            raise DataError(
                f"{where}: {text!r} names {found[0].rstrip('/')} inside a text, and the chain writes to {self._used}: "
                "write {output_dir} there, in `run` or `set`"
            )
