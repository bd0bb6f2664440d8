"""The text that a supervised phase learns of each row."""

from typing import Any

from datasets import Dataset, IterableDataset

from ..data.schema import count_objects, require_few_objects
from ..generation.box_targets import BoxTargets
from ..models.processing_aurora import AuroraProcessor
from ..prompts import teacher_target
from .streamed_rows import require_target, streamed_rows


def longest_answer(dataset: Dataset, processor: AuroraProcessor, boxes: BoxTargets | None = None) -> int:
    """
    The longest answer of a dataset, in tokens: what its rows begin with, what they teach, and the end of turn.

    Args:
        dataset (`Dataset`): rows with targets.
        processor (`AuroraProcessor`): has the tokenizer.
        boxes (`BoxTargets`, *optional*): what will write boxes into the answers.
    """
    names = ("id", "prefill", "target", *(("class_name",) if boxes else ()))
    columns = [name for name in names if name in dataset.column_names]
    texts = {
        (row.get("prefill"), row["target"], row.get("class_name")): row for row in dataset.select_columns(columns)
    }
    for row in texts.values():
        processor.require_plain_answer(row)
    rows = texts.values() if boxes is None else map(boxes.longest, texts.values())
    return max(sum(map(len, processor.answer_ids(row))) for row in rows)


def with_targets(dataset: Any, targets: str, max_objects: int = 1) -> Any:
    """
    The dataset with the text to learn in `target`.

    Args:
        dataset (`Dataset` or `IterableDataset`): rows.
        targets (`str`): `"row"`, `"answer"` or `"class"`, see [`AuroraSFTConfig`].
        max_objects (`int`, *optional*, defaults to 1): how many objects an answer may have.

    Raises:
        `DataError`: names the first row whose target is missing or holds no `[SEG]`, or that is about too many
            objects. A null row may say that nothing fits instead.
    """
    if isinstance(dataset, IterableDataset):
        return streamed_rows(dataset, targets, max_objects)
    about = [name for name in ("id", "class_name", "is_null", "masks", "num_objects") if name in dataset.column_names]
    rows = dataset.select_columns(about)
    require_few_objects(rows, max_objects)
    if targets != "row":
        columns = [name for name in dataset.column_names if name not in ("target", "prefill")]
        return dataset.select_columns(columns).add_column(
            "target", [teacher_target(row, targets, count_objects(row)) for row in rows]
        )
    for row_id, target, is_null in zip(dataset["id"], dataset["target"], dataset["is_null"], strict=True):
        require_target(row_id, target, is_null)
    return dataset
