"""Rows that come one after the other: each is checked when it comes."""

from functools import partial

from datasets import IterableDataset

from ..data.schema import COLUMNS, Row, check_row, count_objects, require_few_objects
from ..errors import DataError
from ..prompts import SEG_TOKEN, is_null_answer, teacher_target


def streamed_rows(dataset: IterableDataset, targets: str, max_objects: int) -> IterableDataset:
    """
    A stream of rows with all columns of the schema, and the text to learn in `target`.

    Args:
        dataset (`IterableDataset`): rows, in which columns may be missing.
        targets (`str`): `"row"`, `"answer"` or `"class"`, see [`AuroraSFTConfig`].
        max_objects (`int`): how many objects an answer may have.

    Raises:
        `DataError`: when such a row comes, as `with_targets` does for a whole dataset.
    """
    return dataset.map(partial(_complete, targets=targets, max_objects=max_objects))


def _complete(row: Row, targets: str, max_objects: int) -> Row:
    row = {**dict.fromkeys(COLUMNS), **row}
    check_row(row)
    require_few_objects([row], max_objects)
    if targets == "row":
        require_target(row["id"], row["target"], row["is_null"])
        return row
    return {**row, "prefill": None, "target": teacher_target(row, targets, count_objects(row))}


def require_streamable(**wanted: object) -> None:
    """Raise `ValueError` for the first option that is set and needs all rows beforehand."""
    for name, value in wanted.items():
        if value:
            raise ValueError(f"`{name}` has to know all rows before training; leave it out, or do not stream them")


def require_target(row_id: str, target: str | None, is_null: bool | None) -> None:
    """Raise `DataError` where a row's text to learn is missing or holds no `[SEG]`; a null row's need not."""
    if not target or (SEG_TOKEN not in target and not (is_null and is_null_answer(target))):
        raise DataError(
            f"row {row_id!r}: its target {'is missing' if not target else 'holds no ' + SEG_TOKEN}; write it with "
            "`aurora annotate`, or set `targets: answer` to learn masks alone"
        )
