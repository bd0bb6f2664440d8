"""Rows that mark an object without drawing it: what they may hold, and where it lies in the decoder's square."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from aurora_trl.data import DataError, load_json
from aurora_trl.data.hints import box_iou, check_hints, fill_boxes, hinted_frames, is_marked
from aurora_trl.data.masks import NO_TARGET
from aurora_trl.data.mixture import Source, mix_datasets
from aurora_trl.data.schema import annotated_frames
from aurora_trl.data.validation import check_dataset, find_problems
from aurora_trl.generation.clip_loader import ClipLoader, stack_hints
from aurora_trl.models.mask_geometry import MaskGeometry

BOX = [[1.0, 2.0, 3.0, 5.0], None, []]


def test_boxes_are_filled():
    """Every pixel that a box touches; a frame without the object, or not annotated, is empty."""
    planes = fill_boxes([[1, 2, 3, 5], None, [], [-3.5, 0.5, 0.5, 1.5]], (6, 4))
    assert planes[0].sum() == 6
    assert planes[0, 2:5, 1:3].all()
    assert planes[3, :2, 0].all()
    assert planes.sum() == 6 + 2


@pytest.mark.parametrize("keep_aspect_ratio", [True, False])
def test_points_lie_where_masks_do(keep_aspect_ratio):
    """A frame of 40 x 20 in a square of 20: its upper half, or all of it."""
    geometry = MaskGeometry(20, 20, [0, 0, 0], [1, 1, 1], keep_aspect_ratio)
    planes = geometry.process_points([[[30, 10], [39.9, 19.9, 0]], None], (20, 40))
    rows = 1 if keep_aspect_ratio else 2
    assert (planes[0] != NO_TARGET).sum() == 2
    assert planes[0, 5 * rows, 15] == 1
    assert planes[0, 10 * rows - 1, 19] == 0
    assert (planes[1] == NO_TARGET).all()
    drawn = np.zeros((1, 20, 40), np.uint8)
    drawn[0, 8:12, 28:32] = 1
    assert geometry.process_masks(drawn)[0][planes[0] == 1].all()


def test_which_frames_are_marked():
    row = {"boxes": [None, [0, 0, 1, 1], None], "points": [None, None, [[1, 1]]]}
    assert [value is not None for value in hinted_frames(row)] == [False, True, True]
    assert annotated_frames(row) == (1, 2)
    assert annotated_frames({"boxes": [None, []]}) == (1,)
    assert is_marked(row)
    assert is_marked({"is_null": True})
    assert not is_marked({"masks": [None], "boxes": [None], "points": None})


@pytest.mark.parametrize(
    ("hints", "fault"),
    [
        ({"boxes": [[0, 0, 1]]}, "a box is"),
        ({"boxes": [[3, 0, 1, 1]]}, "a box goes from its upper left"),
        ({"boxes": [[0, 0, 1, float("nan")]]}, "a box is"),
        ({"boxes": [None, None]}, "2 `boxes` for 1 frames; give one per frame"),
        ({"points": [[1, 2]]}, "points are a list of"),
        ({"points": [[[1, 2, 5]]]}, "the third number of a point is 1 on the object, or 0 off it"),
        ({"points": [[["1", 2]]]}, "points are a list of"),
        ({"boxes": [[0.2, 0.2, 0.8, 1.0]]}, "give places in pixels, not as shares of the frame"),
        ({"points": [[[0.5, 0.5], [0.1, 0.9, 0]]]}, "give places in pixels, not as shares of the frame"),
    ],
    ids=str,
)
def test_bad_hints_are_one_line(hints, fault, tmp_path):
    with pytest.raises(DataError, match=rf"row 'r1': .*{fault}"):
        check_hints({"id": "r1", "frames": ["a.jpg"], **hints})
    row = {"id": "r1", "reference": "the drum", "frames": ["a.jpg"], **hints}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row).replace("NaN", "1e999") + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl, line 1"):
        load_json(tmp_path / "rows.jsonl")


def test_hints_of_a_file(processor, tmp_path):
    """Kept through the dataset, checked, and as planes of the frames that the model takes."""
    for number in range(3):
        Image.new("RGB", (48, 48), (9, 9, 9)).save(tmp_path / f"{number}.jpg")
    frames = [f"{number}.jpg" for number in range(3)]
    rows = [
        {"id": "box", "reference": "the drum", "frames": frames, "boxes": [[0, 0, 24, 48], None, []]},
        {"id": "point", "reference": "the drum", "frames": frames, "points": [None, [[47, 0], [0, 47, 0]], None]},
        {"id": "class", "reference": "the drum", "frames": frames, "class_name": "drum"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_json(tmp_path / "rows.jsonl")
    assert check_dataset(dataset) == []
    box, point, plain = dataset.to_list()
    assert box["boxes"][1] is None
    loader = ClipLoader(processor)
    size = processor.mask_target_size
    drawn = loader.hints(box)["box_masks"]
    assert torch.equal(drawn[0, :, : size // 2], torch.ones(size, size // 2, dtype=torch.uint8))
    assert not drawn[0, :, size // 2 :].any()
    small = loader.hints({**box, "boxes": [[20.2, 20.2, 20.4, 20.4], None, None]})["box_masks"]
    assert (small[0] == 1).sum() == 1
    assert (drawn[1:] == NO_TARGET).all()
    masks = loader.masks(box)
    assert (masks[:2] == NO_TARGET).all()
    assert not masks[2].any()  # the object is known not to be there
    planes = loader.hints(point)["point_masks"]
    assert (planes[1, 0, -1], planes[1, -1, 0]) == (1, 0)
    stacked = stack_hints([loader.hints(box), loader.hints(point)], torch.stack([masks, loader.masks(point)]))
    assert (stacked["box_masks"][1] == NO_TARGET).all()
    assert loader.hints(plain) == {}
    with pytest.raises(DataError, match=r"row 'class': it has no masks, boxes or points; .*`allow_unmarked_rows`"):
        loader.masks(plain)
    for hints, fault in (
        ({"boxes": [[48, 0, 60, 9], None, None]}, r"the box .* lies outside the frame of 48x48"),
        ({"points": [None, None, [[48, 3]]]}, r"the point \[48, 3\] lies outside"),
        ({"points": [None]}, "1 points for 3 frames"),
    ):
        (problem,) = check_dataset([{**plain, **hints}])
        with pytest.raises(DataError, match=fault) as error:
            loader.hints({**plain, **hints})
        assert "frames" in fault or str(error.value) == problem
    loader.allow_unmarked = True
    assert (loader.masks(plain) == NO_TARGET).all()


def test_boxes_in_other_numbers_are_told(tmp_path):
    """Width and height in place of the lower right corner, or thousandths of the frame."""
    Image.new("RGB", (640, 480)).save(tmp_path / "frame.png")
    row = {"id": "r1", "reference": "the drum", "is_null": False, "frames": [str(tmp_path / "frame.png")]}
    (problem,) = find_problems([{**row, "boxes": [[100, 200, 900, 450]]}])
    assert (problem.kind, problem.stops_training) == ("outside", False)
    assert "the box [100, 200, 900, 450] goes beyond its frame of 640x480 pixels" in problem.text
    assert find_problems([{**row, "boxes": [[-0.5, 200, 640.9, 450]]}]) == []
    masked = {**row, "masks": ['{"polygons": [[100, 200, 150, 200, 150, 290, 100, 290]]}']}
    (problem,) = find_problems([{**masked, "boxes": [[10, 20, 50, 90]]}])
    assert problem.kind == "contradiction"
    assert (
        "the box [10, 20, 50, 90] of frame 0 is not around its mask, which lies in [100.0, 200.0, 151.0"
        in problem.text
    )
    for honest in ([100, 200, 150, 290], [90, 195, 160, 300], [], None):
        assert find_problems([{**masked, "boxes": [honest]}]) == []
    assert box_iou([0, 0, 2, 2], [1, 1, 3, 3]) == pytest.approx(1 / 7)
    assert box_iou([0, 0, 1, 1], [5, 5, 6, 6]) == 0


def test_numbers_of_boxes_are_of_one_kind(tmp_path):
    """Whole numbers in one dataset, fractions in another, none in a third: a mixture holds them all."""
    rows = {"id": "r1", "reference": "the drum", "frames": ["a.jpg"]}
    sources = []
    for name, box in (("a", [1, 2, 3, 4]), ("b", [1.5, 2.0, 3.0, 4.0]), ("c", None)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**rows, "boxes": [box]}) + "\n")
        sources.append(Source(name, 1.0, load_json(tmp_path / f"{name}.jsonl")))
    assert mix_datasets(sources)["boxes"] == [[[1, 2, 3, 4]], [[1.5, 2, 3, 4]], [None]]
