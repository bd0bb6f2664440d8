"""When frames are shown, and which part of a long sound goes with them."""

from collections.abc import Sequence

import numpy as np


def extend_seconds(frame_seconds: Sequence[float] | None, count: int, step: float) -> list[float]:
    """
    A time for every frame that a policy is shown.

    Args:
        frame_seconds (`Sequence[float]` or `None`): when the clip's own frames are shown; those that pad a short clip
            stand behind them and have none. None: nothing is known, the first is at 0.
        count (`int`): frames that the policy is shown.
        step (`float`): seconds from one to the next, where times do not say it.

    Returns:
        `list[float]`: `count` times in seconds.
    """
    seconds = list(frame_seconds or [0.0])[:count]
    if len(seconds) > 1:
        step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    return [*seconds, *(seconds[-1] + step * (i + 1) for i in range(count - len(seconds)))]


def nearest_sound(
    waveform: np.ndarray, length: int, sampling_rate: int, frame_seconds: Sequence[float] | None, num_frames: int
) -> np.ndarray:
    """
    What a policy hears of a sound that is longer than it takes: the samples nearest in time to the frames that it
    sees, in their order. Frames that stand far apart have a piece of equal length around each; those that stand close
    have one stretch around all of them.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): the clip's sound, from the clip's start.
        length (`int`): samples that the policy takes; a sound that has no more is returned as it is.
        sampling_rate (`int`): in hertz.
        frame_seconds (`Sequence[float]` or `None`): when the frames are shown; None: they are spread evenly.
        num_frames (`int`): how many there are, where their times are not known.

    Returns:
        `np.ndarray` of shape `(samples,)` or `(length,)`.
    """
    total = len(waveform)
    if total <= length:
        return waveform
    if frame_seconds:
        centres = (np.sort(frame_seconds) * sampling_rate).round().astype(int).clip(0, total)
    else:
        centres = ((np.arange(num_frames) + 0.5) * total / num_frames).astype(int)

    def pieces(reach: int) -> list[tuple[int, int]]:
        joined: list[tuple[int, int]] = []
        for centre in centres.tolist():
            start, end = max(0, centre - reach), min(total, centre + reach)
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        return joined

    shortest, longest = 0, total
    while shortest < longest:
        reach = (shortest + longest) // 2
        enough = sum(end - start for start, end in pieces(reach)) >= length
        shortest, longest = (shortest, reach) if enough else (reach + 1, longest)
    return np.concatenate([waveform[start:end] for start, end in pieces(shortest)])[:length]
