"""What an annotator is shown of a clip: a few frames and the sound, encoded as files."""

import io
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import soundfile
from PIL import Image

from ..data.media.loading import load_audio, load_frames
from ..data.schema import Row

SAMPLING_RATE = 16_000
# A clip of 10 s is looked at once per second, as the policy does; fewer frames are taken from these.
CLIP_FRAMES = 10
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """
    A frame.

    Args:
        jpeg (`bytes`): the file's content.
    """

    jpeg: bytes


@dataclass(frozen=True)
class Sound:
    """
    A sound.

    Args:
        wav (`bytes`): the file's content: mono, 16 kHz, 16 bit.
    """

    wav: bytes


Part: TypeAlias = str | Picture | Sound


def clip_parts(row: Row, *, num_frames: int, max_image_side: int) -> list[Part]:
    """
    Frames and sound of a row's clip.

    Args:
        row (`dict`): a dataset row.
        num_frames (`int`): spread evenly over the clip, the first and the last included: of 10 s, 3 are those at 1, 5
            and 10 s (AURORA, section 6.1).
        max_image_side (`int`): larger frames are scaled down to this, in pixels.

    Returns:
        `list[Part]`: the frames in order, then the sound where the clip has one.

    Raises:
        `DataError`: names a file that can not be read.
    """
    frames = load_frames(row, num_frames=CLIP_FRAMES, pad=False)
    kept = np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).astype(int)
    parts: list[Part] = [_encode_picture(frames[index], max_image_side) for index in kept]
    waveform = load_audio(row, sampling_rate=SAMPLING_RATE)
    if waveform is not None:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, SAMPLING_RATE, format="WAV", subtype="PCM_16")
        parts.append(Sound(buffer.getvalue()))
    return parts


def _encode_picture(frame: np.ndarray, max_side: int) -> Picture:
    image = Image.fromarray(frame)
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return Picture(buffer.getvalue())
