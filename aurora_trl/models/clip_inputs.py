"""What a processor takes of a clip: pixels, samples and times of one kind each, since others look like them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.media.sound import require_samples


def read_clip_inputs(
    frames: Any, waveform: Any, frame_seconds: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Frames and sound as arrays; a list of frames, or tensors on the CPU, are taken, too.

    Args:
        frames, waveform, frame_seconds: as [`AuroraProcessor.process_clip`] takes them.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: `(T, H, W, 3)` uint8, and `(samples,)` float32.

    Raises:
        `ValueError`: where the frames are no RGB pixels in uint8, the sound is not mono samples in [-1, 1], or there
            is not one time for each frame.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"`frames` must be RGB pixels (T, H, W, 3) in uint8, from 0 to 255, got {frames.dtype} of shape "
            f"{frames.shape}"
        )
    if frame_seconds is not None and len(frame_seconds) != len(frames):
        raise ValueError(
            f"`frame_seconds` must have a time for each of {len(frames)} frames, got {len(frame_seconds)}"
        )
    if waveform is None:
        return frames, None
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not waveform.size or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"`waveform` must be mono samples (N,) in floats from -1 to 1, got {waveform.dtype} of shape "
            f"{waveform.shape}"
        )
    require_samples(waveform, "`waveform`")
    return frames, waveform.astype(np.float32, copy=False)
