"""Rewards of written boxes and points: numbers worked by hand."""

import pytest
import torch

from aurora_trl.data.masks import NO_TARGET
from aurora_trl.training.rewards import (
    bbox_format_reward,
    bbox_iou_reward,
    bbox_l1_reward,
    get_reward,
    no_target_reward,
    point_in_mask_reward,
    require_fitting_rewards,
)

NAN = float("nan")
# A frame of 10 x 20 pixels: rows 2 to 5, columns 4 to 11; in shares 0.2, 0.2, 0.6, 0.6.
MASK = torch.zeros(3, 10, 20, dtype=torch.uint8)
MASK[:2, 2:6, 4:12] = 1  # it leaves before the last frame
EMPTY = torch.zeros_like(MASK)
UNKNOWN = torch.full_like(MASK, NO_TARGET)


def boxes(*frames):
    """One object's, `(1, 3, 4)`; None for a frame that was not named."""
    return torch.tensor([[NAN] * 4 if frame is None else frame for frame in frames])[None]


def points(*frames):
    return torch.tensor([[NAN] * 2 if frame is None else frame for frame in frames])[None]


RIGHT, HALF = [0.2, 0.2, 0.6, 0.6], [0.2, 0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("written", "masks", "iou", "l1"),
    [
        (boxes(RIGHT, RIGHT, RIGHT), MASK, 1.0, 1.0),  # the last frame, without the object, does not count
        (boxes(HALF, HALF, HALF), MASK, 0.5, 0.5),  # one edge of four is 0.2 away: 0.05 of 0.1
        (boxes(HALF, RIGHT, RIGHT), MASK, 0.75, 0.75),
        (boxes(None, HALF, None), MASK, 0.5, 0.5),  # the frame that it names
        (boxes(None, None, RIGHT), MASK, 0.0, 0.0),  # where the object is not
        (boxes(*[[0.6, 0.6, 1.0, 1.0]] * 3), MASK, 0.0, 0.0),  # they touch: 0.4 away
        (boxes(*[[0.3, 0.2, 0.6, 0.6]] * 3), MASK, 0.75, 0.75),
        (None, MASK, 0.0, 0.0),
        (boxes(RIGHT, RIGHT, RIGHT), EMPTY, None, None),
        (None, EMPTY, None, None),
        (boxes(RIGHT, RIGHT, RIGHT), UNKNOWN, None, None),
        # Points alone.
        (boxes(None, None, None), MASK, 0.0, 0.0),
        # Two objects, whose box is that around both.
        (torch.cat([boxes(HALF, HALF, HALF), boxes(*[[0.4, 0.2, 0.6, 0.6]] * 3)]), MASK, 1.0, 1.0),
        (torch.cat([boxes(HALF, None, HALF), boxes(*[[0.4, 0.2, 0.6, 0.6]] * 3)]), MASK, 0.75, 0.75),
    ],
)
def test_boxes(written, masks, iou, l1):
    for reward, expected in ((bbox_iou_reward, iou), (bbox_l1_reward, l1)):
        (value,) = reward(["p"], ["c"], pred_boxes=[written], masks=[masks])
        assert value == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize(
    ("written", "masks", "expected"),
    [
        (points(*[[0.4, 0.4]] * 3), MASK, 1.0),
        (points([0.4, 0.4], [0.1, 0.4], [0.4, 0.4]), MASK, 0.5),
        (points(None, [0.59, 0.59], None), MASK, 1.0),  # the last pixel: column 11, row 5
        (points(None, [0.6, 0.4], None), MASK, 0.0),  # column 12
        (points(None, [1.0, 1.0], None), MASK, 0.0),  # the frame's last pixel, not outside of it
        (points(None, None, [0.4, 0.4]), MASK, 0.0),
        (points(None, None, None), MASK, 0.0),
        (None, MASK, 0.0),
        (points(*[[0.4, 0.4]] * 3), EMPTY, None),
        (torch.cat([points(*[[0.4, 0.4]] * 3), points([0.9, 0.9], None, None)]), MASK, 2 / 3),
    ],
)
def test_points(written, masks, expected):
    (value,) = point_in_mask_reward(["p"], ["c"], pred_points=[written], masks=[masks])
    assert value == (None if expected is None else pytest.approx(expected))


def test_a_row_without_masks_has_its_box():
    filled = MASK.clone()
    filled[0] = NO_TARGET  # a frame that nobody marked
    for reward, given in ((bbox_iou_reward, "pred_boxes"), (point_in_mask_reward, "pred_points")):
        written = boxes(RIGHT, HALF, RIGHT) if given == "pred_boxes" else points(*[[0.4, 0.4]] * 3)
        (value,) = reward(["p"], ["c"], masks=[UNKNOWN], box_masks=[filled], **{given: [written]})
        assert value == pytest.approx(0.5 if given == "pred_boxes" else 1.0)


def test_the_format_is_what_was_read():
    texts = ["so [{}]", "Nothing fits.", "It is [SEG]."]
    assert bbox_format_reward(["p"] * 3, texts, pred_boxes=[None] * 3) == [0.0, 1.0, 0.0]
    assert bbox_format_reward(["p"], ["..."], pred_boxes=[boxes(RIGHT, None, None)]) == [1.0]


def test_no_target():
    texts = ["Nothing fits.", "Nothing fits.", "the target is null. [{}]", "It is that.", "It is that."]
    nulls = [True, False, True, False, True]
    assert no_target_reward(["p"] * 5, texts, is_null=nulls) == [1.0, 0.0, 1.0, 1.0, 0.0]


def test_rewards_by_name_go_with_a_source_of_masks():
    assert get_reward("bbox_l1_reward") is bbox_l1_reward
    require_fitting_rewards(["iou_reward", "bbox_format_reward", "no_target_reward"], "box")
    require_fitting_rewards(["iou_reward", "format_reward", "no_target_reward"], "seg")
    with pytest.raises(ValueError, match="`mask_source: box`, and `format_or_null_reward` asks for"):
        require_fitting_rewards(["iou_reward", "format_or_null_reward"], "box")
    with pytest.raises(ValueError, match="`mask_source: seg`, and `bbox_l1_reward` is about boxes in the answer"):
        require_fitting_rewards(["bbox_l1_reward"], "seg")
