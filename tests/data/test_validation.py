"""What is wrong with a dataset shows before training: one line that names the file or the row."""

import shutil

import pytest
from PIL import Image

from aurora_trl.data import DataError, load_refavs
from aurora_trl.data.validation import check_dataset, require_valid


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def truncate(path):
    data = path.read_bytes()
    path.unlink()  # null media are links to the same file
    path.write_bytes(data[: len(data) // 2])


def spoil(copy, row, how):
    frame, mask, audio = (row["frames"][3], row["masks"][2], row["audio"])
    path = {"frame": frame, "mask": mask, "audio": audio}[how.split()[-1]]
    from pathlib import Path

    if how.startswith("missing"):
        Path(path).unlink()
    elif how.startswith("truncated"):
        truncate(Path(path))
    elif how.startswith("resized"):
        Image.open(path).resize((20, 20)).save(path)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing frame", "no such frame"),
        ("missing mask", "no such mask"),
        ("missing audio", "no such file"),
        ("truncated frame", "the frame is cut short"),
        ("truncated mask", "the mask is cut short"),
        ("truncated audio", "the sound is cut short"),
        ("resized frame", "20x20 pixels, but the clip's first frame has 48x48"),
        ("resized mask", "20x20 pixels, but the clip's frames have 48x48"),
    ],
)
def test_files(how, message, copy):
    rows = load_refavs(copy, "train")
    row = next(row for row in rows if not row["is_null"])
    path = spoil(copy, row, how)
    problems = check_dataset(rows)
    assert problems
    assert any(problem.startswith(path) and message in problem for problem in problems)
    assert all("\n" not in problem for problem in problems)
    with pytest.raises(DataError, match=message):
        require_valid(rows)


def test_rows(rows):
    good = rows.to_list()[:3]
    assert check_dataset(good) == []
    assert "the reference is empty" in check_dataset([{**good[0], "reference": "  "}])[0]
    assert "its id occurs twice" in check_dataset([good[0], good[0]])[0]
    full = next(row for row in rows if row["masks"])
    assert "9 masks for 10 frames" in check_dataset([{**full, "masks": full["masks"][:9]}])[0]
    assert "neither `frames` nor `video`" in check_dataset([{**full, "frames": None}])[0]
