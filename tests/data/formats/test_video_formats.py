"""References to objects in videos and photographs: each official layout is recognised, loaded, checked and read."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest
from layouts import SIZE, blob
from pycocotools import mask as coco
from video_layouts import (
    FRAMES,
    OUTLINES,
    mask_lists,
    other,
    rle,
    write_mevis,
    write_omniavs,
    write_r2avsbench,
    write_refcoco,
    write_refdavis,
    write_refytvos,
    write_revos,
)

from aurora_trl.cli import main
from aurora_trl.data import DataError, find_source, load_json, load_mevis, load_parquet, save_json, save_parquet
from aurora_trl.data.masks import load_masks, load_object_masks
from aurora_trl.data.media.loading import load_audio, load_frames
from aurora_trl.data.schema import COLUMNS, count_objects, require_text_references
from aurora_trl.data.validation import check_dataset, find_problems

ONE = np.stack([blob(i) for i in range(3)])
TWO = np.stack([other(i) for i in range(3)])
# Format, writer, subset, splits, and of one split the texts with their masks.
LAYOUTS = {
    "refytvos": (write_refytvos, None, ["train", "valid"], "train", [ONE, TWO]),
    "refdavis": (write_refdavis, None, ["train", "val"], "val", [ONE, TWO] * 4),
    "mevis": (write_mevis, None, ["train", "valid_u", "valid"], "valid_u", [TWO, ONE | TWO]),
    "revos": (write_revos, None, ["train", "valid"], "valid", [ONE, ONE | TWO, None]),
    "refcoco": (write_refcoco, "unc", ["train", "val", "testA"], "testA", ["outlines"] * 2),
    "omniavs": (write_omniavs, None, ["train", "test"], "test", [ONE, ONE | TWO, None, TWO, ONE]),
    "r2avsbench": (write_r2avsbench, None, ["test_s"], "test_s", [np.stack([blob(i) for i in range(10)])]),
}


def outlines():
    """What COCO's code fills."""
    return coco.decode(coco.frPyObjects(OUTLINES, *SIZE)).any(axis=2)[None]


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_official_layout_is_recognised_checked_and_read(name, tmp_path, capsys):
    write, subset, splits, split, expected = LAYOUTS[name]
    root = write(tmp_path / "data")
    source = find_source(root)
    assert (source.format, source.subset, source.splits()) == (name, subset, splits)
    rows = source.load(split)
    assert set(COLUMNS) <= set(rows.column_names)
    assert len(set(rows["id"])) == len(rows) == len(expected)
    assert check_dataset(rows) == []
    for row, masks in zip(rows, expected, strict=True):
        assert row["is_null"] == (masks is None)
        wanted = np.zeros_like(ONE) if masks is None else outlines() if isinstance(masks, str) else masks
        assert np.array_equal(load_masks(row), wanted)
        assert load_frames(row, num_frames=3).shape == (3, *SIZE, 3)
        assert count_objects(row) == 1
        if name in ("omniavs", "r2avsbench"):
            assert load_audio(row, sampling_rate=16000).any()
        else:
            assert load_audio(row, sampling_rate=16000) is None
    assert main(["check-data", str(root)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_classes_and_kinds_come_with_the_rows(tmp_path):
    rows = find_source(write_refytvos(tmp_path / "y")).load("train")
    assert rows["class_name"] == ["penguin"] * 2
    assert rows["mask_value"] == [1, 2]
    assert find_source(tmp_path / "y").load("valid")["masks"] == [None] * 2
    rows = find_source(write_refdavis(tmp_path / "d")).load("val")
    assert rows["class_name"] == ["dog", "person"] * 4
    assert rows["reference"][-1] == "a man in a café"
    assert sorted(set(rows["reference_kind"])) == ["annot1", "annot1_full_video", "annot2", "annot2_full_video"]
    assert find_source(tmp_path / "d").load("train")[0]["reference"] == "the old car"
    rows = find_source(write_revos(tmp_path / "r")).load("valid")
    assert rows["reference_kind"] == ["referring", "reasoning", "null"]
    row = {**rows[2], "masks": rows[2]["foreground_masks"], "is_null": False}
    assert np.array_equal(load_masks(row), ONE | TWO)
    rows = find_source(write_refcoco(tmp_path / "c", "refcocog", "umd")).load("val")
    assert rows["class_name"] == ["dog"] * 2
    assert rows["reference"] == ["dog 1", "the left one"]
    rows = find_source(write_omniavs(tmp_path / "o")).load("test")
    assert rows["explanation"] == ["It is loud."] * 2 + [None] + ["It is loud."] * 2
    assert [name and name[-7:] for name in rows["reference_speech"]] == [None, None, None, "say.mp3", None]


@pytest.mark.parametrize(
    ("write", "split", "row"), [(write_mevis, "train", 1), (write_revos, "train", 1), (write_omniavs, "train", 1)]
)
def test_objects_apart(write, split, row, tmp_path):
    source = find_source(write(tmp_path), objects="apart")
    rows = source.load(split)
    assert count_objects(rows[row]) == 2
    assert np.array_equal(load_object_masks(rows[row]), np.stack([ONE, TWO]))
    assert np.array_equal(load_masks(rows[row]), ONE | TWO)
    assert check_dataset(rows) == []


def test_several_objects_apart_are_asked_of_formats_that_have_them(tmp_path):
    with pytest.raises(DataError, match="refytvos has the masks of several objects as they are; leave out `apart`"):
        find_source(write_refytvos(tmp_path), objects="apart")
    with pytest.raises(DataError, match="unknown way 'union' to have several objects; use together or apart"):
        find_source(tmp_path, objects="union")


def test_references_that_are_no_text_are_refused_by_annotators_and_their_files_checked(tmp_path):
    root = write_omniavs(tmp_path)
    with pytest.raises(DataError, match=r"row 'hall_3': it has a `reference_speech`, and an annotator takes"):
        require_text_references(find_source(root).load("train"), "an annotator")
    written = find_source(root, subset="text").load("train")
    assert written["id"] == ["hall_0", "hall_1", "hall_2"]
    require_text_references(written, "an annotator")
    (root / "referrings" / "referring_sounds" / "bark.mp3").unlink()
    (root / "referrings" / "referring_images" / "dog.jpg").write_text("no picture")
    kinds = sorted(problem.kind for problem in find_problems(find_source(root).load("train")))
    assert kinds == ["missing", "unreadable"]


def test_rows_with_masks_in_a_large_file_can_be_written_and_shared(tmp_path):
    rows = find_source(write_revos(tmp_path / "data")).load("valid")
    again = load_json(save_json(rows, tmp_path / "rows" / "rows.jsonl"))
    assert np.array_equal(load_masks(again[1]), ONE | TWO)
    assert "mask_dict.json#json=" in (tmp_path / "rows" / "rows.jsonl").read_text()
    save_parquet({"valid": rows}, tmp_path / "packed")
    (tmp_path / "data").rename(tmp_path / "gone")
    packed = load_parquet(tmp_path / "packed", "valid", media_dir=tmp_path / "media")
    assert np.array_equal(load_masks(packed[1]), ONE | TWO)
    assert load_masks({**packed[2], "masks": packed[2]["foreground_masks"], "is_null": False}).any()
    apart = find_source(write_mevis(tmp_path / "data"), objects="apart").load("train")
    save_parquet({"train": apart}, tmp_path / "apart")
    packed = load_parquet(tmp_path / "apart", "train", media_dir=tmp_path / "media")
    assert np.array_equal(load_object_masks(packed[1]), np.stack([ONE, TWO]))


def test_a_large_file_of_masks_is_never_held(tmp_path):
    """41 MB of run lengths: what is taken is four chunks of 4 MB and the rows."""
    root = write_mevis(tmp_path)
    plane = {"size": list(SIZE), "counts": "0" * 20_000}
    masks = {str(number): [plane] * 3 for number in range(2, 700)} | json.loads(
        (root / "train" / "mask_dict.json").read_text()
    )
    (root / "train" / "mask_dict.json").write_text(json.dumps(masks))
    assert (root / "train" / "mask_dict.json").stat().st_size > 41e6
    load_mevis(root, "valid_u")
    tracemalloc.start()
    rows = load_mevis(root, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert np.array_equal(load_masks(rows[1]), ONE | TWO)


def test_a_file_that_changes_after_it_was_loaded_is_named(tmp_path):
    root = write_mevis(tmp_path)
    rows = find_source(root).load("train")
    path = root / "train" / "mask_dict.json"
    again = load_json(save_json(rows, tmp_path / "rows.jsonl"))
    assert np.array_equal(load_masks(again[1]), ONE | TWO)
    # The same masks in another order: where they stood there are others now.
    path.write_text(json.dumps(dict(reversed(mask_lists().items()))))
    for row in (rows[0], again[0]):
        with pytest.raises(DataError, match=r"mask_dict.json: no value at .*: the file has changed since"):
            load_masks(row)
    path.write_text(json.dumps({"9": [rle(blob(0))] * 3}))
    with pytest.raises(DataError, match=r"mask_dict.json: no value at .*: the file has changed since it was loaded"):
        load_masks(rows[1])
    path.unlink()
    with pytest.raises(DataError, match=r"mask_dict.json: can not be read: No such file"):
        load_masks(rows[1])
    assert any("mask_dict.json" in line for line in check_dataset(rows))


def lists_of_masks(content):
    """Every list of masks in a file of any of the layouts."""
    values = content.values() if isinstance(content, dict) else ()
    return [v for v in values if isinstance(v, list) and isinstance(v[0], dict)] + [
        found for value in values for found in lists_of_masks(value)
    ]


@pytest.mark.parametrize("change", [lambda masks: masks.pop(), lambda masks: masks.append(None)])
@pytest.mark.parametrize(
    ("write", "split", "file"),
    [
        (write_mevis, "train", "train/mask_dict.json"),
        (write_revos, "train", "mask_dict.json"),
        (write_revos, "valid", "mask_dict_foreground.json"),
        (write_omniavs, "test", "video_dict.json"),
    ],
)
def test_masks_of_another_video_than_the_frames_are_named(write, split, file, change, tmp_path):
    source = find_source(write(tmp_path))
    content = json.loads((tmp_path / file).read_text())
    lists = lists_of_masks(content)
    assert {len(masks) for masks in lists} == {len(FRAMES)}
    for masks in lists:
        change(masks)
    (tmp_path / file).write_text(json.dumps(content))
    said = (
        f"video '.*': .*{file} has {len(lists[0])} masks for the 3 frames of its video; both must be of one download"
    )
    with pytest.raises(DataError, match=said):
        source.load(split)


def test_a_mapping_is_no_list_of_masks(tmp_path):
    path = write_mevis(tmp_path) / "train" / "mask_dict.json"
    for content, place in (({"0": {"2": None}}, "0/2"), ({"0": None}, "0"), ([None], "0"), (7, "")):
        path.write_text(json.dumps(content))
        with pytest.raises(
            DataError, match=rf"mask_dict.json: not a list of run lengths for each annotation, at '{place}'"
        ):
            find_source(tmp_path).load("train")


def test_names_of_python_2_are_read(tmp_path):
    """A file as `cPickle` wrote it: its texts are bytes."""
    folder = write_refcoco(tmp_path)
    words = b"".join(
        [
            b"(lp0\n(dp1\nS'ref_id'\nI5\nsS'ann_id'\nI101\nsS'image_id'\nI7\nsS'category_id'\nI18\ns",
            b"S'split'\nS'val'\nsS'sentences'\n(lp2\n(dp3\nS'sent'\nS'caf\\xe9 dog'\nsS'sent_id'\nI9\nsasa.",
        ]
    )
    (folder / "refs(unc).p").write_bytes(words)
    rows = find_source(folder).load("val")
    assert rows["reference"] == ["café dog"]
    assert rows["id"] == ["5_9"]


def test_what_could_be_two_things_needs_a_name(tmp_path):
    folder = write_refcoco(tmp_path)
    (folder / "refs(google).p").write_bytes(pickle.dumps([]))
    with pytest.raises(DataError, match="it could be refcoco unc or refcoco google; say which"):
        find_source(folder)
    assert find_source(folder, subset="unc").splits() == ["train", "val", "testA"]
    assert sorted(FRAMES) == FRAMES
