"""The text that a supervised phase learns of each row."""

from datasets import Dataset

from ..data.schema import count_objects, require_few_objects
from ..errors import DataError
from ..models.processing_aurora import AuroraProcessor
from ..prompts import SEG_TOKEN, is_null_answer, teacher_target


def longest_answer(dataset: Dataset, processor: AuroraProcessor) -> int:
    """The longest answer of a dataset, in tokens: what its rows begin with, what they teach, and the end of turn."""
    columns = [name for name in ("id", "prefill", "target") if name in dataset.column_names]
    texts = {(row.get("prefill"), row["target"]): row for row in dataset.select_columns(columns)}
    for row in texts.values():
        processor.require_plain_answer(row)
    return max(sum(map(len, processor.answer_ids(row))) for row in texts.values())


def with_targets(dataset: Dataset, targets: str, max_objects: int = 1) -> Dataset:
    """
    The dataset with the text to learn in `target`.

    Args:
        dataset (`Dataset`): rows.
        targets (`str`): `"row"`, `"answer"` or `"class"`, see [`AuroraSFTConfig`].
        max_objects (`int`, *optional*, defaults to 1): how many objects an answer may have.

    Raises:
        `DataError`: names the first row whose target is missing or holds no `[SEG]`, or that is about too many
            objects. A null row may say that nothing fits instead.
    """
    about = [name for name in ("id", "class_name", "is_null", "masks", "num_objects") if name in dataset.column_names]
    rows = dataset.select_columns(about)
    require_few_objects(rows, max_objects)
    if targets != "row":
        columns = [name for name in dataset.column_names if name not in ("target", "prefill")]
        return dataset.select_columns(columns).add_column(
            "target", [teacher_target(row, targets, count_objects(row)) for row in rows]
        )
    for row_id, target, is_null in zip(dataset["id"], dataset["target"], dataset["is_null"], strict=True):
        if not target or (SEG_TOKEN not in target and not (is_null and is_null_answer(target))):
            raise DataError(
                f"row {row_id!r}: its target {'is missing' if not target else 'holds no ' + SEG_TOKEN}; write it with "
                "`aurora annotate`, or set `targets: answer` to learn masks alone"
            )
    return dataset
