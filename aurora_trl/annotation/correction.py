"""Corrected paths for hard samples (AURORA, section 3.2)."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..prompts import cot_target, extract_class, normalize_class, strip_answer
from .annotators import Annotator


def correct_rows(
    hard_rows: Iterable[dict[str, Any]], annotator: Annotator
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """
    Let an annotator correct what a model wrote; a correction that still names another class is left out.

    Args:
        hard_rows (`Iterable[dict]`): rows whose `target` is the wrong path, as `mine_hard_rows` yields them.
        annotator (`Annotator`): corrects them.

    Yields:
        `tuple[dict, dict]`: the hard row, and the same row with the corrected path as `target`.
    """
    for row in hard_rows:
        corrected = annotator.correct(row, strip_answer(row["target"]))
        if extract_class(corrected) == normalize_class(row["class_name"]):
            yield row, {**row, "target": cot_target(corrected)}
