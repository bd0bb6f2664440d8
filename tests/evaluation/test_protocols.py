"""Every protocol against a plain transcription of its definition, and in whatever order videos arrive."""

import math
import random

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_metrics import naive_f

from aurora_trl.evaluation.metrics import PROTOCOLS, SegmentationMetrics, boundary_f, f_score


def transcribed_j(logits, masks, threshold):
    """The official loop's arithmetic, frame by frame."""
    total = 0.0
    for x, target in zip(logits, masks.long(), strict=True):
        drawn = (torch.sigmoid(x) > threshold).long()
        intersection, union = (drawn * target).sum(), torch.maximum(drawn, target).sum()
        if target.sum() == 0:
            intersection, union = ((1 - target) * (1 - drawn)).sum(), torch.tensor(target.numel())
        total += float(intersection / (union + 1e-7))
    return total / len(logits)


def transcribed_s(logits):
    return math.sqrt(float((torch.sigmoid(logits) > 0.5).double().mean()))


def transcribed_boundary(drawn, target):
    def outline(mask):
        edge = np.zeros_like(mask)
        height, width = mask.shape
        for y in range(height):
            for x in range(width):
                right, below = min(x + 1, width - 1), min(y + 1, height - 1)
                edge[y, x] = len({mask[y, x], mask[y, right], mask[below, x], mask[below, right]}) > 1
        return edge

    radius = math.ceil(0.008 * math.hypot(*drawn.shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    ours, theirs = outline(drawn), outline(target)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = (ours & ndimage.binary_dilation(theirs, disk)).sum() / ours.sum()
    recall = (theirs & ndimage.binary_dilation(ours, disk)).sum() / theirs.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def transcribed(protocol, logits, masks):
    """J, F and S of `(videos, T, H, W)`."""
    rules = {"refavs": (4, 0.4), "avsbench": (1, 0.5), "aurora": (1, 0.5), "simtoken": (1, 0.4), "per_frame": (0, 0.5)}
    if protocol == "davis":
        j, f, s = [], [], []
        for x, target in zip(logits.flatten(0, 1), masks.flatten(0, 1).bool().numpy(), strict=True):
            drawn = (x > 0).numpy()
            union = (drawn | target).sum()
            j.append((drawn & target).sum() / union if union else 1.0)
            f.append(transcribed_boundary(drawn, target) if target.any() else float(not drawn.any()))
            s.append(transcribed_s(x))
        return np.mean(j), np.mean(f), np.mean(s)
    size, threshold = rules[protocol]
    if size == 0:
        logits, masks, size = logits.flatten(0, 1)[:, None], masks.flatten(0, 1)[:, None], 1
    scores = []
    for start in range(0, len(logits), size):
        x, target = logits[start : start + size].flatten(0, 1), masks[start : start + size].flatten(0, 1)
        # `naive_f` applies the sigmoid; where raw logits are compared, hand it what the sigmoid undoes.
        f = raw_f(x, target) if protocol == "aurora" else naive_f(x, target)
        scores.append((transcribed_j(x, target, threshold), f, transcribed_s(x)))
    return tuple(np.mean(scores, axis=0))


def raw_f(logits, masks):
    curves = []
    for x, target in zip(logits, masks.float(), strict=True):
        if target.sum() == 0:
            continue
        curve = []
        for threshold in torch.linspace(0, 1 - 1e-10, 255):
            positive = (x >= threshold).float()
            hit = (positive * target).sum()
            precision, recall = hit / (positive.sum() + 1e-20), hit / (target.sum() + 1e-20)
            curve.append(torch.nan_to_num(1.3 * precision * recall / (0.3 * precision + recall), nan=0.0))
        curves.append(torch.stack(curve))
    return float((sum(curves) / len(curves)).max()) if curves else 0.0


def make_videos(videos=6, frames=3, size=24, seed=0):
    """Blobs and guesses of them, with an empty target, an empty and a full prediction, and saturated logits."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(videos * frames, 1, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, (size, size), mode="bilinear")[:, 0]
    masks = (smooth > 0.2).long().view(videos, frames, size, size)
    logits = 6 * smooth + 2 * torch.randn(smooth.shape, generator=generator)
    logits = logits.view(videos, frames, size, size)
    masks[0, 0] = 0
    masks[1] = 0
    masks[2, 1] = 1
    logits[1, 2] = -30.0
    logits[2, 0] = 40.0
    logits[3, 1] = 1000 * (2 * masks[3, 1] - 1).float()
    return logits, masks


SCORED = ["refavs", "aurora", "avsbench", "simtoken", "per_frame", "davis"]


@pytest.mark.parametrize("protocol", SCORED)
@pytest.mark.parametrize("seed", range(2))
def test_equals_its_transcription(protocol, seed):
    logits, masks = make_videos(seed=seed)
    metrics = SegmentationMetrics(protocol)
    metrics.update(logits, masks)
    scores = metrics.compute()
    expected = transcribed(protocol, logits, masks)
    assert [scores["J"], scores["F"], scores["S"]] == pytest.approx(expected, abs=1e-6)
    assert scores["J&F"] == pytest.approx((expected[0] + expected[1]) / 2, abs=1e-6)


def test_logits_at_the_thresholds_fall_where_the_definition_puts_them():
    thresholds = torch.linspace(0, 1 - 1e-10, 255)
    near = torch.cat([thresholds, torch.nextafter(thresholds, torch.tensor(-1.0)), thresholds + 1e-7])
    values = torch.cat([near, torch.tensor([0.0, -0.0, 1.0, -5.0, 1e30, math.inf, -math.inf])])
    values = torch.cat([values, torch.zeros(28 * 28 - len(values))]).view(1, 28, 28)
    masks = (torch.arange(28 * 28).view(1, 28, 28) % 3 == 0).long()
    metrics = SegmentationMetrics("aurora")  # compares raw logits with the thresholds
    metrics.update(values[None], masks[None])
    assert metrics.compute()["F"] == raw_f(values, masks)
    assert f_score(torch.logit(values.clamp(0, 1)), masks) == naive_f(torch.logit(values.clamp(0, 1)), masks)


@pytest.mark.slow
def test_official_size_is_exact():
    """`make bench` says how much faster it is than the plain loop."""
    logits, masks = make_videos(videos=4, frames=10, size=256)
    x, target = logits.flatten(0, 1), masks.flatten(0, 1)
    score = naive_f(x, target)
    assert score == f_score(x, target)
    metrics = SegmentationMetrics()
    metrics.update(logits, masks)
    assert metrics.compute()["F"] == score
    assert metrics.compute()["J"] == pytest.approx(transcribed_j(x, target, 0.4), abs=1e-6)


def test_simtoken_counts_frames_and_aurora_videos():
    found = torch.ones(1, 1, 4, 4)
    for protocol, expected in (("simtoken", 3 / 4), ("aurora", 1 / 2)):
        metrics = SegmentationMetrics(protocol)
        metrics.update(20 * found.repeat(1, 3, 1, 1), found.repeat(1, 3, 1, 1))  # three frames, all found
        metrics.update(-20 * found, found)  # one frame, nothing found
        assert metrics.compute()["J"] == pytest.approx(expected)


def test_davis_by_hand():
    metrics = SegmentationMetrics("davis")
    masks, logits = torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), -1.0)
    masks[0, 0, 2:6, 2:6] = 1
    logits[0, 0, 2:6, 2:6] = 1.0  # found to the pixel
    logits[0, 1, 0, 0] = 1.0  # nothing is there, one pixel is drawn: J and F are 0
    logits[0, 2] = 1.0  # nothing is there, all is drawn, which has no outline
    # Frame 3: nothing is there and nothing is drawn.
    assert metrics.update(logits, masks).item() == pytest.approx(0.5)
    scores = metrics.compute()
    assert scores["J"] == pytest.approx(0.5)
    assert scores["F"] == pytest.approx(0.5)
    # An outline that is off by more than the tolerance, which is 1 pixel here, is not found.
    one, other = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    one[0:2, 0:2] = True
    other[5:7, 5:7] = True
    assert boundary_f(one, other) == 0.0
    assert boundary_f(one, one) == 1.0


def test_images_by_hand():
    metrics = SegmentationMetrics("reasonseg")
    masks, logits = torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), -1.0)
    masks[0, 0, 0, :2] = 1
    logits[0, 0, 0, :1] = 1.0  # 1 of 2
    masks[1, 0, :2] = 1
    logits[1, 0, :2] = 1.0  # 8 of 8
    # Image 2: nothing is there and nothing is drawn.
    metrics.update(logits, masks)
    assert metrics.compute() == {"gIoU": pytest.approx((0.5 + 1 + 1) / 3), "cIoU": pytest.approx(9 / 10)}


@pytest.mark.parametrize("protocol", [name for name, rules in PROTOCOLS.items() if not rules.by_class])
def test_order_and_shares_change_nothing(protocol):
    logits, masks = make_videos(videos=7)
    known = PROTOCOLS[protocol].kinds or (None,)
    kinds = [known[place % len(known)] for place in range(7)]
    whole = SegmentationMetrics(protocol)
    whole.update(logits, masks, foreground=masks, kinds=kinds)
    order = list(range(7))
    random.Random(3).shuffle(order)
    shares = [SegmentationMetrics(protocol) for _ in range(3)]
    for number, place in enumerate(order):
        one = masks[place : place + 1]
        shares[number % 3].update(
            logits[place : place + 1], one, index=[place], foreground=one, kinds=kinds[place : place + 1]
        )
    # A sampler that pads repeats its first.
    first = order[:1]
    shares[2].update(logits[first], masks[first], index=first, foreground=masks[first], kinds=[kinds[first[0]]])
    merged = SegmentationMetrics(protocol)
    for share in (shares[2], shares[0], shares[1]):
        merged.merge(share)
    assert len(merged) == 7
    assert merged.compute() == whole.compute()


def test_shares_without_places_follow_each_other():
    logits, masks = make_videos()
    first, second, whole = SegmentationMetrics(), SegmentationMetrics(), SegmentationMetrics()
    whole.update(logits, masks)
    first.update(logits[:2], masks[:2])
    second.update(logits[2:], masks[2:])
    assert first.merge(second).compute() == whole.compute()


def test_misuse_is_named():
    with pytest.raises(ValueError, match="`avss` scores classes: use SemanticMetrics"):
        SegmentationMetrics("avss")
    logits, masks = make_videos()
    metrics = SegmentationMetrics()
    metrics.update(logits[:1], masks[:1], index=[3])
    with pytest.raises(ValueError, match="video 3 came twice"):
        metrics.update(logits[:1], masks[:1], index=[3])
    with pytest.raises(ValueError, match="some videos came with an index and some without"):
        metrics.update(logits[:1], masks[:1])
    with pytest.raises(ValueError, match="2 numbers for 1 videos"):
        metrics.update(logits[:1], masks[:1], index=[4, 5])
    with pytest.raises(ValueError, match="`davis` can not be merged into those of `refavs`"):
        metrics.merge(SegmentationMetrics("davis"))
    plain = SegmentationMetrics()
    plain.update(logits[:1], masks[:1])
    with pytest.raises(ValueError, match="only one of the two"):
        metrics.merge(plain)


def test_sizes():
    masks = np.zeros((2, 30, 50), np.uint8)
    masks[:, 10:20, 10:20] = 1
    logits = torch.randn(2, 32, 53)
    for name, size in (("refavs", (256, 256)), ("avsbench", (224, 224)), ("davis", (30, 50)), ("aurora", (30, 50))):
        rules = PROTOCOLS[name]
        assert rules.prepare_masks(masks).shape == (2, *size)
        assert rules.prepare_masks(masks).max() == 1
        assert rules.prepare_logits(logits, (30, 50)).shape == (2, *size)
    assert PROTOCOLS["davis"].headline == "J&F"
    assert PROTOCOLS["reasonseg"].headline == "gIoU"
