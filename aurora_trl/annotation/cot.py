"""Chain-of-thought targets for supervised fine-tuning (AURORA, section 3.1)."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..prompts import cot_target
from .annotators import Annotator


def annotate_rows(
    rows: Iterable[dict[str, Any]], annotator: Annotator, *, style: str = "flexible", seed: int = 0
) -> Iterator[dict[str, Any]]:
    """
    Rows with a chain of thought as `target`.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        annotator (`Annotator`): writes the reasoning.
        style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"` (AURORA, table 8).
        seed (`int`, *optional*, defaults to 0): of order and wording.

    Yields:
        `dict`: new rows.
    """
    for row in rows:
        yield {**row, "target": cot_target(annotator.reasoning(row, style=style, seed=seed))}
