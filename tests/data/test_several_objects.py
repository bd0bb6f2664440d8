"""Rows about several objects: masks of each, or one of all together and their number."""

import json

import datasets
import numpy as np
import pytest
import torch
from layouts import SIZE, blob, write_image, write_mask, write_ms3
from PIL import Image

from aurora_trl.annotation import annotate_rows, build_reflective_rows, correct_rows
from aurora_trl.data import load_avsbench, load_json, load_parquet
from aurora_trl.data.formats.jsonl import save_json
from aurora_trl.data.formats.parquet import save_parquet
from aurora_trl.data.masks import NO_TARGET, encode_rle, load_masks, load_object_masks
from aurora_trl.data.schema import COLUMNS, FEATURES, count_objects
from aurora_trl.data.validation import find_problems
from aurora_trl.errors import DataError
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import RolloutCollator, SFTCollator, TeacherCollator
from aurora_trl.prompts import ends_with_answer

TEXT = "It is [SEG] and [SEG]."


def write_row(folder, **changes):
    """Two objects in three frames: a file and an outline, a file and nothing, and a frame that is not annotated."""
    for i in range(3):
        write_image(folder / f"{i}.jpg")
    for i in range(2):
        write_mask(folder / "masks" / f"{i}.png", blob(i, 255))
    outline = {"polygons": [[20, 15, 28, 15, 28, 20, 20, 20]]}
    row = {
        "id": "a",
        "reference": "both",
        "frames": ["0.jpg", "1.jpg", "2.jpg"],
        "masks": [["masks/0.png", outline], ["masks/1.png", None], None],
        "target": TEXT,
        **changes,
    }
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def test_masks_of_each_and_of_all(tmp_path):
    (row,) = load_json(write_row(tmp_path))
    assert count_objects(row) == 2
    apart = load_object_masks(row)
    assert apart.shape == (2, 3, *SIZE)
    assert np.array_equal(apart[0], np.stack([blob(0), blob(1), np.zeros(SIZE)]))
    assert apart[1].any(axis=(1, 2)).tolist() == [True, False, False]
    assert apart[1, 0].sum() == 9 * 6
    assert np.array_equal(load_masks(row), apart.max(axis=0))
    assert np.array_equal(load_object_masks(row, indices=[1, -1])[0], np.stack([blob(1), np.zeros(SIZE)]))
    # An object that no frame of these shows is empty in all of them, and so is a frame that shows none.
    (bare,) = load_json(write_row(tmp_path, masks=[["masks/0.png", None], [None, None], None]))
    assert not load_object_masks(bare)[1].any()
    assert not load_masks(bare)[1].any()
    (together,) = load_json(write_row(tmp_path, masks=["masks/0.png", "masks/1.png", None], num_objects=3))
    assert count_objects(together) == 3
    assert load_object_masks(together) is None


def test_targets_of_a_batch(tmp_path, processor):
    """In the model's geometry, with what is not annotated, not there or past the end marked."""
    rows = load_json(write_row(tmp_path)).to_list()
    loader = ClipLoader(processor.with_max_objects(3), cache_clips=1)
    targets = loader.object_masks(rows[0])
    assert targets.shape == (3, 10, 32, 32)
    present = (targets[..., 0, 0] != NO_TARGET).tolist()
    assert present == [[True, True] + [False] * 8] * 2 + [[False] * 10]
    assert torch.equal(targets[0, :2], processor.process_masks(np.stack([blob(0), blob(1)])))
    null = {**rows[0], "is_null": True, "num_objects": None}
    assert (loader.object_masks(null) == NO_TARGET).all()  # and not what is kept of the other row
    assert not (loader.masks(null)[:3] == 1).any()
    batch = SFTCollator(loader)([rows[0], null])
    assert batch["object_masks"].shape == (2, 3, 10, 32, 32)
    assert batch["seg_positions"].shape == (2, 3)
    assert (batch["seg_positions"] >= 0).sum(dim=1).tolist() == [2, 2]
    teacher = TeacherCollator(loader)(rows)
    assert teacher["seg_positions"].shape == (1,)
    assert teacher["input_ids"][0, teacher["seg_positions"][0]] == processor.seg_token_id
    (rollout,) = RolloutCollator(loader)(rows)
    assert torch.equal(rollout["media"].object_masks, targets)
    with pytest.raises(DataError, match="row 'a': it is about 2 objects, and `max_objects` is 1; raise it"):
        ClipLoader(processor).object_masks(rows[0])


def test_files_and_parquet_give_back_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = load_json(write_row(tmp_path / "data"))
    moved = load_json(save_json(rows, tmp_path / "elsewhere" / "rows.jsonl"))
    assert "../data/masks/0.png" in (tmp_path / "elsewhere" / "rows.jsonl").read_text()
    folder = save_parquet({"train": rows}, tmp_path / "pack")
    packed = load_parquet(folder, "train", media_dir=tmp_path / "media")
    assert str(tmp_path / "media") in packed[0]["masks"][0]
    for other in (moved[0], packed[0]):
        assert np.array_equal(load_object_masks(other), load_object_masks(rows[0]))
        assert other["masks"][2] is None
    # A table from before there was such a column.
    table = folder / "rows" / "train.parquet"
    datasets.Dataset.from_parquet(str(table)).remove_columns("num_objects").to_parquet(table)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache2")
    assert load_parquet(folder, "train", media_dir=tmp_path / "media")[0]["num_objects"] is None


WRONG = {
    "uneven": ({"masks": [["masks/0.png"], ["masks/0.png", None], None]}, "not every annotated frame lists the masks"),
    "mixed": ({"masks": [["masks/0.png", None], "masks/1.png", None]}, "not every annotated frame lists the masks"),
    "number": ({"num_objects": 3}, "`num_objects` is 3, and its frames list the masks of 2"),
    "none": ({"num_objects": 0}, "`num_objects` is 0; where nothing matches, set `is_null`"),
    "text": ({"num_objects": "2"}, "`num_objects` is str, not int"),
    "no masks": ({"masks": [[1, 2], None, None]}, "it holds paths, mappings or null, one for each object"),
    "empty": ({"masks": [[], [], None]}, "it holds paths, mappings or null"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(changes, message, tmp_path):
    with pytest.raises(DataError, match=rf"rows.jsonl, line 1: .*{message}"):
        load_json(write_row(tmp_path, **changes))


def test_check_data_reads_the_masks_of_each(tmp_path):
    (row,) = load_json(write_row(tmp_path))
    assert find_problems([row]) == []
    assert "`num_objects` is 5" in find_problems([{**row, "num_objects": 5}])[0].text
    small = json.dumps([str(tmp_path / "masks" / "0.png"), encode_rle(np.ones((4, 4), np.uint8))])
    found = find_problems([{**row, "masks": [small, None, None]}])
    assert [problem.kind for problem in found] == ["size"]
    nothing = json.dumps([None, None])
    assert [p.kind for p in find_problems([{**row, "masks": [nothing, nothing, None]}])] == ["empty mask"]
    (tmp_path / "masks" / "1.png").unlink()
    found = find_problems([row])
    assert [(problem.kind, "1.png" in problem.text) for problem in found] == [("missing", True)]
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "1.png")
    assert [problem.kind for problem in find_problems([row])] == ["size"]


def test_annotated_text_has_a_seg_for_each(rows, annotator):
    """Chain of thought, correction and reflective path."""
    row = next(row for row in rows if not row["is_null"])
    several, one = list(annotate_rows([{**row, "num_objects": 3}, row], annotator))
    assert several["target"] == one["target"].replace("[SEG]", "[SEG], [SEG] and [SEG]")
    assert ends_with_answer(several["target"], 3)
    wrong = {**several, "target": "I see a thing. So the target is the wolf. It is [SEG] and [SEG]."}
    pairs = list(correct_rows([wrong], annotator))
    assert pairs[0][1]["target"].endswith("It is [SEG], [SEG] and [SEG].")
    (mixed,) = build_reflective_rows(pairs, [])
    assert mixed["target"].count("[SEG]") == 3
    assert ends_with_answer(mixed["target"], 3)


def test_ms3_does_not_say_how_many(tmp_path, processor):
    rows = load_avsbench(write_ms3(tmp_path), "ms3", "train")
    assert rows[0]["num_objects"] is None
    assert count_objects(rows[0]) == 1
    told = datasets.Dataset.from_list([{**row, "num_objects": 2, "target": TEXT} for row in rows], features=FEATURES)
    batch = SFTCollator(ClipLoader(processor.with_max_objects(2)))(told.to_list())
    assert (batch["seg_positions"] >= 0).all()
    assert batch["masks"][0, 0].any()
    assert (batch["object_masks"] == NO_TARGET).all()
    assert set(rows.column_names) == set(COLUMNS)
