"""Losses, with the arithmetic worked by hand."""

import math

import pytest
import torch

from aurora_trl.training.losses import (
    existence_loss,
    mask_bce_loss,
    mask_dice_loss,
    seg_alignment_loss,
    seg_distillation_loss,
)


def test_bce_by_hand():
    # sigmoid(0) = 1/2: -log(1/2) at every pixel, whatever the target.
    logits, masks = torch.zeros(2, 3, 4, 4), torch.randint(0, 2, (2, 3, 4, 4))
    assert mask_bce_loss(logits, masks).item() == pytest.approx(math.log(2))
    # One pixel: logit 2, target 1: log(1 + e^-2) = 0.126928; logit 2, target 0: 2.126928.
    one = torch.full((1, 1, 1), 2.0)
    assert mask_bce_loss(one, torch.ones(1, 1, 1)).item() == pytest.approx(0.126928, abs=1e-6)
    assert mask_bce_loss(one, torch.zeros(1, 1, 1)).item() == pytest.approx(2.126928, abs=1e-6)


def test_bce_is_a_mean_per_mask_and_then_over_masks():
    logits = torch.zeros(2, 2, 2)
    logits[0] = 2.0
    masks = torch.ones(2, 2, 2)
    assert mask_bce_loss(logits, masks).item() == pytest.approx((0.126928 + math.log(2)) / 2, abs=1e-6)


def test_dice_by_hand():
    # 4 pixels at 1/2, 2 of them in the target: intersection 1, sums 2 and 2 (all / 1000):
    # 1 - (2 * 0.001 + 1e-6) / (0.004 + 1e-6) = 1 - 0.002001 / 0.004001 = 0.499875
    logits = torch.zeros(1, 2, 2)
    masks = torch.tensor([[[1, 1], [0, 0]]])
    assert mask_dice_loss(logits, masks).item() == pytest.approx(0.499875, abs=1e-6)
    # A perfect mask costs nothing, an empty prediction of a full target everything.
    sure = torch.where(masks.bool(), 50.0, -50.0)
    assert mask_dice_loss(sure, masks).item() == pytest.approx(0.0, abs=1e-6)
    # 1 - 1e-6 / (0.004 + 1e-6) = 0.99975
    assert mask_dice_loss(torch.full((1, 2, 2), -50.0), torch.ones(1, 2, 2)).item() == pytest.approx(0.99975, abs=1e-5)


def test_distillation_by_hand():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    loss = seg_distillation_loss(student, teacher)  # rows: (1 + 4) / 2 and 4 / 2; mean 2.25
    assert loss.item() == pytest.approx(2.25)
    loss.backward()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_weights_choose_masks(loss):
    logits, masks = torch.randn(3, 2, 5, 5), torch.randint(0, 2, (3, 2, 5, 5))
    weights = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(loss(logits, masks, weights=weights), loss(logits[[0, 2]], masks[[0, 2]]))


def test_no_weight_at_all_is_zero_with_a_gradient():
    logits = torch.randn(2, 1, 3, 3, requires_grad=True)
    loss = mask_dice_loss(logits, torch.ones(2, 1, 3, 3), weights=torch.zeros(2, 1))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_alignment_by_hand():
    """Rows 0 and 1 are partners at cosine 0.6, row 2 is another at cosines 0 and 0.8; row 3 has no `[SEG]`."""
    features = torch.tensor([[2.0, 0.0], [0.6, 0.8], [0.0, 5.0], [1.0, 1.0]], requires_grad=True)
    relations = torch.tensor([[0, 1, -1, 1], [1, 0, -1, 1], [-1, -1, 0, -1], [1, 1, -1, 0]])
    has_seg = torch.tensor([True, True, True, False])
    loss = seg_alignment_loss(features, relations, has_seg=has_seg, temperature=0.5)
    first = math.log(math.exp(1.2) + math.exp(0.0)) - 1.2
    second = math.log(math.exp(1.2) + math.exp(1.6)) - 1.2
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    loss.backward()
    assert features.grad.isfinite().all()
    assert not features.grad[3].any()
    nobody = seg_alignment_loss(features, relations * 0, has_seg=has_seg, temperature=0.5)
    assert nobody.item() == 0.0
    assert nobody.requires_grad


def test_existence_by_hand():
    logits, exists = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([True, False, False])
    weights = torch.tensor([1.0, 1.0, 0.0])
    expected = (math.log(2) + math.log(1 + math.exp(2.0))) / 2
    assert existence_loss(logits, exists, weights=weights).item() == pytest.approx(expected, rel=1e-6)
    assert existence_loss(logits, exists, weights=weights * 0).item() == 0.0
