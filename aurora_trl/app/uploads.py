"""What somebody dropped on the page: which clip it is, whether it can be read, and whether it is small enough."""

import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..data.folders import by_numbers
from ..data.media.checks import check_image
from ..data.media.containers import open_container
from ..data.media.images import is_animation
from ..data.media.loading import frame_seconds, load_audio, load_frames, taken_frames
from ..data.media.video import index_video
from ..data.schema import Row
from ..errors import DataError
from ..generation.picture import draw_clip

# What is heard is drawn, too: this rate is enough for a picture.
DRAWN_RATE = 16_000
PICTURE_WIDTH = 1600


@dataclass(frozen=True)
class Limits:
    """
    What the page takes.

    Args:
        upload_mb (`float`, *optional*, defaults to 200): of all files of a clip together, in megabytes.
        seconds (`float`, *optional*, defaults to 120): of a video or a sound.
        pictures (`int`, *optional*, defaults to 300): of a clip that is a list of them.
        megapixels (`float`, *optional*, defaults to 36): of a frame or picture.
    """

    upload_mb: float = 200.0
    seconds: float = 120.0
    pictures: int = 300
    megapixels: float = 36.0


def read_clip(files: Sequence[str], sound: str | None, limits: Limits) -> Row:
    """
    The clip that was dropped: a video, a picture, or pictures, which are frames in the order of their names.

    Args:
        files (`Sequence[str]`): paths of the video or of the pictures.
        sound (`str`, *optional*): path of its sound, where that is another file.
        limits (`Limits`): what is taken.

    Returns:
        `dict`: `video` or `frames`, and `audio`.

    Raises:
        `DataError`: one line, with the file's name and without its folder: nothing was dropped, a file can not be
            read, or there is too much of it.
    """
    if not files:
        raise DataError("drop a video or a picture first")
    row: Row = {"id": Path(files[0]).name, "video": None, "frames": None, "audio": sound}
    try:
        _require_small([*files, *([sound] if sound else [])], limits)
        pictures = [path for path in files if _is_picture(path)]
        others = [path for path in files if path not in pictures]
        if others and len(files) > 1:
            raise DataError(f"{others[0]}: it is no picture; drop one video, or pictures alone")
        if others:
            row["video"] = others[0]
            _check_video(others[0], limits)
        else:
            row["frames"] = sorted(pictures, key=lambda path: by_numbers(Path(path).name))
            _check_pictures(row["frames"], limits)
        if sound:
            _check_seconds(sound, limits)
    except DataError as error:
        raise DataError(shown_error(error, row)) from None
    return row


def shown_error(error: Exception, row: Row) -> str:
    """An error as somebody should read it who dropped files: in one line, with their names and not their places."""
    text = " ".join(str(error).split())
    for path in (row.get("video"), row.get("audio"), *(row.get("frames") or ())):
        if path:
            text = text.replace(str(path), Path(path).name)
    text = re.sub(r"(?<![\w.])/\S*/([^\s/]+)", r"\1", text)
    # What follows is for somebody who has a dataset.
    return re.sub(r"; (restore it|encode it anew).*", "; drop another file", text)


def _require_small(paths: Sequence[str], limits: Limits) -> None:
    size = sum(Path(path).stat().st_size for path in paths) / 1e6
    if size > limits.upload_mb:
        raise DataError(f"{Path(paths[0]).name}: {size:.0f} MB; at most {limits.upload_mb:g} MB are taken here")
    if len(paths) - 1 > limits.pictures:
        raise DataError(f"{len(paths)} files; at most {limits.pictures} pictures are taken here")


def _is_picture(path: str) -> bool:
    try:
        with Image.open(path) as image:
            # Pillow knows the header of an MPEG stream, and no frame of it. What moves is a video.
            return image.format != "MPEG" and not is_animation(image)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: it has too many pixels; drop a smaller one") from None
    except (OSError, SyntaxError, ValueError):
        if (mimetypes.guess_type(path)[0] or "").startswith("image/"):
            raise DataError(f"{path}: it can not be read as a picture; drop another file") from None
        return False


def _check_pictures(paths: Sequence[str], limits: Limits) -> None:
    for path in paths:
        _check_pixels(path, check_image(path, "frame"), limits)


def _check_video(path: str, limits: Limits) -> None:
    _check_seconds(path, limits)
    index = index_video(path)
    height, width = index.size
    _check_pixels(path, (width, height), limits)
    if index.duration > limits.seconds:
        raise DataError(_too_long(path, index.duration, limits))


def _check_pixels(path: str, size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.megapixels * 1e6:
        raise DataError(f"{path}: {width}x{height} pixels; at most {limits.megapixels:g} megapixels are taken here")


def _check_seconds(path: str, limits: Limits) -> None:
    """By the file's header: to decode what is too long would take long, too."""
    try:
        with open_container(path) as container:
            seconds = (container.duration or 0) / av.time_base
    except (av.FFmpegError, EOFError):
        return  # what reads it says what is wrong
    if seconds > limits.seconds:
        raise DataError(_too_long(path, seconds, limits))


def _too_long(path: str, seconds: float, limits: Limits) -> str:
    return f"{path}: {seconds:.0f} s long; at most {limits.seconds:g} s are taken here"


@dataclass(frozen=True)
class ShownClip:
    """
    A clip as a model sees and hears it.

    Attributes:
        row (`dict`): from `read_clip`.
        frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB.
        numbers (`list[int]`): of the frames in the clip.
        seconds (`list[float]` or `None`): when they are shown; None for pictures without sound.
        waveform (`np.ndarray` of shape `(samples,)` or `None`): mono, at `DRAWN_RATE`.
    """

    row: Row
    frames: np.ndarray
    numbers: list[int]
    seconds: list[float] | None
    waveform: np.ndarray | None

    @property
    def sound_seconds(self) -> float | None:
        return None if self.waveform is None else len(self.waveform) / DRAWN_RATE

    def describe(self) -> str:
        """A line that says what it is."""
        height, width = self.frames.shape[1:3]
        row = self.row
        if row.get("video"):
            index = index_video(row["video"])
            name, length = Path(row["video"]).name, f"{index.duration:.1f} s, {len(index.times)} frames"
        else:
            count = len(row["frames"])
            name, length = Path(row["frames"][0]).name, "a picture"
            if count > 1:
                name, length = f"{name} to {Path(row['frames'][-1]).name}", f"{count} pictures"
        sound = "no sound"
        if self.sound_seconds is not None:
            source = Path(row["audio"]).name if row.get("audio") else "its own sound"
            sound = f"{source}, {self.sound_seconds:.1f} s"
        seen = "" if len(self.frames) == 1 else f"; the model sees {len(self.frames)} frames"
        return f"{name}: {length}, {width} x {height} pixels, {sound}{seen}"

    def draw(self, masks: np.ndarray | None = None) -> Image.Image:
        """The frames in a strip, with the masks over them where there are any, and the sound below."""
        return draw_clip(
            self.frames,
            masks,
            seconds=self.seconds,
            numbers=self.numbers,
            waveform=self.waveform,
            sampling_rate=DRAWN_RATE,
            max_frames=len(self.frames),
            width=PICTURE_WIDTH,
        )


def load_clip(row: Row, num_frames: int) -> ShownClip:
    """
    Read what a model sees and hears of a clip.

    Args:
        row (`dict`): from `read_clip`.
        num_frames (`int`): frames that the model takes.

    Raises:
        `DataError`: one line, where a frame or the sound can not be decoded.
    """
    try:
        numbers = taken_frames(row, num_frames)
        frames = load_frames(row, num_frames=num_frames, pad=False)
        waveform = load_audio(row, sampling_rate=DRAWN_RATE)
        length = None if waveform is None else len(waveform) / DRAWN_RATE
        return ShownClip(row, frames, numbers, frame_seconds(row, numbers, sound_seconds=length), waveform)
    except DataError as error:
        raise DataError(shown_error(error, row)) from None
