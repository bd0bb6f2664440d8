"""Boxes and points of a row's masks, as the text that a policy learns to write in place of `It is [SEG].`"""

import json
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from ..box_text import WrittenBox, write_boxes
from ..data.hints import HINTS, box_around
from ..data.masks import load_masks, load_object_masks, mask_indices
from ..data.media.loading import MediaCache, taken_frames
from ..data.schema import Row
from ..models.processing_aurora import AuroraProcessor
from ..prompts import NULL_ANSWER, box_target, display_class

# No coordinate takes more digits.
_WIDEST = 9999.0
Value = TypeVar("Value")
# Left, top, right, bottom and a place on the object, in pixels of the frame.
Place = tuple[tuple[float, float, float, float] | None, tuple[float, float] | None]


class BoxTargets:
    """
    Writes the boxes of rows into their targets. Masks stay where they are: a dataset whose answers end with `It is
    [SEG].` serves all kinds of model.

    A row whose object is in none of the frames that the model takes learns to say that nothing fits. A model that
    writes boxes before its `[SEG]` keeps that row's target: an empty mask is asked for.

    Args:
        processor (`AuroraProcessor`): of a model that writes boxes.
        frames_per_object (`int`, *optional*, defaults to 1): for how many frames of a clip an answer gives the place
            of an object, evenly chosen among those that it is in.
        cache_rows (`int`, *optional*, defaults to 0): of how many rows the places are kept in memory.
    """

    def __init__(self, processor: AuroraProcessor, frames_per_object: int = 1, cache_rows: int = 0):
        self.processor = processor
        self.frames_per_object = frames_per_object
        self._places = MediaCache(cache_rows)
        self._with_seg = processor.mask_source == "both"

    def __call__(self, row: Row, clip: dict[str, torch.Tensor]) -> Row:
        """
        Args:
            row (`dict`): a row with a `target`, and with masks, boxes or points.
            clip (`dict`): its clip, see [`ClipLoader.clip`].

        Returns:
            `dict`: the row with another target.
        """
        key = (row.get("is_null"), row.get("mask_value"), *(row.get("masks") or ()), self._hint_key(row))
        objects = self._places.get(key, lambda: self._find_places(row))
        view, entries = self.processor.frame_view(clip), []
        label = display_class(row.get("class_name") or "")
        for places in objects:
            shown = [(number, place) for number, place in enumerate(places) if place is not None]
            for number, (box, point) in _spread(shown, self.frames_per_object):
                frame = number if self.processor.num_frames > 1 else None
                entries.append(_at_least_one(view.to_coordinates(WrittenBox(box, point, label, frame))))
        if not entries:
            return row if self._with_seg else {**row, "target": box_target(row["target"], NULL_ANSWER)}
        return {**row, "target": box_target(row["target"], write_boxes(entries), self._with_seg)}

    def _hint_key(self, row: Row) -> str:
        return json.dumps([row.get(name) for name in HINTS])

    def _find_places(self, row: Row) -> list[list[Place | None]]:
        """Of each object, its place in each frame that the model takes; None where it is not, or nobody knows."""
        if row.get("is_null"):
            return []
        if any(row.get("masks") or ()):
            indices = mask_indices(row, self.processor.num_frames)
            planes = load_object_masks(row, indices=indices)
            planes = load_masks(row, indices=indices)[None] if planes is None else planes
            return [[place_of(mask) for mask in each] for each in planes]
        taken = taken_frames(row, self.processor.num_frames)
        boxes, points = ([row[name][i] if row.get(name) else None for i in taken] for name in HINTS)
        on = [next((point[:2] for point in each or () if point[2:] != [0]), None) for each in points]
        return [
            [
                (tuple(box) if box else None, None if point is None else tuple(point)) if box or point else None
                for box, point in zip(boxes, on, strict=True)
            ]
        ]

    def longest(self, row: Row) -> Row:
        """The row with a target as long as that with its boxes can be, whatever its masks hold."""
        num_frames, label = self.processor.num_frames, display_class(row.get("class_name") or "")
        frame = num_frames - 1 if num_frames > 1 else None
        entry = WrittenBox((_WIDEST,) * 4, (_WIDEST,) * 2, label, frame)
        count = self.processor.max_objects * min(self.frames_per_object, num_frames)
        return {**row, "target": box_target(row["target"], write_boxes([entry] * count), self._with_seg)}


def place_of(mask: np.ndarray) -> Place | None:
    """The box around a mask `(H, W)`, and the middle of its pixel that is farthest from its edge; None for none."""
    box = box_around(mask)
    if box is None:
        return None
    inner = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return (box[0], box[1], box[2], box[3]), (float(x) + 0.5, float(y) + 0.5)


def _spread(values: Sequence[Value], count: int) -> list[Value]:
    """So many of the values, evenly chosen: the middle of each of as many equal parts."""
    if len(values) <= count:
        return list(values)
    return [values[int((i + 0.5) * len(values) / count)] for i in range(count)]


def _at_least_one(entry: WrittenBox) -> WrittenBox:
    """An entry in whole numbers, whose box has an inside."""
    if entry.box is None:
        return entry
    left, top, right, bottom = map(round, entry.box)
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    return WrittenBox(box, entry.point, entry.label, entry.frame)
