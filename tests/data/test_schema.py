"""Datasets that were made in Python: a trainer looks at what their columns are before it takes them."""

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from aurora_trl.data import DataError
from aurora_trl.data.schema import as_dataset, check_row
from aurora_trl.training.streamed_rows import streamed_rows
from aurora_trl.training.trainer_inputs import require_rows

ROW = {"id": "1", "reference": "the drum", "is_null": False, "frames": ["a.png"], "masks": ["m.png"]}


def bad(columns, said):
    return pytest.param(columns, said, id=f"{columns}"[:40])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        bad({"is_null": "False"}, "row '1': `is_null` is 'False'; it must be true or false"),
        bad({"is_null": float("nan")}, "row '1': `is_null` is nan; it must be true or false"),
        bad({"mask_value": "1"}, "row '1': `mask_value` is str, not int"),
        bad({"num_objects": "2"}, "row '1': `num_objects` is str, not int"),
        bad({"reference": 5}, "row '1': `reference` is int, not str"),
        bad({"reference": " \u200b "}, "row '1': the reference is empty"),
        bad({"frames": "a.png"}, "row '1': `frames` is str, not list"),
        bad({"masks": np.ones((1, 4, 4), int).tolist()}, r"row '1': `masks` holds \[\[1, 1, 1, 1\], .*, not str"),
        bad({"boxes": ["[1, 2, 3, 4]"]}, "row '1': `boxes` holds"),
    ],
)
def test_columns_of_another_kind_are_named(columns, said):
    rows = [ROW, {**ROW, **columns}] if isinstance(columns.get("reference"), str) else [{**ROW, **columns}]
    with pytest.raises(DataError, match=said):
        require_rows(Dataset.from_list(rows), None)
    with pytest.raises(DataError, match=said):
        require_rows(as_dataset([ROW], "test"), {"some": Dataset.from_list(rows)})
    stream = IterableDataset.from_generator(lambda: iter(rows))
    with pytest.raises(DataError, match=said):
        list(streamed_rows(stream, "answer", 1))


def test_columns_that_are_no_text_and_names_that_are_taken():
    for columns, said in (
        ({"masks": [{"size": [1, 1], "counts": [1]}]}, "`train_dataset`: its column `masks` is of dict"),
        ({"audio": {"array": [0.0], "sampling_rate": 16000}}, "`train_dataset`: its column `audio` is of dict"),
        ({"prompt": "hello"}, "`train_dataset`: `prompt` is what the trainer gives to rewards"),
        ({"mask_quality": 1.0}, "`train_dataset`: `mask_quality` is what the trainer gives to rewards"),
    ):
        with pytest.raises(DataError, match=said):
            require_rows(Dataset.from_list([{**ROW, **columns}]), None)
    with pytest.raises(DataError, match="`train_dataset` has no column `reference`"):
        require_rows(Dataset.from_list([{"messages": "x"}]), None)


def test_what_fits_is_taken():
    fits = [{"is_null": 0}, {"id": 7}, {"masks": [None]}, {"class_name": None, "difficulty": 3}, {"mask_value": 2}]
    for columns in fits:
        require_rows(Dataset.from_list([{**ROW, **columns}]), None)


def test_there_is_a_mask_of_all_that_is_an_object_for_each_frame():
    check_row({**ROW, "foreground_masks": ["m.png"]})
    with pytest.raises(DataError, match="row '1': 2 `foreground_masks` for 1 frames"):
        check_row({**ROW, "foreground_masks": ["m.png"] * 2})
