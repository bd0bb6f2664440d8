"""Ref-AVS: the official layout's odd corners, on real files."""

import csv
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from aurora_trl.data import COLUMNS, DataError, load_refavs
from aurora_trl.data.formats.refavs import SPLITS, UNSEEN_CLASSES
from aurora_trl.data.masks import load_masks
from aurora_trl.data.validation import check_classes


def edit_table(root, change):
    table = root / "metadata.csv"
    with open(table, newline="") as file:
        lines = change(list(csv.DictReader(file)))
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, ["vid", "uid", "split", "fid", "exp"])  # CRLF, as in the official copy
        writer.writeheader()
        writer.writerows(lines)


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def test_columns_and_paths(world, rows):
    assert tuple(rows.column_names) == COLUMNS
    row = next(row for row in rows if not row["is_null"])
    video = row["id"].rsplit("_", 2)[0]
    assert row["frames"] == [f"{world}/media/{video}/frames/{i}.jpg" for i in range(10)]
    assert row["audio"] == f"{world}/media/{video}/audio.wav"
    assert all(name.startswith(f"{world}/gt_mask/{video}/fid_") for name in row["masks"])
    assert load_masks(row).max() == 1


def test_ids_with_underscores_hyphens_and_a_leading_minus(copy):
    def rename(lines):
        lines[0].update(uid="-a_b-c_1_hair-dryer_7", vid="other", split="val", fid="3")
        return lines[:1]

    edit_table(copy, rename)
    row = load_refavs(copy, "val")[0]
    assert row["class_name"] == "hair-dryer"
    assert row["frames"][0].endswith("media/-a_b-c_1/frames/0.jpg")
    assert row["masks"][0].endswith("gt_mask/-a_b-c_1/fid_3/00000.png")


def test_todo_rows_are_ignored_and_twins_get_their_own_id(copy):
    def change(lines):
        return [{**lines[0], "split": "val"}, {**lines[0], "split": "val"}, {**lines[1], "split": "TODO"}]

    edit_table(copy, change)
    ids = load_refavs(copy, "val")["id"]
    assert len(ids) == 2
    assert ids[1] == ids[0] + "#2"


def test_null_rows_never_read_a_mask(copy):
    rows = load_refavs(copy, "test_n")
    row = rows[0]
    assert row["is_null"]
    assert row["masks"] is None
    assert row["class_name"] == "null"
    shutil.rmtree(copy / "gt_mask")
    masks = load_masks(row)
    assert masks.shape == (10, 48, 48)
    assert not masks.any()


def test_null_media_are_found_elsewhere_with_one_warning(copy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = load_refavs(copy, "test_n")
    for folder in (copy / "media").glob("null_c-*"):
        shutil.rmtree(folder)
    with pytest.warns(UserWarning, match="not under their own name") as caught:
        rows = load_refavs(copy, "test_n")
    assert len(caught) == 1
    assert rows[0]["frames"][0] == own[0]["frames"][0].replace("null_c-", "")
    video = rows[0]["audio"].split("/")[-2]
    (copy / "media_cross" / video).mkdir(parents=True)
    shutil.move(copy / "media" / video / "audio.wav", copy / "media_cross" / video / "audio.wav")
    with pytest.warns(UserWarning, match="not under their own name"):
        row = load_refavs(copy, "test_n")[0]
    assert row["audio"] == str(copy / "media_cross" / video / "audio.wav")
    assert row["frames"][0] == str(copy / "media" / video / "frames" / "0.jpg")


def test_what_is_wrong_is_named(copy, tmp_path):
    with pytest.raises(DataError, match=r"metadata.csv: no such file"):
        load_refavs(tmp_path / "nothing", "train")
    with pytest.raises(DataError, match="unknown split 'test'"):
        load_refavs(copy, "test")
    edit_table(copy, lambda lines: lines[:1])
    with pytest.raises(DataError, match="no row of split 'test_u'"):
        load_refavs(copy, "test_u")
    edit_table(copy, lambda lines: [{**lines[0], "uid": "nonsense", "split": "val"}])
    with pytest.raises(DataError, match=r"metadata.csv, line 2: uid 'nonsense'"):
        load_refavs(copy, "val")
    (copy / "metadata.csv").write_text("vid,uid,split,exp\n")
    with pytest.raises(DataError, match="no column `fid`"):
        load_refavs(copy, "val")


def test_no_row_of_a_table_is_lost(copy):
    """An open quote takes the rows up to the next one into its cell; `Train` is no split."""
    table = copy / "metadata.csv"
    whole = table.read_text()
    header, first, second, *rest = whole.splitlines()
    cells = first.split(",")
    opened = ",".join([*cells[:4], '"' + ",".join(cells[4:]).strip('"')])
    table.write_text("\n".join([header, opened, opened, second, *rest]))
    with pytest.raises(DataError, match=r"metadata.csv, line 2: .*write a quote inside a cell as"):
        load_refavs(copy, "val")
    table.write_text("\n".join([header, first, second, opened]))  # no quote comes after it
    with pytest.raises(DataError, match=r"metadata.csv, line 4: .*write a quote inside a cell as"):
        load_refavs(copy, "val")
    table.write_text("\n".join([header, first, ",".join([*second.split(",")[:2], "Train ", *second.split(",")[3:]])]))
    with pytest.raises(DataError, match=r"metadata.csv, line 3: its split is 'Train '; write `train`"):
        load_refavs(copy, "val")
    for split in ("training", "validation", " "):
        table.write_text("\n".join([header, first, ",".join([*second.split(",")[:2], split, *second.split(",")[3:]])]))
        with pytest.raises(DataError, match=rf"metadata.csv, line 3: its split is '{split}'; write `"):
            load_refavs(copy, "val")
    table.write_text("\n".join([f"{header},exp", f"{first},the drum"]))
    with pytest.raises(DataError, match=r"metadata.csv: the column `exp` stands twice"):
        load_refavs(copy, "val")
    table.write_text(whole.replace(",", ";"))
    with pytest.raises(DataError, match=r"metadata.csv: its columns are separated by ';'; save it with commas"):
        load_refavs(copy, "val")
    table.write_text(whole.replace("\n", "\n\n", 1))  # an empty line is none
    assert len(load_refavs(copy, "val")) == whole.count(",val,")


def test_official_mask_size():
    """A mask of one pixel grows as OpenCV's bilinear resize on uint8 grows it: every touched pixel counts."""
    from aurora_trl.data.masks import resize_masks_official

    mask = np.zeros((1, 128, 128), np.uint8)
    mask[0, 64, 64] = 1
    # From 128 to 256 the pixel's weights are 1/4, 3/4, 3/4, 1/4 in each direction; 255/16 rounds to more than 0.
    assert resize_masks_official(mask).sum() == 16
    assert resize_masks_official(np.zeros((2, 30, 50), np.uint8)).shape == (2, 256, 256)
    # From 1024 to 256 only the two middle pixels of each four are read: a pixel at the edge of its block is lost.
    big = np.zeros((1, 1024, 1024), np.uint8)
    big[0, 0, 0] = 1
    assert resize_masks_official(big).sum() == 0
    big[0, 1, 1] = 1
    assert resize_masks_official(big).sum() == 1


REAL = os.environ.get("AURORA_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL is None, reason="AURORA_REAL_DATA names no folder with the real metadata.csv"
)


@needs_real_data
def test_the_real_table():
    root = Path(REAL) / "refavs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splits = {split: load_refavs(root, split) for split in SPLITS}
    assert [len(rows) for rows in splits.values()] == [14113, 1349, 2288, 1656, 1028]
    assert [sum(rows["is_null"]) for rows in splits.values()] == [608, 72, 0, 0, 1028]
    assert [len({row["frames"][0].split("/")[-3] for row in splits[s]}) for s in ("test_s", "test_u")] == [273, 269]
    for split, rows in splits.items():
        assert len(set(rows["id"])) == len(rows)
        known = {*splits["train"]["class_name"], *(UNSEEN_CLASSES if split == "test_u" else ())}
        assert check_classes(split, rows["class_name"], known) == []
    trained = set(splits["train"]["class_name"]) - {"null"}
    assert len(trained) == 38
    assert set(splits["test_u"]["class_name"]) - trained == set(UNSEEN_CLASSES)
    assert any("-" in name for name in trained)


@needs_real_data
@pytest.mark.parametrize("layout", ["own", "video", "cross"])
def test_real_null_rows_are_resolved_in_each_layout(layout, tmp_path):
    shutil.copy(Path(REAL) / "refavs" / "metadata.csv", tmp_path)
    with open(tmp_path / "metadata.csv", newline="") as file:
        entries = [entry for entry in csv.DictReader(file) if entry["split"] == "test_n"]
    for entry in entries:
        own, video = entry["uid"].rsplit("_", 2)[0], entry["vid"]
        folder = tmp_path / "media" / (own if layout == "own" else video)
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        sound = tmp_path / "media_cross" / video if layout == "cross" else folder
        sound.mkdir(parents=True, exist_ok=True)
        (sound / "audio.wav").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = load_refavs(tmp_path, "test_n")
    assert len(caught) == (0 if layout == "own" else 1)
    assert all(Path(path).is_file() for path in rows["audio"])
    assert all(Path(frames[0]).parent.is_dir() for frames in rows["frames"])
    assert rows["masks"] == [None] * len(rows)
