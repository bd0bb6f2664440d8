"""Rows as people and programs write them: each is read as it is meant, or named."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from layouts import write_reasonseg
from pycocotools import mask as coco

from aurora_trl.data import DataError, find_source, load_json, save_json
from aurora_trl.data.masks import load_masks

ROW = {"id": "1", "reference": "the drum", "is_null": True, "frames": ["frame.png"]}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_rows_is_read(indent, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ROW, {**ROW, "id": 2}], indent=indent))
    rows = find_source(tmp_path / "rows.json").load("train")
    assert rows["id"] == ["1", "2"], "a number is a name, too"
    (tmp_path / "rows.json").write_text(json.dumps([ROW, {**ROW, "is_null": "False"}]))
    with pytest.raises(DataError, match=r"rows\.json, entry 2: `is_null` is 'False'; it must be true or false"):
        load_json(tmp_path / "rows.json")


@pytest.mark.parametrize("other", ["Train", "train ", "training"])
def test_no_row_of_a_split_is_left_out(other, tmp_path):
    rows = [{**ROW, "split": split, "id": split} for split in ("train", other, "val")]
    source = find_source(save_json(rows, tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match=rf"its rows name the splits 'train' and '{other}'; call both `train`"):
        source.load("train")
    assert source.load("val")["id"] == ["val"]
    entries = [{"image": "a.jpg", "query": row["id"], "is_null": True, "split": row["split"]} for row in rows]
    (tmp_path / "images.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=rf"its rows name the splits 'train' and '{other}'"):
        find_source(tmp_path / "images.json").load("train")


def test_rows_to_train_on_are_no_others(tmp_path):
    source = find_source(save_json([{**ROW, "split": "train"}], tmp_path / "rows.jsonl"))
    for split in ("val", "test", "test_s", "valid_u", "Validation"):
        with pytest.raises(DataError, match=f"no row of split '{split}'; its rows name train"):
            source.load(split)
    # Rows without a split are what they are asked for as.
    assert len(find_source(save_json([ROW], tmp_path / "rows.jsonl")).load("val")) == 1
    save_json([ROW], tmp_path / "parts" / "val.jsonl")
    folder = find_source(tmp_path / "parts")
    assert folder.load("val")["split"] == ["val"]
    with pytest.raises(DataError, match=r"train\.jsonl: no such file; the folder has val"):
        folder.load("train")


def test_what_a_mac_adds_to_an_archive_is_no_file(tmp_path):
    save_json([ROW], tmp_path / "rows" / "train.jsonl")
    root = write_reasonseg(tmp_path / "images")
    for path in (tmp_path / "rows" / "._train.jsonl", root / "train" / "._1.jpg", root / "train" / "._1.json"):
        path.write_bytes(b"\0\5\x16\7\0\2")
    assert find_source(tmp_path / "rows").splits() == ["train"]
    assert find_source(root).load("train")["id"] == ["1", "1#2"]


def test_a_path_by_another_name_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    for key, meant in (("audio_path", "audio"), ("mask_files", "masks"), ("frame_paths", "frames")):
        path.write_text(json.dumps({**{k: v for k, v in ROW.items() if k != meant}, key: "x"}) + "\n")
        with pytest.raises(DataError, match=f"line 1: unknown key `{key}`; did you mean `{meant}`"):
            load_json(path)
    path.write_text(json.dumps({**ROW, "video_path": "x", "audio": None, "audio_file": "y"}) + "\n")
    assert load_json(path)["video_path"] == ["x"], "a column of one's own, beside the one that counts"


def test_rows_out_of_python_are_written_as_they_are_read(tmp_path):
    plane = np.zeros((4, 6), np.uint8)
    plane[1:3, 2:5] = 255
    rle = coco.encode(np.asfortranarray(plane))
    row = {
        **{"id": np.int64(3), "reference": "x", "is_null": np.bool_(False), "frames": (tmp_path / "a.png",) * 4},
        **{"masks": [plane, rle, Path(tmp_path / "m.png"), None], "mask_value": np.int64(2)},
        **{"boxes": [np.array([1, 2, 3, 4]), None, [], None], "day": date(2026, 5, 1), "loudness": np.float32(0.5)},
    }
    rows = load_json(save_json([row], tmp_path / "out" / "rows.jsonl"))
    assert rows["id"] == ["3"]
    assert rows[0]["frames"] == [str(tmp_path / "a.png")] * 4
    assert rows[0]["masks"][2] == str(tmp_path / "m.png")
    drawn = load_masks({**rows[0], "masks": rows[0]["masks"][:2]})
    assert (drawn == (plane > 0)).all()
    kept = {name: rows[0][name] for name in ("is_null", "mask_value", "boxes", "day", "loudness")}
    boxes = [[1, 2, 3, 4], None, [], None]
    assert kept == {"is_null": False, "mask_value": 2, "boxes": boxes, "day": "2026-05-01", "loudness": 0.5}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"frames": "clip.png"}, "`frames` is str, not list"),
        ({"class_name": float("nan")}, "`class_name` is float, not str"),
        ({"masks": [7]}, "`masks` holds 7, not str"),
        ({"tags": {"a"}}, "a value is set; a file of JSON lines can not hold it"),
    ],
)
def test_rows_that_could_not_be_read_are_not_written(columns, said, tmp_path):
    with pytest.raises(DataError, match=f"row '1': {said}"):
        save_json([ROW, {**ROW, **columns}], tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
