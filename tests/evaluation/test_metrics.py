"""The official scores: against a plain reading of the rules, and by hand."""

import math

import pytest
import torch

from aurora_trl.evaluation.metrics import SegmentationMetrics, f_score, jaccard


def naive_f(logits, masks):
    """255 comparisons per frame, as the rules are written."""
    curves = []
    for x, target in zip(torch.sigmoid(logits), masks.float(), strict=True):
        if target.sum() == 0:
            continue
        scores = []
        for threshold in torch.linspace(0, 1 - 1e-10, 255):
            positive = (x >= threshold).float()
            true_positive = (positive * target).sum()
            precision = true_positive / (positive.sum() + 1e-20)
            recall = true_positive / (target.sum() + 1e-20)
            scores.append(1.3 * precision * recall / (0.3 * precision + recall))
        curves.append(torch.nan_to_num(torch.stack(scores), nan=0.0))
    return float((sum(curves) / len(curves)).max()) if curves else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_f_equals_the_naive_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(5, 16, 16, generator=generator)
    logits[0] = 100.0  # saturates at 1
    masks = (torch.rand(5, 16, 16, generator=generator) > 0.7).long()
    masks[1] = 0
    assert f_score(logits, masks) == naive_f(logits, masks)


def test_j_by_hand():
    logits = torch.full((3, 2, 2), -9.0)
    logits[0, 0] = 9.0  # 2 pixels
    logits[2, 0, 0] = -0.3  # sigmoid 0.4256 > 0.4: predicted
    masks = torch.zeros(3, 2, 2)
    masks[0, :, 0] = 1  # frame 0: 1 shared of 3
    masks[2, 0, 0] = 1  # frame 2: found
    # Frame 1: an empty target, nothing predicted: all 4 pixels agree.
    torch.testing.assert_close(jaccard(logits, masks), torch.tensor([1 / 3, 1.0, 1.0]))
    logits[1, 0, 0] = 9.0  # one pixel too many: 3 of 4
    assert jaccard(logits, masks)[1].item() == pytest.approx(0.75)


def test_s_by_hand():
    metrics = SegmentationMetrics()
    logits = torch.full((1, 2, 2, 2), -9.0)
    logits[0, 0, 0, 0] = 9.0  # 1 of 8 pixels
    metrics.update(logits, torch.zeros(1, 2, 2, 2))
    scores = metrics.compute()
    assert scores["S"] == pytest.approx(math.sqrt(1 / 8))
    assert scores["F"] == 0.0  # no frame with an object: the batch scores 0 and counts


def test_batches_of_four_whatever_comes_at_a_time():
    logits = 3 * torch.randn(10, 3, 16, 16)
    masks = (torch.rand(10, 3, 16, 16) > 0.5).long()
    results = []
    for size in (1, 3, 4, 10):
        metrics = SegmentationMetrics()
        for start in range(0, 10, size):
            metrics.update(logits[start : start + size], masks[start : start + size])
        results.append(metrics.compute())
        assert metrics.compute() == results[-1]  # asking changes nothing
    assert all(result == results[0] for result in results)
    by_hand = [f_score(logits[i : i + 4].flatten(0, 1), masks[i : i + 4].flatten(0, 1)) for i in (0, 4, 8)]
    assert results[0]["F"] == pytest.approx(sum(by_hand) / 3)
    assert results[0]["J&F"] == pytest.approx((results[0]["J"] + results[0]["F"]) / 2)


def test_bad_input():
    metrics = SegmentationMetrics()
    with pytest.raises(ValueError, match="NaN"):
        metrics.update(torch.full((1, 1, 2, 2), math.nan), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="videos, frames, H, W"):
        metrics.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="no videos"):
        metrics.compute()
    with pytest.raises(ValueError, match="unknown protocol 'davos'"):
        SegmentationMetrics("davos")


def test_what_is_no_logit_or_no_mask_is_refused(caplog):
    """Drawn masks in place of logits have every pixel drawn, and targets as trainers pad them have the padding."""
    target = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    target[..., :2] = 1
    metrics = SegmentationMetrics("aurora")
    for drawn in (target.bool(), target, target.long()):
        with pytest.raises(ValueError, match="give logits, and no masks that are drawn already"):
            metrics.update(drawn, target)
    column = torch.arange(4)
    for other in (255 * (column == 3), 0.5 * (column == 3), 1 * (column == 0)):
        with pytest.raises(ValueError, match="beside 0: give 1 where the object is"):
            metrics.update(target.float(), target + other)
    with pytest.raises(ValueError, match="with frames"):
        metrics.update(torch.zeros(1, 0, 4, 4), torch.zeros(1, 0, 4, 4))
    assert not caplog.records
    assert metrics.update(20.0 * target - 10, 255 * target).item() == 1
    metrics.update(target * 0.7, target)
    assert "all mask logits are from 0 to 1, as probabilities and masks are" in caplog.text
