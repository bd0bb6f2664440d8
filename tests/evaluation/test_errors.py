"""Standard errors of scores."""

import math

import pytest
import torch

from aurora_trl.evaluation.metrics import SegmentationMetrics
from aurora_trl.evaluation.metrics.errors import standard_error


def test_values_of_different_clips_by_hand():
    # Mean 2, sum of squares 2, three clips: sqrt(3 / 2 * 2) / 3, which is the deviation 1 over the root of 3.
    assert standard_error([1.0, 2.0, 3.0], ["a", "b", "c"]) == pytest.approx(1 / math.sqrt(3))


def test_values_of_one_clip_count_as_one():
    # Each value twice, of the same clip: nothing is known better.
    assert standard_error([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], list("aabbcc")) == pytest.approx(1 / math.sqrt(3))
    # Mean 1.75 with weights 3 and 1: sums -.75 * 3 + ... by hand: a 3 * -.25, b 1 * .75, c none.
    assert standard_error([1.5, 2.5], ["a", "b"], [3.0, 1.0]) == pytest.approx(math.sqrt(2 * (0.75**2 * 2)) / 4)


def test_a_mean_of_means_varies_as_its_kinds_do():
    """Kinds that differ, and of which all references score alike, leave nothing to chance."""
    kinds, clips, weights = ["easy"] * 2 + ["hard"] * 4, list("abcdef"), [1 / 2] * 2 + [1 / 4] * 4
    assert standard_error([0.9] * 2 + [0.1] * 4, clips, weights, kinds) == 0
    # By hand: easy +-.1 and hard +-.2 around their means: sqrt(6/5 * (2 * .05^2 + 4 * .05^2)) / 2.
    values = [0.8, 1.0, 0.0, 0.4, 0.0, 0.4]
    assert standard_error(values, clips, weights, kinds) == pytest.approx(math.sqrt(6 / 5 * 6 * 0.05**2) / 2)


def test_one_clip_has_no_error():
    assert standard_error([1.0, 2.0], ["a", "a"]) is None
    assert standard_error([], []) is None


@pytest.mark.parametrize("protocol", ["refavs", "aurora", "avsbench", "simtoken", "per_frame", "davis", "reasonseg"])
def test_every_protocol_has_errors_of_its_scores(protocol):
    generator = torch.Generator().manual_seed(0)
    metrics = SegmentationMetrics(protocol)
    logits = torch.randn(9, 2, 16, 16, generator=generator)
    masks = (torch.rand(9, 2, 16, 16, generator=generator) > 0.5).long()
    metrics.update(logits, masks)
    errors = metrics.standard_errors({number: number // 2 for number in range(9)})
    assert set(errors) == {"gIoU"} if protocol == "reasonseg" else {"J", "F", "J&F", "S"}
    assert all(0 < error < 0.2 for error in errors.values())
    assert metrics.standard_errors(dict.fromkeys(range(9), "the same clip")) == {}


def test_j_of_videos_by_itself_is_the_deviation_over_the_root():
    """A protocol that scores each video alone, one reference to a clip."""
    generator = torch.Generator().manual_seed(1)
    metrics = SegmentationMetrics("aurora")
    logits = torch.randn(6, 1, 8, 8, generator=generator)
    own = metrics.update(logits, (torch.rand(6, 1, 8, 8, generator=generator) > 0.5).long())
    assert metrics.standard_errors(dict(enumerate("abcdef")))["J"] == pytest.approx(float(own.std()) / math.sqrt(6))
