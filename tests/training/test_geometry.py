"""Masks are compared inside the frame: neither the padding of a square nor its stretching counts."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from grpo_helpers import build
from PIL import Image

from aurora_trl.annotation.mining import score_answer
from aurora_trl.data.masks import NO_TARGET, frame_extents, load_masks
from aurora_trl.data.schema import FEATURES
from aurora_trl.evaluation.iou import mask_iou
from aurora_trl.generation.answer import Answer
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.training.losses import mask_bce_loss, mask_dice_loss, pairwise_mask_losses
from aurora_trl.training.mask_config import MaskTrainingArguments
from aurora_trl.training.mask_losses import mask_losses
from aurora_trl.training.object_losses import object_losses

ARGS = MaskTrainingArguments()


@pytest.fixture
def wide():
    """Logits of a decoder at half the size, and targets of frames that take 18 of 32 lines."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 16, 16, generator=generator)
    masks = torch.full((2, 3, 32, 32), NO_TARGET, dtype=torch.uint8)
    masks[:, :, :18] = (torch.rand(2, 3, 18, 32, generator=generator) > 0.5).byte()
    masks[1, 2] = NO_TARGET  # nobody annotated it
    return logits, masks


def in_frame(logits):
    return F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)[:, :, :18]


def test_extents(wide):
    masks = wide[1]
    assert frame_extents(masks) == [(18, 32), (18, 32)]
    assert frame_extents(torch.full_like(masks[:1], NO_TARGET)) == [(32, 32)]


def test_a_strip_keeps_a_line(processor):
    """A panorama of 4000 x 16 pixels takes half a line of a square of 32; it has one."""
    row, drawn = torch.zeros(1, 16, 4000, dtype=torch.uint8), torch.full((1, 8, 8), -9.0)
    row[0, :, :2000] = 1
    masks = processor.process_masks(row.numpy())
    assert frame_extents(masks[None]) == [(1, masks.size(-1))]
    assert masks[0, 0].float().mean() == 0.5
    drawn[:, :, :4] = 9.0
    restored = processor.restore_masks(drawn, (16, 4000))
    assert restored.shape[1] == 1
    assert processor.process_mask_frames(np.zeros((1, 16, 4000, 3), np.uint8)).isfinite().all()
    assert mask_iou(restored, masks[:, :1]) == 1


def test_losses_are_those_of_the_frame(wide):
    logits, masks = wide
    _, metrics = mask_losses(logits, masks, torch.tensor([True, True]), ARGS)
    frames = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    cut, target = in_frame(logits), masks[:, :, :18].float()
    bce = [F.binary_cross_entropy_with_logits(cut[f], target[f]) for f in frames]
    dice = [mask_dice_loss(cut[f], target[f]) for f in frames]
    torch.testing.assert_close(metrics["mask_bce_loss"], torch.stack(bce).mean())
    torch.testing.assert_close(metrics["mask_dice_loss"], torch.stack(dice).mean())
    apart = torch.full((2, 1, *masks.shape[1:]), NO_TARGET, dtype=torch.uint8)
    apart[:, 0] = masks
    _, several = object_losses(logits[:, None], masks, apart, torch.tensor([[True], [True]]), ARGS)
    torch.testing.assert_close(several, metrics)


def test_what_is_drawn_in_the_padding_moves_nothing(wide):
    logits, masks = wide
    logits = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False).requires_grad_()
    loss, _ = mask_losses(logits, masks, torch.tensor([True, True]), ARGS)
    loss.backward()
    assert (logits.grad[:, :, 18:] == 0).all()
    assert (logits.grad[0, :, :18] != 0).any()


def test_pairs_of_the_frame(wide):
    logits, masks = wide
    inside = masks[:, None] != NO_TARGET
    pairs = pairwise_mask_losses(
        F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)[:, None], masks[:, None] * inside, inside
    )
    plain = pairwise_mask_losses(in_frame(logits)[:, None], masks[:, None, :, :18].float())
    for ours, theirs in zip(pairs, plain, strict=True):
        torch.testing.assert_close(ours[0], theirs[0])


def test_iou_of_a_mask_that_runs_below_the_frame(wide):
    masks = wide[1]
    drawn = torch.where(masks == 1, 1.0, -1.0)
    drawn[:, :, 18:] = 1.0
    assert mask_iou(drawn, masks).tolist() == [1.0, 1.0]
    assert mask_iou(torch.full_like(drawn[:1, :1], -1.0), torch.zeros(1, 1, 32, 32)).tolist() == [1.0]  # both empty


def test_square_frames_are_compared_as_ever():
    """To the bit: nothing of a square frame is padding."""
    generator = torch.Generator().manual_seed(2)
    logits, masks = (
        torch.randn(4, 10, 32, 32, generator=generator),
        torch.rand(4, 10, 32, 32, generator=generator) > 0.7,
    )
    inside = torch.ones_like(masks)
    for loss in (mask_bce_loss, mask_dice_loss):
        assert torch.equal(loss(logits, masks), loss(logits, masks, inside=inside))


@pytest.fixture
def wide_row(tmp_path):
    """A clip of 16:9 with a disc low in each frame."""
    height, width = 90, 160
    offsets = np.indices((height, width)) - np.array([70, 40])[:, None, None]
    disc = (offsets**2).sum(axis=0) < 18**2
    frames, masks = [], []
    for i in range(10):
        frames.append(str(tmp_path / f"{i}.jpg"))
        masks.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (width, height), (90, i, i)).save(frames[-1])
        Image.fromarray(disc.astype(np.uint8)).save(masks[-1])
    row = {"id": "wide", "reference": "it", "class_name": "disc", "is_null": False, "frames": frames, "video": None}
    return {
        **row,
        "audio": None,
        "masks": masks,
        "num_objects": None,
        "target": None,
        "prefill": None,
        "split": "train",
    }


@pytest.mark.parametrize("keep_aspect_ratio", [True, False], ids=["padded", "stretched"])
def test_a_perfect_mask_is_mined_as_one(keep_aspect_ratio, wide_row, processor):
    processor = copy.copy(processor)
    processor.keep_aspect_ratio = keep_aspect_ratio
    square = ClipLoader(processor).masks(wide_row)
    low = torch.where(square == 1, 4.0, -4.0)  # as a decoder would draw it, in the square
    logits = processor.restore_masks(low, (90, 160))
    assert logits.shape[1] / logits.shape[2] == pytest.approx(9 / 16, abs=0.01)
    answer = Answer(wide_row, "the target is the disc. It is [SEG].", logits, 8)
    assert score_answer(answer, ClipLoader(processor)).iou > 0.9
    assert load_masks(wide_row).shape == (10, 90, 160)


def test_rewards_see_the_frame(wide_row, model, processor, tmp_path):
    shapes = []

    def shape_reward(prompts, completions, pred_masks, masks, **columns):
        shapes.extend(tuple(mask.shape) for mask in masks)
        shapes.extend(tuple(mask.shape) for mask in pred_masks if mask is not None)
        assert all(int(mask.max()) <= 1 for mask in masks)
        return [0.0] * len(masks)

    dataset = Dataset.from_list([wide_row] * 2, features=FEATURES)
    settings = {"rewards": [shape_reward], "max_steps": 1, "max_completion_length": 4}
    build(model, dataset, processor, tmp_path, **settings).train()
    assert set(shapes) == {(10, 18, 32)}
