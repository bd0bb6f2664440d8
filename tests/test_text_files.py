"""Tables and rows as spreadsheets and editors save them, and columns of one's own."""

import json

import pytest
from PIL import Image

from aurora_trl.cli import main
from aurora_trl.data import DataError, find_source, load_json, load_parquet, load_refavs, save_json, save_parquet

ROW = {"id": "1", "reference": "the dog", "is_null": True, "frames": ["frame.jpg"]}


@pytest.fixture
def rows_file(tmp_path):
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "frame.jpg")

    def write(*rows, encoding="utf-8"):
        (tmp_path / "rows.jsonl").write_bytes("".join(json.dumps(row) + "\r\n" for row in rows).encode(encoding))
        return tmp_path / "rows.jsonl"

    return write


def test_a_byte_order_mark(rows_file, world, tmp_path):
    assert main(["check-data", str(rows_file(ROW, encoding="utf-8-sig"))]) == 0
    table = (world / "metadata.csv").read_text()
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / "metadata.csv").write_text(table, encoding="utf-8-sig")
    (tmp_path / "marked" / "media").symlink_to(world / "media")
    (tmp_path / "marked" / "gt_mask").symlink_to(world / "gt_mask")
    assert find_source(tmp_path / "marked").format == "refavs"
    assert load_refavs(tmp_path / "marked", "train")["reference"] == load_refavs(world, "train")["reference"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named(encoding, rows_file, capsys):
    path = rows_file(ROW)
    path.write_bytes(json.dumps({**ROW, "reference": "der Köter"}, ensure_ascii=False).encode(encoding))
    assert main(["check-data", str(path)]) == 1
    assert "rows.jsonl: not text in UTF-8; save it again with that encoding" in capsys.readouterr().err


def test_columns_of_ones_own_stay(rows_file, tmp_path):
    path = rows_file({**ROW, "difficulty": "hard", "weight": 0.5}, {**ROW, "id": "2", "weight": 2.0, "tags": ["a"]})
    rows = load_json(path)
    assert rows["difficulty"] == ["hard", None]
    assert rows["weight"] == [0.5, 2.0]
    assert load_json(save_json(rows, tmp_path / "again" / "rows.jsonl")).to_list() == rows.to_list()
    folder = save_parquet({"train": rows}, tmp_path / "pack")
    packed = load_parquet(folder, "train", media_dir=tmp_path / "media")
    assert packed["tags"] == [None, ["a"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"refrence": "x"}, "unknown key `refrence`; did you mean `reference`"),
        ({"pred_masks": 1}, "`pred_masks` is what the trainer gives to rewards"),
    ],
)
def test_slips_and_taken_names(columns, message, rows_file):
    with pytest.raises(DataError, match=message):
        load_json(rows_file({**ROW, **columns}))


def test_a_column_has_values_of_one_kind(rows_file):
    with pytest.raises(DataError, match=r"rows\.jsonl: the values of `weight` are not all of one kind"):
        load_json(rows_file({**ROW, "weight": "much"}, {**ROW, "id": "2", "weight": {"a": 1}}))
