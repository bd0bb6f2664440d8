"""
What marks an object without drawing it: a box or points in a frame. Rows may have them in place of masks.

| column | what |
| --- | --- |
| `boxes` | one per frame: `[x1, y1, x2, y2]` in pixels, `[]` where the object is not in it, null for one without |
| `points` | one per frame: a list of `[x, y]` on the object, or `[x, y, 0]` off it; or null |
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError

HINTS = ("boxes", "points")
UNMARKED = (
    "it has no masks, boxes or points; mark its object, leave it out, or set `allow_unmarked_rows` to learn from its "
    "text alone"
)
_BOX, _POINT = 4, (2, 3)


def check_hints(row: dict[str, Any]) -> None:
    """Raise `DataError` where a row's boxes or points are not what they should be."""
    for name in HINTS:
        values, frames = row.get(name), row.get("frames")
        if values is None:
            continue
        if frames and len(values) != len(frames):
            raise DataError(
                f"row {row.get('id')!r}: {len(values)} `{name}` for {len(frames)} frames; give one per frame, null "
                "for one that is not annotated"
            )
        for value in values:
            fault = None if value is None else _box_fault(value) if name == "boxes" else _points_fault(value)
            if fault is not None:
                raise DataError(f"row {row.get('id')!r}: `{name}` holds {value!r}; {fault}")


def _box_fault(box: Any) -> str | None:
    if not isinstance(box, list) or len(box) not in (0, _BOX) or not _finite(box):
        return "a box is [x1, y1, x2, y2] in pixels, or [] where the object is not in the frame"
    if box and not (box[0] < box[2] and box[1] < box[3]):
        return "a box goes from its upper left corner to its lower right one"
    return _share_fault(box)


def _points_fault(points: Any) -> str | None:
    whole = isinstance(points, list) and all(isinstance(point, list) for point in points)
    if not whole or not all(len(point) in _POINT and _finite(point) for point in points):
        return "points are a list of [x, y] in pixels, or [x, y, 0] for one off the object"
    if any(point[2:] not in ([], [0], [1]) for point in points):
        return "the third number of a point is 1 on the object, or 0 off it"
    return _share_fault([value for point in points for value in point[:2]])


def _share_fault(places: Sequence[float]) -> str | None:
    if all(0 <= v <= 1 for v in places) and any(0 < v < 1 for v in places):
        return "give places in pixels, not as shares of the frame"
    return None


def _finite(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def is_marked(row: dict[str, Any]) -> bool:
    """Whether a row has a mask, a box or points in any frame, or is known to match nothing."""
    drawn = any(mask is not None for mask in row.get("masks") or ())
    return drawn or bool(row.get("is_null")) or any(v is not None for name in HINTS for v in row.get(name) or ())


def marks_something(row: dict[str, Any], name: str) -> bool:
    """Whether a row's `boxes` or `points` say that an object is in any frame; a point off it does not."""
    values = [value for value in row.get(name) or () if value]
    return any(name == "boxes" or any(point[2:] != [0] for point in value) for value in values)


def has_hints(dataset: Any, names: Sequence[str]) -> bool:
    """
    Whether any row is marked in any frame.

    Args:
        dataset (`Dataset` or `IterableDataset`): rows; of a stream the first one alone is looked at, for its columns.
        names (`Sequence[str]`): of `HINTS`, those that count.
    """
    if not hasattr(dataset, "__len__"):
        return any(name in row for row in dataset.take(1) for name in names)
    known = [name for name in names if name in dataset.column_names]
    return any(value for name in known for values in dataset[name] for value in values or ())


def hinted_frames(row: dict[str, Any]) -> Sequence[Any]:
    """One entry per frame, not None where it has a box or points; empty where no frame has."""
    columns = [row[name] for name in HINTS if row.get(name)]
    if not columns:
        return ()
    return [next((value for value in values if value is not None), None) for values in zip(*columns, strict=False)]


def require_inside(row: dict[str, Any], size: tuple[int, int]) -> None:
    """
    Raise `DataError` where a row's box or point lies outside its frame.

    Args:
        row (`dict`): a dataset row, which `check_hints` has seen.
        size (`tuple[int, int]`): height and width of the frames, in pixels.
    """
    height, width = size
    for box in row.get("boxes") or ():
        if box and not (box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0):
            raise DataError(f"row {row.get('id')!r}: the box {box} lies outside the frame of {width}x{height} pixels")
    for point in (point for points in row.get("points") or () for point in points or ()):
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise DataError(
                f"row {row.get('id')!r}: the point {point[:2]} lies outside the frame of {width}x{height} pixels"
            )


def leaves_frame(row: dict[str, Any], size: tuple[int, int]) -> list[float] | None:
    """
    The first box of a row that goes beyond its frame by more than the pixel that rounding costs.

    Args:
        row (`dict`): a dataset row.
        size (`tuple[int, int]`): height and width of the frames, in pixels.
    """
    height, width = size
    boxes = (box for box in row.get("boxes") or () if box)
    return next((b for b in boxes if min(b[:2]) < -1 or b[2] > width + 1 or b[3] > height + 1), None)


def box_around(mask: np.ndarray) -> list[float] | None:
    """The box `[x1, y1, x2, y2]` around a mask `(H, W)`, in pixels; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def box_iou(box: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes with an inside."""
    sides = (min(a2, b2) - max(a1, b1) for a1, b1, a2, b2 in zip(box[:2], other[:2], box[2:], other[2:], strict=True))
    shared = math.prod(max(side, 0.0) for side in sides)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    return shared / (sum(areas) - shared)


def fill_boxes(boxes: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """
    Boxes as filled rectangles.

    Args:
        boxes (`list`): one per frame, see the module; a frame that is not annotated is empty.
        size (`tuple[int, int]`): height and width of the frames, in pixels.

    Returns:
        `np.ndarray` of shape `(T, H, W)`, uint8, 0 or 1: every pixel that a box touches.
    """
    planes = np.zeros((len(boxes), *size), np.uint8)
    for plane, box in zip(planes, boxes, strict=True):
        if box:
            left, top = (max(math.floor(v), 0) for v in box[:2])
            plane[top : math.ceil(box[3]), left : math.ceil(box[2])] = 1
    return planes
