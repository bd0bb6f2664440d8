"""Videos of pictures and sound, written picture by picture."""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import av
import numpy as np

# Of the clock that says when a picture is shown: MP4's usual one, which divides every common rate.
_CLOCK = 90_000
_LONGEST_SIDE = 16_384  # of a picture that x264 takes, in pixels
_SAMPLES_AT_ONCE = 1024  # what AAC takes
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


class _Writer:
    """A context manager over a file of media: its end is written where all went well, and it is closed in any case."""

    def __init__(self, file: str | Path | IO[bytes], container: str):
        target: Any = str(file) if isinstance(file, str | Path) else file
        self._container: Any = av.open(target, "w", format=container)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._container.close()

    def _flush(self) -> None:
        """Write what the encoders hold."""
        raise NotImplementedError


class VideoWriter(_Writer):
    """
    An MP4 for browsers and players: H.264, and AAC where there is sound. A context manager; nothing is kept in memory
    but what the encoders hold.

    Args:
        file (`str`, `Path` or `IO[bytes]`): where to write.
        size (`tuple[int, int]`): height and width of the pictures in pixels; an odd side loses its last pixel, and of
            pictures that are larger than the encoder takes each second pixel is shown, or each third.
        frame_rate (`float`, *optional*, defaults to 25.0): pictures per second, roughly; each has a time of its own.
        sampling_rate (`int`, *optional*): of the sound, one that AAC knows; no sound without it.
        sound_bit_rate (`int`, *optional*, defaults to 96000): bits per second of the sound.
        pixel_aspect (`Fraction`, *optional*, defaults to 1): width of a pixel by its height, for players.
        options (`Mapping[str, str]`, *optional*): of the pictures' encoder, such as `{"crf": "28"}`.

    Raises:
        `ValueError`: for a sampling rate that AAC does not know.
    """

    def __init__(
        self,
        file: str | Path | IO[bytes],
        size: tuple[int, int],
        *,
        frame_rate: float = 25.0,
        sampling_rate: int | None = None,
        sound_bit_rate: int = 96_000,
        pixel_aspect: Fraction = Fraction(1),
        options: Mapping[str, str] | None = None,
    ):
        if sampling_rate not in (None, *_AAC_RATES):
            raise ValueError(f"`sampling_rate` must be one of {', '.join(map(str, _AAC_RATES))}, got {sampling_rate}")
        self._step = math.ceil(max(size) / _LONGEST_SIDE)
        shown = (math.ceil(side / self._step) for side in size)
        self._height, self._width = (max(2, side - side % 2) for side in shown)  # yuv420p wants even sides
        super().__init__(file, "mp4")
        rate = Fraction(max(frame_rate, 1.0)).limit_denominator(1001)
        self._video: Any = self._container.add_stream("h264", rate=rate, options=dict(options or {}))
        self._video.width, self._video.height, self._video.pix_fmt = self._width, self._height, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = Fraction(1, _CLOCK)
        self._video.sample_aspect_ratio = self._video.codec_context.sample_aspect_ratio = pixel_aspect
        self._sound: Any = None
        if sampling_rate is not None:
            self._sound = self._container.add_stream("aac", rate=sampling_rate, layout="mono")
            self._sound.bit_rate = sound_bit_rate
        self._samples, self._waiting = 0, np.zeros(0, np.float32)
        self._last = -1

    def add(self, picture: np.ndarray, seconds: float) -> None:
        """
        A picture that is shown from a time on.

        Args:
            picture (`np.ndarray` of shape `(H, W, 3)`, uint8): RGB.
            seconds (`float`): later than the one before.
        """
        pixels = picture[:: self._step, :: self._step][: self._height, : self._width]
        short = self._height - pixels.shape[0], self._width - pixels.shape[1]
        if any(short):  # a picture of one pixel
            pixels = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        self._last = max(round(seconds * _CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._container.mux(self._video.encode(frame))

    def add_sound(self, wave: np.ndarray) -> None:
        """More of the sound: mono `(samples,)` float32; it begins with the first picture's second 0."""
        self._waiting = np.concatenate([self._waiting, wave.astype(np.float32, copy=False)])
        whole = len(self._waiting) // _SAMPLES_AT_ONCE * _SAMPLES_AT_ONCE
        self._encode_sound(self._waiting[:whole])
        self._waiting = self._waiting[whole:]

    def _encode_sound(self, wave: np.ndarray) -> None:
        rate = self._sound.rate
        for start in range(0, len(wave), _SAMPLES_AT_ONCE):
            piece = np.ascontiguousarray(wave[None, start : start + _SAMPLES_AT_ONCE])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, self._samples, Fraction(1, rate)
            self._samples += piece.shape[1]
            self._container.mux(self._sound.encode(frame))

    def _flush(self) -> None:
        self._container.mux(self._video.encode())
        if self._sound is not None:
            self._encode_sound(self._waiting)
            self._container.mux(self._sound.encode())


class MaskVideoWriter(_Writer):
    """
    A Matroska video of masks without loss (FFV1, grey: 0 or 255), which FFmpeg, OpenCV and PyAV read to the same
    pixels. A context manager.

    Args:
        file (`str`, `Path` or `IO[bytes]`): where to write.
        size (`tuple[int, int]`): height and width of the masks in pixels.
    """

    def __init__(self, file: str | Path | IO[bytes], size: tuple[int, int]):
        super().__init__(file, "matroska")
        self._stream: Any = self._container.add_stream("ffv1", rate=25)
        self._stream.height, self._stream.width, self._stream.pix_fmt = *size, "gray"
        # Matroska's clock counts milliseconds.
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, 1000)
        self._last = -1

    def add(self, mask: np.ndarray, seconds: float) -> None:
        """
        A mask that is shown from a time on.

        Args:
            mask (`np.ndarray` of shape `(H, W)`, uint8): 0 or 1.
            seconds (`float`): later than the one before.
        """
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(mask * np.uint8(255)), "gray")
        self._last = max(round(seconds * 1000), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))

    def _flush(self) -> None:
        self._container.mux(self._stream.encode())
