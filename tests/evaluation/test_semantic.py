"""Class-wise scores: by hand, and against a plain transcription of the definition."""

import pytest
import torch

from aurora_trl.evaluation.metrics import SemanticMetrics


def transcribed(videos, num_classes):
    iou, f, count = torch.zeros(num_classes), torch.zeros(num_classes), torch.zeros(num_classes)
    for predicted, target in videos:
        for ours, theirs in zip(predicted, target, strict=True):
            for c in range(num_classes):
                hit = ((ours == c) & (theirs == c)).sum()
                drawn, true = (ours == c).sum(), (theirs == c).sum()
                union = drawn + true - hit
                if union > 0:
                    count[c] += 1
                    iou[c] += hit / union
                if hit > 0:
                    precision, recall = hit / drawn, hit / true
                    f[c] += 1.3 * precision * recall / (0.3 * precision + recall)
    return (torch.nan_to_num(part / count, nan=0.0).mean().item() for part in (iou, f))


def test_equals_its_transcription_in_any_order():
    generator = torch.Generator().manual_seed(0)
    videos = [torch.randint(0, 6, (2, 3, 12, 12), generator=generator).unbind(0) for _ in range(4)]
    videos[1][1][:] = 0
    whole, first, second = (SemanticMetrics(8) for _ in range(3))
    for place in (3, 0, 2, 1):
        whole.update(*videos[place], index=place)
        (first, second)[place % 2].update(*videos[place], index=place)
    scores = whole.compute()
    assert (scores["mIoU"], scores["F"]) == pytest.approx(tuple(transcribed(videos, 8)), abs=1e-6)
    assert second.merge(first).compute() == scores


def test_by_hand():
    metrics = SemanticMetrics(3)
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 0] = 1
    predicted = torch.zeros(1, 2, 2, dtype=torch.long)
    predicted[0, 0, 0] = 1
    metrics.update(predicted, target)
    scores = metrics.compute(["background", "dog", "cat"])
    # Background: 2 of 3. Dog: 1 of 2. Cat never was: 0 in the mean.
    assert scores["mIoU"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert scores["mIoU_no_background"] == pytest.approx(1 / 4)
    assert scores["by_class"] == {"background": pytest.approx(2 / 3), "dog": pytest.approx(1 / 2)}


def test_bad_input():
    metrics = SemanticMetrics(3)
    plane = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="predicted holds a class outside of 0..2"):
        metrics.update(plane + 3, plane)
    with pytest.raises(ValueError, match="frames, H, W"):
        metrics.update(plane[0], plane[0])
    metrics.update(plane, plane, index=1)
    with pytest.raises(ValueError, match="video 1 came twice"):
        metrics.update(plane, plane, index=1)
    with pytest.raises(ValueError, match="no videos"):
        SemanticMetrics(3).compute()
