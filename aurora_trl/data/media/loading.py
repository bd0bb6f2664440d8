"""Frames and sound of a row, read when a batch needs them."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import soundfile
import soxr
from PIL import Image

from ...errors import DataError
from ..schema import Row
from .video import index_video, read_frames, read_track

Value = TypeVar("Value")
NO_FRAME = -1


class MediaCache:
    """
    Keeps the values that were used last.

    Args:
        size (`int`): how many; with 0 nothing is kept.
    """

    def __init__(self, size: int):
        self.size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, load: Callable[[], Value]) -> Value:
        """The value of a key, loaded where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = load()
        if self.size > 0:
            with self._lock:
                self._values[key] = value
                while len(self._values) > self.size:
                    self._values.popitem(last=False)
        return value

    def __getstate__(self) -> dict[str, Any]:
        # A loading process starts with an empty cache of its own.
        return {"size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["size"])  # type: ignore[misc]


def frame_indices(total: int, wanted: int) -> list[int]:
    """
    Which frames stand for a clip: the middles of `wanted` equal parts of the time from the first frame to the last, as
    VideoLLaMA2 takes them, or all frames and then places without one.

    Args:
        total (`int`): frames that there are, at least 1.
        wanted (`int`): frames that the model takes.

    Returns:
        `list[int]`: `wanted` indices in order; -1 (a black frame, an empty mask) past the end of a short clip.
    """
    if total >= wanted:
        return [int((i + 0.5) * (total - 1) / wanted + 0.5) for i in range(wanted)]
    return [*range(total), *[NO_FRAME] * (wanted - total)]


def load_frames(row: Row, *, num_frames: int) -> np.ndarray:
    """
    The frames of a row's clip.

    Args:
        row (`dict`): a dataset row with `frames` or `video`. A frame is an image, or a moment of a video in seconds,
            as in `clip.mp4#t=1.5`. The rate of a video may vary: its frames are spread over its time.
        num_frames (`int`): how many to take, see `frame_indices`.

    Returns:
        `np.ndarray` of shape `(num_frames, H, W, 3)`, uint8, RGB, upright.

    Raises:
        `DataError`: names the file that is missing, can not be read, or differs in size from the clip's first frame.
    """
    if row.get("frames"):
        indices = frame_indices(len(row["frames"]), num_frames)
        frames = _read_listed([row["frames"][i] for i in indices if i != NO_FRAME])
    elif row.get("video"):
        index = index_video(row["video"])
        frames = list(read_frames(row["video"], index, index.spread(num_frames)))
    else:
        raise DataError(f"row {row.get('id')!r}: it has neither `frames` nor `video`")
    blank = np.zeros_like(frames[0])
    return np.stack([*frames, *[blank] * (num_frames - len(frames))])


def _read_listed(names: Sequence[str]) -> list[np.ndarray]:
    """Images and moments of videos, in order; each video is opened once."""
    moments: dict[str, list[tuple[int, float]]] = {}
    frames: dict[int, np.ndarray] = {}
    for place, name in enumerate(names):
        path, seconds = split_moment(name)
        if seconds is None:
            frames[place] = _read_image(path)
        else:
            moments.setdefault(path, []).append((place, seconds))
    for path, wanted in moments.items():
        index = index_video(path)
        read = read_frames(path, index, [index.at(seconds) for _, seconds in wanted])
        frames.update({place: frame for (place, _), frame in zip(wanted, read, strict=True)})
    for place, name in enumerate(names):
        if frames[place].shape != frames[0].shape:
            (height, width), (first_height, first_width) = frames[place].shape[:2], frames[0].shape[:2]
            raise DataError(
                f"{name}: {width}x{height} pixels, but the clip's first frame has {first_width}x{first_height}"
            )
    return [frames[place] for place in range(len(names))]


def split_moment(name: str) -> tuple[str, float | None]:
    """
    The path of a frame, and the moment of the video in seconds; None where it is an image.

    Raises:
        `DataError`: where what follows `#t=` is no moment.
    """
    path, mark, moment = name.rpartition("#t=")
    if not mark:
        return name, None
    try:
        seconds = float(moment)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise DataError(f"{name}: {moment!r} is no moment; write seconds from 0 on, as in clip.mp4#t=1.5")
    return path, seconds


def _read_image(path: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such frame") from None
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: can not be read as an image: {error}") from None


def load_audio(row: Row, *, sampling_rate: int) -> np.ndarray | None:
    """
    The sound of a row's clip.

    Args:
        row (`dict`): a dataset row with `audio`, or with `video` whose own track is taken.
        sampling_rate (`int`): in hertz.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32 in [-1, 1], mono, or `None` where the clip has no sound.

    Raises:
        `DataError`: names the file that is missing, can not be read, has no sound track, or holds no samples.
    """
    if row.get("audio"):
        track = read_sound(row["audio"])
        if track is None:
            raise DataError(f"{row['audio']}: it has no sound track; remove `audio` where the clip has no sound")
    else:
        track = read_track(row["video"]) if row.get("video") else None
        if track is None:
            return None
    wave, rate = track
    if not len(wave):
        raise DataError(f"{row.get('audio') or row['video']}: it holds no samples")
    mono = wave.mean(axis=1)
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate).astype(np.float32)


def read_sound(path: str) -> tuple[np.ndarray, int] | None:
    """
    The sound of a file: wav, flac, ogg, mp3 and what else libsndfile reads, then whatever FFmpeg reads, videos too.

    Args:
        path (`str`): the file.

    Returns:
        `tuple`: samples `(N, channels)` float32, and their rate in hertz; None where a video has no sound track.

    Raises:
        `DataError`: names the file that is missing or can not be read.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: can not be read as sound: no such file")
    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        try:
            return read_track(path)
        except DataError:
            raise DataError(f"{path}: can not be read as sound: {error.error_string}") from None
