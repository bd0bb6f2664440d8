"""Folders as people keep them: links, hidden files, names with numbers, names in any encoding."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from aurora_trl.data import load_json
from aurora_trl.data.folders import by_numbers, find_misplaced
from aurora_trl.data.formats.reasonseg import load_reasonseg
from aurora_trl.data.formats.registry import find_source
from aurora_trl.data.media.loading import load_audio, load_frames
from aurora_trl.data.validation import find_problems
from aurora_trl.generation.given_media import rows_of_clips


@pytest.mark.parametrize(
    ("names", "misplaced"),
    [
        (["1.jpg", "10.jpg", "2.jpg"], ("10.jpg", "2.jpg")),
        (["a/f_1.png", "a/f_10.png", "a/f_9.png"], ("a/f_10.png", "a/f_9.png")),
        (["1.jpg", "2.jpg", "10.jpg"], None),
        (["001.jpg", "002.jpg", "010.jpg"], None),
        (["10.jpg", "1.jpg", "2.jpg"], None),  # in an order of somebody's own
        (["0.75.jpg", "1.25.jpg", "1.5.jpg"], None),  # seconds
        (["a10.jpg", "b2.jpg"], None),  # the letters differ
        (["c.mp4#t=0.5", "c.mp4#t=1.5"], None),
        ([], None),
    ],
    ids=str,
)
def test_frames_in_the_order_of_letters_are_named(names, misplaced, tmp_path):
    assert find_misplaced(names) == misplaced
    if misplaced is None:
        return
    (tmp_path / "a").mkdir()
    paths = [str(tmp_path / name) for name in names]
    for path in paths:
        Image.new("RGB", (8, 6)).save(path)
    row = {"id": "a", "reference": "x", "is_null": True, "frames": paths}
    problem = find_problems([row])[0]
    assert (problem.kind, problem.stops_training) == ("order", False)
    assert "its frames are in the order of their names as text, 10 before 2" in problem.text
    with (
        pytest.raises(ValueError, match=r"`frames`: .* stands before .*; sort them by number"),
        rows_of_clips(["x"], None, paths, None),
    ):
        pass
    with rows_of_clips(["x"], None, sorted(paths, key=by_numbers), None) as rows:
        assert [name.rpartition("/")[2] for name in rows[0]["frames"]][-1] == names[1].rpartition("/")[2]


@pytest.mark.parametrize("beside", ["link", "target", "both"])
def test_rows_behind_a_link_find_their_media(beside, tmp_path):
    """The Hub's cache has links in a snapshot's folder to files of other names elsewhere."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    for folder, name in ((blobs, "target"), (snapshot, "link")):
        (folder / "frames").mkdir(parents=True)
        if beside in (name, "both"):
            Image.new("RGB", (8, 6), (200 if name == "link" else 60,) * 3).save(folder / "frames" / "0.png")
    rows = [{"id": "1", "reference": "x", "is_null": True, "frames": ["frames/0.png"]}]
    (blobs / "abc").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (snapshot / "train.jsonl").symlink_to("../blobs/abc")
    read = load_frames(load_json(snapshot / "train.jsonl")[0], num_frames=1)
    assert (read == (60 if beside == "target" else 200)).all()


def test_hidden_files_are_no_data(tmp_path):
    """macOS puts one beside each file of a folder that is not its own."""
    (tmp_path / "train").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "train" / "0.jpg")
    shape = {"label": "target", "points": [[1, 1], [20, 1], [20, 20]]}
    (tmp_path / "train" / "0.json").write_text(json.dumps({"text": ["the cup"], "shapes": [shape]}))
    for name in ("._0.jpg", "._0.json", ".DS_Store"):
        (tmp_path / "train" / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert find_source(tmp_path).splits() == ["train"]
    assert [row["id"] for row in load_reasonseg(tmp_path, "train")] == ["0"]
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "val.jsonl").write_text(json.dumps({"id": "1", "reference": "x", "video": "a.mp4"}))
    (rows / "._val.jsonl").write_bytes(b"\0\5\x16\7")
    assert find_source(rows).splits() == ["val"]


def test_a_name_in_another_encoding_is_a_name(tmp_path):
    """As in archives that were packed before UTF-8."""
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.25, np.float32), 16000)
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.move(tmp_path / "a.wav", path)
    assert len(load_audio({"audio": os.fsdecode(path)}, sampling_rate=16000)) == 16000
