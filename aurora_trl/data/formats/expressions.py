"""References to objects in videos, as Ref-YouTube-VOS writes them, and MeViS and ReVOS after it."""

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...text_files import read_json
from ..json_values import Keys, Span, name_spans
from ..schema import COLUMNS, Row

EXPRESSIONS_FILE = "meta_expressions.json"
# How a row has the masks of several objects: as one, or each apart.
OBJECTS = ("together", "apart")
# The mask of a frame in which nothing is.
EMPTY_MASK = '{"polygons": []}'
# Of an object, where the mask of each frame stands in a file; None for a frame in which it is not.
Places = list[Span | None]


@dataclass(frozen=True)
class Expression:
    """
    A reference to objects of a video.

    Attributes:
        where (`str`): the file, the video and the expression, for errors.
        video (`str`): the video's folder.
        name (`str`): the expression's own name in its video.
        frames (`list[str]`): names of the video's frames in order; the same list for all its expressions.
        values (`dict`): what the file says of it.
    """

    where: str
    video: str
    name: str
    frames: list[str]
    values: dict[str, Any]

    @property
    def text(self) -> str:
        """The reference."""
        return str(self.values["exp"])

    def numbers(self, key: str) -> list[int]:
        """
        Numbers of objects or annotations; one may stand without a list.

        Raises:
            `DataError`: where there is none under this key.
        """
        values = self.values.get(key)
        values = values if isinstance(values, list) else [values]
        try:
            return [int(value) for value in values]
        except (TypeError, ValueError):
            raise DataError(f"{self.where}: `{key}` must be whole numbers, got {self.values.get(key)!r}") from None


def read_expressions(path: Path) -> Iterator[Expression]:
    """
    The references of a file such as `meta_expressions.json`.

    Args:
        path (`Path`): `{"videos": {VIDEO: {"frames": [...], "expressions": {NAME: {"exp": TEXT, ...}}}}}`.

    Raises:
        `DataError`: names the file, the video and the expression.
    """
    videos = read_json(path).get("videos")
    if not isinstance(videos, dict):
        raise DataError(f"{path}: it has no mapping `videos`; restore the official file")
    for video, content in videos.items():
        where = f"{path}, video {video!r}"
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
            raise DataError(f"{where}: `frames` must be the names of its frames; restore the official file")
        expressions = content.get("expressions")
        if not isinstance(expressions, dict):
            raise DataError(f"{where}: it has no mapping `expressions`; restore the official file")
        for name, values in expressions.items():
            text = values.get("exp") if isinstance(values, dict) else None
            if not isinstance(text, str):
                raise DataError(f"{where}, expression {name!r}: `exp` is missing, or is no text")
            yield Expression(f"{where}, expression {name!r}", video, name, frames, values)


def build_row(row_id: str, split: str, reference: str, **columns: Any) -> Row:
    """A row with these columns, and None in the others."""
    row = {**dict.fromkeys(COLUMNS), "id": row_id, "split": split, "reference": reference, "is_null": False}
    return {**row, **columns}


class FramePaths:
    """The paths of a video's frames, made once for all the rows that share them."""

    def __init__(self, folder: Path | str, suffix: str):
        self.folder, self.suffix = folder, suffix
        self._known: dict[str, list[str]] = {}

    def of(self, expression: Expression) -> list[str]:
        """In order."""
        if expression.video not in self._known:
            start = f"{self.folder}/{expression.video}"
            self._known[expression.video] = [f"{start}/{frame}{self.suffix}" for frame in expression.frames]
        return self._known[expression.video]


class MasksInFile:
    """
    The masks of rows by their places in a JSON file.

    Args:
        path (`Path`): the file.
        objects (`str`): one of `OBJECTS`: what a reference to several objects has as the mask of a frame.
    """

    def __init__(self, path: Path, objects: str):
        if objects not in OBJECTS:
            raise DataError(f"unknown way {objects!r} to have several objects; use {' or '.join(OBJECTS)}")
        self.path, self.objects = path, objects
        self._known: dict[Hashable, list[str]] = {}

    def of(self, key: Hashable, each: Sequence[Places], count: int, where: str) -> list[str]:
        """
        The mask of each frame, made once for all the rows about the same objects.

        Args:
            key (`Hashable`): names the objects.
            each (`Sequence[list]`): of each object, the places of its masks by frame.
            count (`int`): frames of the video.
            where (`str`): the row, for the error.

        Raises:
            `DataError`: where an object has more or fewer masks than the video has frames.
        """
        other = next((len(places) for places in each if len(places) != count), None)
        if other is not None:
            raise DataError(
                f"{where}: {self.path} has {other} masks for the {count} frames of its video; both must be of one "
                "download"
            )
        if key not in self._known:
            self._known[key] = [self._mask(spans) for spans in zip(*each, strict=True)]
        return self._known[key]

    def _mask(self, spans: Sequence[Span | None]) -> str:
        if self.objects == "apart" and len(spans) > 1:
            return json.dumps([span and name_spans(self.path, span) for span in spans])
        there = [span for span in spans if span is not None]
        return name_spans(self.path, *there) if there else EMPTY_MASK


def add_place(places: dict[str, Places], name: Hashable, keys: Keys, value: Any, span: Span, path: Path) -> None:
    """Keep where the next mask of a list stands; the last of its keys is the frame's number."""
    if len(keys) < 2 or not isinstance(keys[-1], int) or not isinstance(value, dict | None):
        raise DataError(f"{path}: not a list of run lengths for each annotation, at {'/'.join(map(str, keys))!r}")
    places.setdefault(str(name), []).append(None if value is None else span)


def require_split(split: str, known: list[str], path: Path, what: str) -> None:
    """Raise `DataError` where a dataset has no such split."""
    if split not in known:
        shown = f"it has {', '.join(known)}" if known else f"it has no {what}"
        raise DataError(f"{path}: no split {split!r}; {shown}")
