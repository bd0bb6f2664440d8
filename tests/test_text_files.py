"""Tables and rows as spreadsheets and editors save them, and columns of one's own."""

import json

import pytest
from PIL import Image
from video_layouts import write_omniavs

from aurora_trl.cli import main
from aurora_trl.data import (
    DataError,
    find_source,
    load_json,
    load_parquet,
    load_reasonseg,
    load_refavs,
    save_json,
    save_parquet,
)
from aurora_trl.text_files import parse_yaml

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


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"id": "1", "reference": "the drum", "is_null": true, "frames": ["a.png"], "reference": "it"}', "reference"),
        ('{"id": "1", "reference": "x", "frames": ["a.png"], "masks": [{"size": [1, 1], "size": [2, 2]}]}', "size"),
    ],
)
def test_a_key_that_stands_twice_in_a_row_is_named(line, key, rows_file):
    path = rows_file(ROW)
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: .*the key `{key}` stands twice; remove one of them"):
        load_json(path)


def test_a_key_that_stands_twice_in_other_rows_is_named(tmp_path):
    queries = tmp_path / "queries.json"
    queries.write_text('[{"image": "a.png", "query": "x", "is_null": true, "query": "y"}]')
    with pytest.raises(DataError, match=r"queries\.json: .*the key `query` stands twice"):
        load_reasonseg(queries, "train")
    table = write_omniavs(tmp_path) / "meta_expressions_train.jsonl"
    table.write_text(table.read_text().replace('{"video_name"', '{"expr": "who else", "video_name"', 1))
    with pytest.raises(DataError, match=r"meta_expressions_train\.jsonl, line 1: .*the key `expr` stands twice"):
        find_source(tmp_path).load("train")


def test_anchors_are_taken_over_and_changed():
    text = "shared: &shared {steps: 1, seed: 2}\nlong: {<<: *shared, steps: 3}\nsame: {<<: [*shared]}\n"
    shared = {"steps": 1, "seed": 2}
    assert parse_yaml(text, "a.yaml") == {"shared": shared, "long": {"steps": 3, "seed": 2}, "same": shared}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 0100", "YAML reads `0100` in base 8; write it without"),
        ("steps: [-017]", "YAML reads `-017` in base 8"),
        ("minutes: 1:30", "YAML reads `1:30` in base 60"),
        ("a: &a {steps: 1}\nb: {<<: *a, steps: 2, steps: 3}", "a.yaml: not valid YAML: the key `steps` stands twice"),
    ],
)
def test_what_yaml_would_read_otherwise(text, message):
    with pytest.raises(DataError, match=message):
        parse_yaml(text, "a.yaml")
    assert parse_yaml("a: 0\nb: '0100'\nc: 10\nd: 0.5\ne: 1e-5", "a.yaml") == {
        "a": 0,
        "b": "0100",
        "c": 10,
        "d": 0.5,
        "e": "1e-5",
    }
