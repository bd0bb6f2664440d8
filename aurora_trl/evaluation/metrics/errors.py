"""How far a score would move with other clips."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence


def standard_error(
    values: Sequence[float], clips: Sequence[Hashable], weights: Sequence[float] | None = None
) -> float | None:
    """
    The standard error of a weighted mean, where values of one clip may have everything in common: the square root of
    `C / (C - 1) * sum over clips of (sum of w_i * (x_i - mean))^2 / (sum of w_i)^2` (Liang and Zeger, 1986, with the
    usual correction for C clips).

    Args:
        values (`Sequence[float]`): one per reference, or per batch of them.
        clips (`Sequence[Hashable]`): which clip each is about.
        weights (`Sequence[float]`, *optional*): how much each counts; all alike by default.

    Returns:
        `float` or `None`: None where there are fewer than two clips.
    """
    shares = [1.0] * len(values) if weights is None else list(weights)
    total = sum(shares)
    count = len(set(clips))
    if count < 2 or not total:
        return None
    mean = sum(weight * value for weight, value in zip(shares, values, strict=True)) / total
    sums: dict[Hashable, float] = defaultdict(float)
    for value, clip, weight in zip(values, clips, shares, strict=True):
        sums[clip] += weight * (value - mean)
    return math.sqrt(count / (count - 1) * sum(part**2 for part in sums.values())) / total
