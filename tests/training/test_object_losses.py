"""Predictions and objects are paired by the least loss; a prediction too many learns to draw nothing."""

from types import SimpleNamespace

import pytest
import torch

from aurora_trl.data.masks import NO_TARGET
from aurora_trl.training.losses import mask_bce_loss, mask_dice_loss, pairwise_mask_losses
from aurora_trl.training.mask_losses import mask_losses
from aurora_trl.training.object_losses import match_objects, object_losses

WEIGHTS = SimpleNamespace(mask_bce_loss_weight=1.0, mask_dice_loss_weight=1.0)
LEFT, RIGHT, NOTHING = [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]


def planes(*objects):
    """Masks of one frame with two rows of four pixels, `(N, 1, 2, 4)`."""
    return torch.tensor(objects, dtype=torch.uint8)[:, None, None].expand(-1, 1, 2, -1).contiguous()


def logits_of(masks, scale=6.0):
    """Predictions that draw masks well, but not perfectly."""
    return (masks.float() * 2 - 1) * scale


def absent(count):
    return torch.full((count, 1, 2, 4), NO_TARGET, dtype=torch.uint8)


def loss_of(prediction, target):
    return mask_bce_loss(prediction, target) + mask_dice_loss(prediction, target)


def test_pairs_have_the_losses_of_single_masks():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 8, 6, generator=generator)
    masks = (torch.rand(2, 2, 4, 8, 6, generator=generator) > 0.6).to(torch.uint8)
    masks[0, 1, 2] = 0
    bce, dice = pairwise_mask_losses(logits, masks)
    assert bce.shape == dice.shape == (2, 3, 2, 4)
    for b, k, n, t in [(0, 0, 0, 0), (0, 2, 1, 2), (1, 1, 1, 3), (1, 2, 0, 1)]:
        torch.testing.assert_close(bce[b, k, n, t], mask_bce_loss(logits[b, k, t], masks[b, n, t]))
        torch.testing.assert_close(dice[b, k, n, t], mask_dice_loss(logits[b, k, t], masks[b, n, t]))


def test_matching_by_hand():
    """Left, right and one prediction that draws all: the pairs that together cost least, whatever the order."""
    left, right = planes(LEFT)[0], planes(RIGHT)[0]
    everything = planes([1, 1, 1, 1])[0]
    logits = torch.stack(
        [
            torch.stack([logits_of(right), logits_of(left)]),
            torch.stack([logits_of(everything), logits_of(left)]),
            torch.stack([logits_of(left), logits_of(right)]),
            torch.stack([logits_of(left), logits_of(right)]),
        ]
    )
    objects = torch.stack([planes(LEFT, RIGHT)] * 2 + [torch.cat([planes(RIGHT), absent(1)]), absent(2)])
    has_seg = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    assert match_objects(logits, objects, has_seg, WEIGHTS).tolist() == [[1, 0], [1, 0], [-1, 0], [-1, -1]]
    # A single prediction, and two objects.
    has_seg[0, 1] = False
    assert match_objects(logits, objects, has_seg, WEIGHTS)[0].tolist() == [1, -1]


def test_the_least_sum_is_not_the_best_pair_first():
    """
    Cross-entropy alone, by hand: the first prediction costs 0.37 with left and 1.87 with right, the second 0.66 and
    4.66. The cheapest pair first would be 0.37 + 4.66.
    """
    halves = torch.tensor([[3.0, 0.0], [-1.0, -9.0]])
    logits = halves.repeat_interleave(2, dim=1)[:, None, None].expand(-1, 1, 2, -1)
    weights = SimpleNamespace(mask_bce_loss_weight=1.0, mask_dice_loss_weight=0.0)
    costs = pairwise_mask_losses(logits, planes(LEFT, RIGHT))[0][..., 0]
    torch.testing.assert_close(costs, torch.tensor([[0.37, 1.87], [0.66, 4.66]]), atol=0.01, rtol=0)
    assert match_objects(logits[None], planes(LEFT, RIGHT)[None], torch.ones(1, 2).bool(), weights).tolist() == [
        [1, 0]
    ]


def test_losses_by_hand():
    left, right, nothing = planes(LEFT)[0], planes(RIGHT)[0], planes(NOTHING)[0]
    generator = torch.Generator().manual_seed(0)
    first = logits_of(right) + torch.randn(1, 2, 4, generator=generator)
    second = logits_of(left) + torch.randn(1, 2, 4, generator=generator)
    logits = torch.stack([first, second])
    both = planes([1, 1, 1, 1])[0]
    cases = {
        "matched": (planes(LEFT, RIGHT), both, [1, 1], (loss_of(first, right) + loss_of(second, left)) / 2),
        "surplus": (
            torch.cat([planes(LEFT), absent(1)]),
            left,
            [1, 1],
            (loss_of(first, nothing) + loss_of(second, left)) / 2,
        ),
        "missing": (planes(LEFT, RIGHT), both, [1, 0], loss_of(first, right)),
        "together": (absent(2), both, [1, 1], loss_of(torch.maximum(first, second), both)),
        "together, one": (absent(2), left, [1, 0], loss_of(first, left)),
        "none": (planes(LEFT, RIGHT), both, [0, 0], torch.tensor(0.0)),
    }
    batch, expected = [], []
    for name, (objects, union, has_seg, loss) in cases.items():
        arguments = (logits, union, objects, torch.tensor(has_seg).bool())
        alone, metrics = object_losses(*(value[None] for value in arguments), WEIGHTS)
        torch.testing.assert_close(alone, loss, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(metrics["mask_bce_loss"] + metrics["mask_dice_loss"], loss)
        batch.append(arguments)
        expected.append(loss)
    # A batch is the mean over its rows, the one without `[SEG]` among them.
    together = object_losses(*(torch.stack(values) for values in zip(*batch, strict=True)), WEIGHTS)[0]
    torch.testing.assert_close(together, torch.stack(expected).mean())


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_one_seg_and_one_object_cost_what_they_always_do(apart):
    """Frames without annotation, rows without `[SEG]` and another resolution among them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 4, 4, generator=generator, requires_grad=True)
    masks = (torch.rand(3, 4, 8, 8, generator=generator) > 0.6).to(torch.uint8)
    masks[1, 2:] = NO_TARGET
    objects = torch.full((3, 2, 4, 8, 8), NO_TARGET, dtype=torch.uint8)
    if apart:
        objects[:, 0] = masks
    has_seg = torch.tensor([[True, False], [True, False], [False, False]])
    loss, metrics = object_losses(logits, masks, objects, has_seg, WEIGHTS)
    expected, parts = mask_losses(logits[:, 0], masks, has_seg[:, 0], WEIGHTS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics, parts)
    loss.backward()
    assert logits.grad[0, 0].any()
    assert not logits.grad[:, 1].any()
    assert not logits.grad[2].any()
    assert not logits.grad[1, 0, 2:].any()
