"""The boxes of a row's masks as the text that a policy learns, in each policy's own coordinates."""

import json

import numpy as np
import pytest
from PIL import Image

from aurora_trl import AuroraProcessor
from aurora_trl.box_text import read_boxes
from aurora_trl.data.masks import encode_rle
from aurora_trl.generation.box_targets import BoxTargets, place_of
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.models.box_prompts import object_prompt
from aurora_trl.prompts import NULL_ANSWER
from aurora_trl.training.target_texts import longest_answer

HEIGHT, WIDTH = 30, 60


def mask_of(x1, y1, x2, y2):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


@pytest.fixture
def clip_row(tmp_path):
    """Ten frames; the object moves to the right, and is in frames 2 to 7 alone."""
    frames = []
    for number in range(10):
        frames.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(frames[-1])
    masks = [encode_rle(mask_of(5 * n, 6, 5 * n + 12, 21) if 2 <= n < 8 else mask_of(0, 0, 0, 0)) for n in range(10)]
    return {
        "id": "r",
        "reference": "the dog",
        "class_name": "big-dog",
        "is_null": False,
        "frames": frames,
        "masks": masks,
        "target": "It barks. It is [SEG].",
        "audio": None,
    }


def learn(processor, row, **settings):
    processor = processor.with_mask_source("box")
    return BoxTargets(processor, **settings)(row, ClipLoader(processor).clip(row))["target"], processor


def test_places_by_hand():
    mask = mask_of(10, 5, 17, 10)
    mask[7, 30] = 1  # a speck, which the box holds, and the point does not go to
    assert place_of(mask) == ((10.0, 5.0, 31.0, 10.0), (12.5, 7.5))
    assert place_of(np.zeros((4, 4), np.uint8)) is None
    # The edge of the picture is an edge of the object.
    assert place_of(np.ones((5, 5), np.uint8)) == ((0.0, 0.0, 5.0, 5.0), (2.5, 2.5))


def test_a_clip_in_thousandths(processor, clip_row):
    text, _ = learn(processor, clip_row)
    before, _, listed = text.partition(" [")
    assert before == "It barks."
    # Of frames 2 to 7 the middle, 5: columns 25 to 36 of 60, rows 6 to 20 of 30.
    (entry,) = json.loads(f"[{listed}")
    assert (entry["frame"], entry["bbox_2d"], entry["label"]) == (5, [417, 200, 617, 700], "big dog")
    x, y = entry["point_2d"][0] / 1000 * WIDTH, entry["point_2d"][1] / 1000 * HEIGHT
    assert mask_of(25, 6, 37, 21)[int(y), int(x)] == 1
    three, _ = learn(processor, clip_row, frames_per_object=3)
    assert [entry["frame"] for entry in json.loads(three[three.index("[") :])] == [3, 5, 7]
    many, _ = learn(processor, clip_row, frames_per_object=50)
    assert [entry["frame"] for entry in json.loads(many[many.index("[") :])] == list(range(2, 8))


def test_where_there_is_nothing_nothing_fits(processor, clip_row):
    null = {**clip_row, "is_null": True, "masks": None}
    gone = {**clip_row, "masks": [encode_rle(mask_of(0, 0, 0, 0))] * 10}
    for row in (null, gone):
        assert learn(processor, row)[0] == f"It barks. {NULL_ANSWER}"


def test_a_row_that_is_marked_by_boxes_or_points(processor, clip_row):
    marked = {**clip_row, "masks": None, "boxes": [[6, 3, 18, 12], [], *[None] * 8], "target": "It is [SEG]."}
    text, _ = learn(processor, marked)
    assert json.loads(text) == [{"frame": 0, "bbox_2d": [100, 100, 300, 400], "label": "big dog"}]
    pointed = {**clip_row, "masks": None, "points": [[[1, 1, 0], [6, 3]], *[None] * 9], "target": "It is [SEG]."}
    text, _ = learn(processor, pointed)
    assert json.loads(text) == [{"frame": 0, "point_2d": [100, 100], "label": "big dog"}]


def test_several_objects(processor, clip_row):
    two = json.dumps([encode_rle(mask_of(0, 0, 6, 6)), encode_rle(mask_of(30, 9, 36, 15))])
    row = {**clip_row, "masks": [two] * 10, "target": "It is [SEG] and [SEG]."}
    text, own = learn(processor.with_max_objects(2), row, frames_per_object=2)
    objects = read_boxes(text, 10, 2)
    # Both are called the same, in the same frames: they are two by their places.
    assert [[entry.frame for entry in one] for one in objects] == [[2, 7], [2, 7]]
    assert [one[0].box[0] for one in objects] == [0.0, 500.0]
    assert own.max_objects == 2


@pytest.mark.parametrize("kind", [False, True, "qwen3"], ids=["vl", "omni", "qwen3"])
@pytest.mark.parametrize("num_frames", [1, 10])
def test_qwens_own_coordinates(kind, num_frames, qwen_checkpoints, clip_row):
    """Qwen2.5 writes pixels of the picture as it was resized, Qwen3 thousandths; both name one place."""
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints[kind]).with_num_frames(num_frames)
    row = clip_row if num_frames > 1 else {name: clip_row[name][5:6] for name in ("frames", "masks")}
    row = {**clip_row, **row, "target": "It is [SEG]."}
    text, processor = learn(processor, row)
    clip = ClipLoader(processor).clip(row)
    view = processor.frame_view(clip)
    assert view.frame_size == (HEIGHT, WIDTH)
    _, rows, columns, *_ = clip["pixel_grid"].tolist()
    assert view.coordinate_size == ((1000, 1000) if kind == "qwen3" else (8 * rows, 8 * columns))
    ((entry,),) = read_boxes(text, num_frames)
    assert entry.frame == (None if num_frames == 1 else 5)
    # A whole coordinate is off by half of one at most.
    height, width = view.coordinate_size
    box = object_prompt((entry,), view, num_frames).boxes[-1 if num_frames == 1 else 5].tolist()
    for value, expected, side in zip(box, (25 / 60, 6 / 30, 37 / 60, 21 / 30), (width, height) * 2, strict=True):
        assert value == pytest.approx(expected, abs=0.51 / side)


def test_a_small_object_has_an_inside_in_coarse_coordinates(qwen_checkpoints, clip_row):
    """One pixel of a frame that the policy sees at half its size."""
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints[False]).with_num_frames(1)
    row = {**clip_row, "frames": clip_row["frames"][:1], "masks": [encode_rle(mask_of(3, 3, 4, 4))]}
    text, processor = learn(processor, row)
    height, width = processor.frame_view(ClipLoader(processor).clip(row)).coordinate_size
    assert round(3 * width / WIDTH) == round(4 * width / WIDTH), "its edges would be one number"
    ((entry,),) = read_boxes(text)
    left, top, right, bottom = entry.box
    assert (right - left, bottom - top) == (1.0, 1.0)
    assert (left, top) == (round(3 * width / WIDTH), round(3 * height / HEIGHT))


def test_the_longest_answer_is_measured_without_masks(processor, cot_rows):
    own = processor.with_mask_source("box")
    boxes, loader = BoxTargets(own, 2), ClipLoader(own)
    longest = longest_answer(cot_rows, own, boxes)
    written = [boxes(row, loader.clip(row)) for row in cot_rows]
    lengths = [sum(map(len, own.answer_ids(row))) for row in written]
    assert max(lengths) <= longest < 1.5 * max(lengths)
