"""Sounds and pictures that a reference is, or goes with, behind the clip that it is about."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..schema import Row
from .images import read_image
from .loading import load_sound

# What is said comes first: it may speak of the sound.
REFERENCE_SOUNDS = ("reference_speech", "reference_sound")


@dataclass(frozen=True)
class ReferenceMedia:
    """
    What a row's reference is besides its text.

    Attributes:
        picture (`np.ndarray` of shape `(H, W, 3)`, uint8, *optional*): RGB, as large as the clip's frames.
        sounds (`tuple[np.ndarray, ...]`): `(samples,)` each, float32, mono, in the order in which they are heard.
        row_id (`str`, *optional*): whose it is, for errors.
    """

    picture: np.ndarray | None = None
    sounds: tuple[np.ndarray, ...] = ()
    row_id: str | None = None


def load_reference(row: Row, frame_size: tuple[int, int], sampling_rate: int) -> ReferenceMedia | None:
    """
    The files of a row's reference.

    Args:
        row (`dict`): a dataset row.
        frame_size (`tuple[int, int]`): height and width of the clip's frames, in pixels; a picture of another shape
            gets black edges.
        sampling_rate (`int`): in hertz.

    Returns:
        `ReferenceMedia` or `None`: None where the reference is text alone.

    Raises:
        `DataError`: names the file that can not be read.
    """
    found = [name for name in REFERENCE_SOUNDS if row.get(name)]
    sounds = tuple(load_sound(row[name], f"name another `{name}`", sampling_rate) for name in found)
    if row.get("reference_image"):
        return ReferenceMedia(_fit(read_image(row["reference_image"]), frame_size), sounds, row.get("id"))
    return ReferenceMedia(None, sounds, row.get("id")) if sounds else None


def _fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture `(H, W, 3)` as large as it goes in the middle of a frame of that height and width."""
    height, width = size
    scale = min(height / picture.shape[0], width / picture.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
    top, left = (height - rows) // 2, (width - columns) // 2
    frame = np.zeros((height, width, 3), np.uint8)
    resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC)
    frame[top : top + rows, left : left + columns] = np.asarray(resized)
    return frame
