"""Boxes and points as text: what a model that writes them must write, and how its answers are read.

The format is the one that Qwen's vision models are trained on: a JSON list at the end of the answer, with `bbox_2d`,
`point_2d` or both for each object. The numbers are in the policy's own coordinates, which only its processor knows.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Where a list, or a single entry, may begin.
_BEGINS = re.compile(r"\[\s*\{|\{")
_FENCE = re.compile(r"\s*```\s*$")
_FENCED = re.compile(r"\s*```(?:json)?\s*$")
# More is no place in a picture.
_MOST = 1_000_000


@dataclass(frozen=True)
class WrittenBox:
    """
    An entry of an answer's list.

    Attributes:
        box (`tuple[float, float, float, float]` or `None`): left, top, right, bottom, in the policy's coordinates.
        point (`tuple[float, float]` or `None`): x and y of a place on the object.
        label (`str`): what the object is called.
        frame (`int` or `None`): the number, from 0, among the frames that the model takes; None: all of them.
    """

    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    label: str = ""
    frame: int | None = None


# What is written about an object: one entry for all frames, or one for each frame that is named.
WrittenObject = tuple[WrittenBox, ...]


def write_boxes(entries: Sequence[WrittenBox]) -> str:
    """The list of an answer, in whole numbers: `[{"bbox_2d": [8, 16, 40, 60], "label": "dog"}]`."""
    written = []
    for entry in entries:
        values: dict[str, Any] = {} if entry.frame is None else {"frame": entry.frame}
        if entry.box is not None:
            values["bbox_2d"] = [round(value) for value in entry.box]
        if entry.point is not None:
            values["point_2d"] = [round(value) for value in entry.point]
        written.append({**values, **({"label": entry.label} if entry.label else {})})
    return json.dumps(written, ensure_ascii=False)


def read_boxes(text: str, num_frames: int = 1, max_objects: int = 1) -> list[WrittenObject] | None:
    """
    The objects that an answer ends with.

    Entries that name no frame are an object each. Entries that name frames, have the same label and give the same
    (box, point or both) are one object, as long as they name different frames.

    Args:
        text (`str`): what the model wrote.
        num_frames (`int`, *optional*, defaults to 1): frames that the model takes of a clip.
        max_objects (`int`, *optional*, defaults to 1): how many objects an answer may have.

    Returns:
        `list[tuple[WrittenBox, ...]]`: at least one object; None where the text does not end with such a list, where
        an entry of it is not well formed or names a frame that there is not, or where there are too many objects.
    """
    text = text.rstrip().removesuffix("</answer>").rstrip()
    text = _FENCE.sub("", text) if text.endswith("```") else text
    listed = _list_at_the_end(text)
    if listed is None:
        return None
    entries = [_read_entry(value, num_frames) for value in listed[1]]
    known = [entry for entry in entries if entry is not None]
    objects = _objects(known)
    return objects if known and len(known) == len(entries) and len(objects) <= max_objects else None


def strip_boxes(text: str) -> str:
    """A text without the list that it ends with, whatever its entries hold."""
    ends = text.rstrip()
    fenced = ends.endswith("```")
    inner = _FENCE.sub("", ends) if fenced else ends
    listed = _list_at_the_end(inner)
    if listed is None:
        return text
    before = inner[: listed[0]]
    return (_FENCED.sub("", before) if fenced else before).strip()


def _list_at_the_end(text: str) -> tuple[int, list[Any]] | None:
    """Where the JSON begins that a text ends with, and its entries; None where it ends with no list of mappings."""
    text = text.rstrip()
    if not text.endswith(("]", "}")):
        return None
    for begin in _BEGINS.finditer(text):
        try:
            value = json.loads(text[begin.start() :])
        except (ValueError, RecursionError):
            continue
        entries = value if isinstance(value, list) else [value]
        return (begin.start(), entries) if all(isinstance(entry, dict) for entry in entries) else None
    return None


def _objects(entries: Sequence[WrittenBox]) -> list[WrittenObject]:
    objects: list[list[WrittenBox]] = []
    for entry in entries:
        same = (group for group in objects if entry.frame is not None and _continues(group, entry))
        group = next(same, None)
        if group is None:
            objects.append([entry])
        else:
            group.append(entry)
    return [tuple(group) for group in objects]


def _continues(group: Sequence[WrittenBox], entry: WrittenBox) -> bool:
    """Whether an entry is about the object of a group, in another frame."""

    def kind(one: WrittenBox) -> tuple[Any, ...]:
        return one.label, one.box is None, one.point is None

    return kind(group[0]) == kind(entry) and all(other.frame not in (None, entry.frame) for other in group)


def _read_entry(value: Any, num_frames: int) -> WrittenBox | None:
    """An entry as it should be, or None."""
    box, point, frame = value.get("bbox_2d"), value.get("point_2d"), value.get("frame")
    if (box is None and point is None) or not _are_numbers(box, 4) or not _are_numbers(point, 2):
        return None
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        return None
    if frame is not None and (not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < num_frames):
        return None
    label = value.get("label")
    return WrittenBox(
        None if box is None else tuple(map(float, box)),  # type: ignore[arg-type]
        None if point is None else tuple(map(float, point)),  # type: ignore[arg-type]
        label.strip() if isinstance(label, str) else "",
        frame,
    )


def _are_numbers(values: Any, count: int) -> bool:
    """Whether a value is missing, or a list of so many numbers."""
    if values is None:
        return True
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _MOST for v in values)
    )
