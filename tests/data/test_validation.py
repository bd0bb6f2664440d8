"""What is wrong with a dataset shows before training: one line that names the file or the row."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from videos import write_clip

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_refavs
from aurora_trl.data.formats.jsonl import map_paths
from aurora_trl.data.masks import encode_rle
from aurora_trl.data.validation import (
    check_classes,
    check_dataset,
    drop_bad_rows,
    find_bad_rows,
    find_problems,
    require_valid,
)


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


def scramble(path):
    """Damage in the middle of a file whose header and end are whole."""
    data = bytearray(Path(path).read_bytes())
    Path(path).unlink()
    middle = len(data) // 2
    data[middle - 20 : middle + 20] = bytes(40)
    Path(path).write_bytes(bytes(data))


def break_row(row, how):
    """Spoil a row or its files; what is found then, and of which kind it is."""
    if how == "damaged mask":
        scramble(row["masks"][4])
        return row, "unreadable", "m4"
    if how == "empty masks":
        for name in row["masks"]:
            Image.new("L", (48, 48)).save(name)
        return row, "empty mask", "all its masks are empty; set `is_null`"
    if how == "silent":
        soundfile.write(row["audio"], np.zeros(160000), 16000)
        return row, "silent sound", "it is silent"
    if how == "short":
        soundfile.write(row["audio"], 0.1 * np.ones(4000), 16000)
        return row, "short sound", "0.25 s of sound, less than 1 s"
    if how == "no samples":
        soundfile.write(row["audio"], np.zeros(0), 16000)
        return row, "empty sound", "it holds no samples; a clip without sound needs no `audio`"
    if how == "no sound":
        Path(row["audio"]).write_text("no sound")
        return row, "unreadable", "can not be read as sound"
    if how == "no image":
        Path(row["frames"][0]).write_text("no image")
        return row, "unreadable", "can not be read as an image"
    if how == "mask count":
        return {**row, "masks": row["masks"][:9]}, "mask count", "9 masks for 10 frames"
    if how == "no RLE":
        return {**row, "masks": ['{"size": 3}', *row["masks"][1:]]}, "unreadable", "not a COCO run-length encoding"
    if how == "RLE of another size":
        small = encode_rle(np.ones((4, 4), np.uint8))
        return {**row, "masks": [small, *row["masks"][1:]]}, "size", "a mask: 4x4 pixels, but the clip's frames"
    raise KeyError(how)


@pytest.mark.parametrize(
    "how",
    [
        "damaged mask",
        "empty masks",
        "silent",
        "short",
        "no samples",
        "no sound",
        "no image",
        "mask count",
        "no RLE",
        "RLE of another size",
    ],
)
def test_every_file_is_read_and_every_problem_is_found(how, rows, tmp_path):
    row = next(row for row in rows if row["masks"])
    files = {name: str(tmp_path / f"f{i}.jpg") for i, name in enumerate(row["frames"])}
    files |= {name: str(tmp_path / f"m{i}.png") for i, name in enumerate(row["masks"])}
    files[row["audio"]] = str(tmp_path / "a.wav")
    for source, copied in files.items():
        shutil.copy(source, copied)
    row = map_paths(row, files.__getitem__)
    assert find_problems([row]) == []
    row, kind, message = break_row(row, how)
    found = find_problems([row, {**row, "id": "other"}])
    assert [(problem.kind, problem.rows) for problem in found if kind == problem.kind][0][0] == kind
    assert message in found[0].text
    assert {place for problem in found for place in problem.rows} == {0, 1}
    if kind not in ("mask count", "size", "empty mask") and how != "no RLE":
        assert len(found) == 1  # a file that two rows share is one problem


def test_more_workers_find_the_same(copy):
    rows = load_refavs(copy, "train")
    for path in sorted((copy / "media").glob("synth_*/audio.wav"))[:4]:
        path.unlink()
    done = []
    found = [find_problems(rows, workers=workers, on_clip=done.append) for workers in (1, 4)]
    assert found[0] == found[1]
    assert found[0]
    assert sum(done) == 2 * len(rows)


@pytest.mark.parametrize("waits", [False, True])
def test_headers_are_checked_alike_where_files_are_waited_for(waits, rows, tmp_path, monkeypatch):
    """More clips than are tried before it is decided how to read the rest, each with a frame that is missing."""
    if waits:
        monkeypatch.setattr("aurora_trl.data.validation.time.thread_time", lambda: 0.0)
    clips = []
    for i in range(100):
        row = rows[0]
        clips.append({**row, "id": str(i), "frames": [str(tmp_path / f"{i}.jpg"), *row["frames"][1:]]})
    found = find_problems(clips, thorough=False)
    assert [problem.rows for problem in found] == [(i,) for i in range(100)]
    assert all(f"{i}.jpg: no such frame" in problem.text for i, problem in enumerate(found))
    for limit in (3, 80):
        assert find_problems(clips, thorough=False, limit=limit) == found[:limit]


def test_a_row_that_says_two_things_is_told(rows, tmp_path):
    row = next(row for row in rows if row["masks"])
    null = {**row, "is_null": True}
    blank = [None] + [encode_rle(np.zeros((48, 48), np.uint8))] * 9
    gone = [str(tmp_path / "gone.png")] * 10
    # Masks of a null row may be there and empty; its files are not read, so they may be gone, too.
    honest = [{**null, "masks": masks} for masks in (None, blank, gone)]
    honest += [
        {**null, "masks": None, "boxes": [[]] * 10},
        {**null, "masks": None, "points": [[[3, 3, 0]]] + [None] * 9},
    ]
    for number, changed in enumerate(honest):
        assert find_problems([changed]) == [], number
    two = {**row, "video": write_clip(tmp_path / "clip.mp4", [0, 99], size=(48, 48))}
    for changed, said in (
        (null, "`is_null` is true, and its `masks` show something; remove one of the two"),
        ({**null, "masks": None, "boxes": [[1, 1, 9, 9]] + [None] * 9}, "`is_null` is true, and its `boxes` show"),
        ({**null, "masks": None, "points": [[[3, 3]]] + [None] * 9}, "`is_null` is true, and its `points` show"),
        (two, "it has `frames` and `video`, and only its `frames` are shown; remove one of them"),
    ):
        (problem,) = find_problems([changed])
        assert problem.text.startswith(f"row {row['id']!r}: {said}")
        assert (problem.kind, problem.stops_training) == ("contradiction", False)
        assert check_dataset([changed]) == []


def test_files_in_the_order_of_text_are_told(tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(11)]
    for name in names:
        Image.fromarray(np.eye(48, dtype=np.uint8) * 255).save(name)
    row = {"id": "1", "reference": "the drum", "is_null": False, "frames": names, "masks": names}
    assert find_problems([row]) == []
    for changed, what in (({"frames": sorted(names)}, "frames"), ({"masks": sorted(names)}, "masks")):
        (problem,) = find_problems([{**row, **changed}])
        assert (problem.kind, problem.stops_training) == ("order", False)
        assert f"row '1': its {what} are in the order of their names as text, 10 before 2" in problem.text
    backwards = names[::-1]
    assert find_problems([{**row, "frames": backwards, "masks": backwards}]) == []
    clip = write_clip(tmp_path / "clip.mp4", [0] * 40, size=(48, 48))
    for moments, told in (([10, 2], True), ([1.25, 1.5], False), ([2, 10], False)):
        found = find_problems([{**row, "frames": [f"{clip}#t={t}" for t in moments], "masks": None}])
        assert any(problem.kind == "order" for problem in found) == told


def test_classes_of_the_splits():
    assert check_classes("val", ["dog", "null", None], ["dog", "cat"]) == []
    problem = check_classes("val", ["dog", "wolf", "wolf"], ["dog"])[0]
    assert (problem.kind, problem.rows) == ("class", (1, 2))
    assert problem.text == "split val: 'wolf' is not one of its classes (2 rows)"


def test_a_class_that_training_does_not_have_is_found(copy, capsys):
    (copy / "world.json").unlink()  # what is left is a plain folder in the layout of Ref-AVS
    row = load_refavs(copy, "val")[0]
    video, class_name, number = row["id"].rsplit("_", 2)
    text = (copy / "metadata.csv").read_text()
    (copy / "metadata.csv").write_text(text.replace(row["id"], f"{video}_wolf_{number}"))
    assert main(["check-data", str(copy), "--splits", "train", "val"]) == 1
    assert "split val: 'wolf' is not one of its classes (1 rows)" in capsys.readouterr().out


def test_bad_rows_are_skipped_counted_and_named(copy, tmp_path, capsys):
    rows = load_refavs(copy, "train")
    victim = next(row for row in rows if row["masks"])
    spoiled = victim["masks"][4]
    scramble(spoiled)
    bad = find_bad_rows(rows)
    touched = [row["id"] for row in rows if spoiled in (row["masks"] or ())]
    kept = drop_bad_rows(rows, bad, tmp_path / "out" / "skipped.jsonl")
    assert len(kept) == len(rows) - len(touched)
    assert not set(kept["id"]) & set(touched)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == touched
    assert spoiled in lines[0]["problem"]
    said = capsys.readouterr().err
    assert f"skipped {len(touched)} of {len(rows)} rows" in said
    assert touched[0] in said
    assert drop_bad_rows(rows, {}) is rows
    quiet = next(row for row in kept)
    soundfile.write(quiet["audio"], np.zeros(160000), 16000)
    assert "silent sound" in {problem.kind for problem in find_problems(kept)}
    assert find_bad_rows(kept) == {}  # a silent clip can be trained on
    with pytest.raises(DataError, match="none of the"):
        drop_bad_rows(rows, dict.fromkeys(range(len(rows)), "x"))


def test_check_data_says_what_each_split_holds(copy, capsys):
    assert main(["check-data", str(copy), "--workers", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:5]] == ["train", "val", "test_s", "test_u", "test_n"]
    assert all("rows" in line and line.endswith("all is well") for line in said)
    row = load_refavs(copy, "val")[0]
    Path(row["frames"][2]).unlink()
    soundfile.write(row["audio"], np.zeros(160000), 16000)
    assert main(["check-data", str(copy), "--splits", "val"]) == 1
    captured = capsys.readouterr()
    assert f"{row['frames'][2]}: no such frame" in captured.out
    assert "2 problems (1 missing, 1 silent sound)" in captured.out
    assert captured.err.startswith("error: ")
    assert main(["check-data", str(copy), "--splits", "val", "--quick"]) == 1
    assert "1 problems (1 missing)" in capsys.readouterr().out
