"""Clips of which few frames have a mask: the model is shown these, and two choices of one clip are never mixed up."""

import numpy as np
import pytest
from PIL import Image

from aurora_trl.data.masks import mask_indices
from aurora_trl.data.media.loading import frame_indices, load_frames, taken_frames
from aurora_trl.data.schema import clip_key, view_key
from aurora_trl.data.validation import describe_few_annotated
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.feature_store import clip_digest


def row_of(total, annotated, **columns):
    masks = [f"{number}.png" if number in annotated else None for number in range(total)]
    return {"id": "a", "frames": [f"{number}.jpg" for number in range(total)], "masks": masks, **columns}


@pytest.mark.parametrize("total", range(1, 162))
def test_every_clip_with_an_annotated_frame_is_seen_with_one(total):
    for annotated in ({0}, {total // 2}, {total - 1}, set(range(0, total, 5)), set(range(3, total, 30))):
        taken = taken_frames(row_of(total, annotated), 10)
        assert taken == sorted(set(taken))
        assert len(taken) == min(total, 10)
        assert not annotated or any(index != -1 for index in mask_indices(row_of(total, annotated), 10))
    # One in five: each of the ten has a mask as soon as its part of the clip has one.
    if total >= 50:
        assert all(number % 5 == 0 for number in taken_frames(row_of(total, set(range(0, total, 5))), 10))


def test_the_nearest_annotated_frame_takes_a_frames_place():
    assert frame_indices(20, 4) == [2, 7, 12, 17]
    assert taken_frames(row_of(20, {3, 4, 8, 19}), 4) == [3, 8, 12, 19]
    assert mask_indices(row_of(20, {3, 4, 8, 19}), 4) == [3, 8, -1, 19]
    for annotated in (set(), set(range(20))):
        assert taken_frames(row_of(20, annotated), 4) == [2, 7, 12, 17]


def test_two_rows_of_a_clip_see_their_own_frames(processor, tmp_path):
    for number in range(40):
        Image.fromarray(np.full((32, 32, 3), 6 * number, np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(np.full((32, 32), 255 * (number % 2), np.uint8)).save(tmp_path / f"mask_{number}.png")
    frames = [str(tmp_path / f"{number}.png") for number in range(40)]
    rows = [
        {"id": str(first), "frames": frames, "masks": [None] * 40, "reference": "it", "class_name": "drum"}
        for first in (0, 1)
    ]
    for first, row in enumerate(rows):
        row["masks"] = [str(tmp_path / f"mask_{n}.png") if n % 2 == first else None for n in range(40)]
    assert clip_key(rows[0]) == clip_key(rows[1])
    assert view_key(rows[0]) != view_key(rows[1])
    assert clip_digest(rows[0], 10, sound=False) != clip_digest(rows[1], 10, sound=False)
    loader = ClipLoader(processor, cache_clips=2)
    clips, order = loader.distinct_clips([*rows, rows[0]])
    assert order == [0, 1, 0]
    for first, row in enumerate(rows):
        shades = load_frames(row, num_frames=10)[:, 0, 0, 0]
        assert ((shades // 6) % 2 == first).all()
        assert bool((loader.masks(row) == first).all())
    assert any(not (clips[0][name] == clips[1][name]).all() for name in clips[0] if name != "frame_size")


def test_what_check_data_says():
    rows = [row_of(40, {0, 5}), row_of(40, {1}), row_of(40, set(range(0, 40, 2))), row_of(40, set())]
    rows.append(row_of(40, {3}, is_null=True))  # all its masks are empty, and known
    said = describe_few_annotated(rows, 10)
    assert said.startswith("2 rows have 1 to 2 annotated frames, and the model takes 10: ")
    assert describe_few_annotated(rows[2:], 10) is None
