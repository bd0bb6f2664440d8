"""How far a score would move with other clips."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence


def standard_error(
    values: Sequence[float],
    clips: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    kinds: Sequence[Hashable] | None = None,
) -> float | None:
    """
    The standard error of a weighted mean, where values of one clip may have everything in common: the square root of
    `C / (C - 1) * sum over clips of (sum of w_i * (x_i - mean))^2 / (sum of w_i)^2` (Liang and Zeger, 1986, with the
    usual correction for C clips).

    Args:
        values (`Sequence[float]`): one per reference, or per batch of them.
        clips (`Sequence[Hashable]`): which clip each is about.
        weights (`Sequence[float]`, *optional*): how much each counts; all alike by default.
        kinds (`Sequence[Hashable]`, *optional*): of each value, where the score is a mean of the kinds' means: a value
            is then as far off as it is from that of its kind.

    Returns:
        `float` or `None`: None where there are fewer than two clips.
    """
    shares = [1.0] * len(values) if weights is None else list(weights)
    total = sum(shares)
    count = len(set(clips))
    if count < 2 or not total:
        return None
    of_kinds = [None] * len(values) if kinds is None else list(kinds)
    parts: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, weight, kind in zip(values, shares, of_kinds, strict=True):
        parts[kind][0] += weight * value
        parts[kind][1] += weight
    sums: dict[Hashable, float] = defaultdict(float)
    for value, clip, weight, kind in zip(values, clips, shares, of_kinds, strict=True):
        sums[clip] += weight * (value - parts[kind][0] / parts[kind][1])
    return math.sqrt(count / (count - 1) * sum(part**2 for part in sums.values())) / total
