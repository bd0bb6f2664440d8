"""What has no target has no part in losses, IoU and reward."""

from types import SimpleNamespace

import pytest
import torch

from aurora_trl.data.masks import NO_TARGET
from aurora_trl.evaluation.iou import mask_iou
from aurora_trl.training.mask_losses import mask_losses
from aurora_trl.training.rewards import iou_reward

WEIGHTS = SimpleNamespace(mask_bce_loss_weight=1.0, mask_dice_loss_weight=1.0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    masks = (torch.rand(2, 3, 8, 8, generator=generator) > 0.6).to(torch.uint8)
    return logits, masks


def test_frames_without_a_target_do_not_count(batch):
    logits, masks = batch
    kept_logits, kept_masks = logits[:, :1], masks[:, :1].clone()
    has_seg = torch.tensor([True, False])
    expected = mask_losses(kept_logits, kept_masks, has_seg, WEIGHTS)[0]
    masks[:, 1:] = NO_TARGET
    loss, _ = mask_losses(logits.requires_grad_(), masks, has_seg, WEIGHTS)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[:, 1:].any()
    assert logits.grad[0, 0].any()
    torch.testing.assert_close(mask_iou(logits, masks), mask_iou(kept_logits, kept_masks))
    rewards = iou_reward([None] * 2, [""] * 2, list(logits.detach()), list(masks))
    assert rewards == pytest.approx(mask_iou(kept_logits, kept_masks).tolist())


def test_where_all_frames_have_a_target_the_loss_is_the_mean_over_rows(batch):
    logits, masks = batch
    both = mask_losses(logits, masks, torch.tensor([True, True]), WEIGHTS)[0]
    alone = [mask_losses(logits[i : i + 1], masks[i : i + 1], torch.tensor([True]), WEIGHTS)[0] for i in range(2)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    half = mask_losses(logits, masks, torch.tensor([True, False]), WEIGHTS)[0]
    torch.testing.assert_close(half, alone[0] / 2)
