"""Which rows are about the same object."""

from collections.abc import Sequence
from typing import Any

import torch

from .hints import HINTS
from .schema import Row, clip_key

SAME_OBJECT, OTHER_OBJECT, NOT_COMPARED = 1, -1, 0


def object_key(row: Row) -> tuple[Any, ...] | None:
    """
    What makes two rows be about the same object: their clip, and what marks the object there.

    Args:
        row (`dict`): a dataset row.

    Returns:
        `tuple` or `None`: None where nothing is marked, or nothing matches.
    """
    marks = tuple(str(row[name]) for name in ("masks", *HINTS) if any(row.get(name) or ()))
    if row.get("is_null") or not marks:
        return None
    return (*clip_key(row), marks, row.get("mask_value"))


def relate_objects(rows: Sequence[Row]) -> torch.Tensor:
    """
    How the objects of each two rows are related.

    Args:
        rows (`list[dict]`): B dataset rows.

    Returns:
        `torch.Tensor` of shape `(B, B)`, int8: `SAME_OBJECT`, `OTHER_OBJECT`, or `NOT_COMPARED`: a row with itself,
        rows of which it is not known, and objects of one class in two clips, which may well look alike to a mask
        decoder. A reference that matches nothing is about another object than all that match something.
    """
    keys = [object_key(row) for row in rows]
    clips = [clip_key(row) for row in rows]
    relations = torch.zeros(len(rows), len(rows), dtype=torch.int8)
    for i, row in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            relations[i, j] = relations[j, i] = _relate(keys[i], keys[j], clips[i] == clips[j], row, other)
    return relations


def _relate(key: Any, other_key: Any, same_clip: bool, row: Row, other: Row) -> int:
    null, other_null = bool(row.get("is_null")), bool(other.get("is_null"))
    if (key is None and not null) or (other_key is None and not other_null) or (null and other_null):
        return NOT_COMPARED
    if key is not None and key == other_key:
        return SAME_OBJECT
    same_class = row.get("class_name") is None or row.get("class_name") == other.get("class_name")
    return OTHER_OBJECT if same_clip or not same_class else NOT_COMPARED
