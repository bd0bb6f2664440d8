"""Frames and sound of a row, read when a batch needs them."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import soxr

from ...errors import DataError
from ..schema import Row, annotated_frames
from .images import read_image
from .sound import NO_SAMPLES, mix_channels, open_sound_file, read_sound, read_track, require_samples
from .video import index_video, read_frames

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


def count_frames(row: Row) -> int:
    """How many frames a row's clip has."""
    return len(row["frames"]) if row.get("frames") else len(index_video(row["video"]).times)


def taken_frames(row: Row, num_frames: int) -> list[int]:
    """
    The frames of a row's clip that stand for it: in a list of images or moments see `frame_indices`, in a video those
    that are spread evenly over its time, see `VideoIndex.spread`. Masks go by the same numbers.

    Where some frames have a mask and others not, each of these gives way to the nearest one with a mask, if that is
    nearer to it than to any other: a clip with at least one annotated frame is never seen without it.

    Args:
        row (`dict`): a dataset row with `frames` or `video`.
        num_frames (`int`): how many a model takes.

    Returns:
        `list[int]`: their numbers in order, fewer than `num_frames` where the clip has fewer.

    Raises:
        `DataError`: where the row has neither, or names the video that can not be read.
    """
    times: Sequence[float]
    if row.get("frames"):
        times = range(len(row["frames"]))
        spread = [index for index in frame_indices(len(times), num_frames) if index != NO_FRAME]
    elif row.get("video"):
        index = index_video(row["video"])
        times, spread = index.times, index.spread(num_frames)
    else:
        raise DataError(f"row {row.get('id')!r}: it has neither `frames` nor `video`")
    annotated = annotated_frames(row)
    return spread if annotated is None else _prefer(annotated, spread, times)


def _prefer(annotated: Sequence[int], spread: Sequence[int], times: Sequence[float]) -> list[int]:
    """Frames spread over a clip, with an annotated one in place of each that is the nearest to any."""
    nearest: dict[int, tuple[float, int]] = {}  # by the turn among those spread: distance and number
    for number in annotated:
        if number < len(times):  # a mask without a frame is an error elsewhere
            distance, turn = min((abs(times[own] - times[number]), turn) for turn, own in enumerate(spread))
            nearest[turn] = min(nearest.get(turn, (distance, number)), (distance, number))
    return sorted(nearest[turn][1] if turn in nearest else own for turn, own in enumerate(spread))


def pixel_aspect(row: Row) -> Fraction:
    """Width of a pixel of a row's frames by its height, as a player shows them; 1 for images."""
    name, seconds = split_moment(row["frames"][0]) if row.get("frames") else (row["video"], 0.0)
    return Fraction(1) if seconds is None else index_video(name).pixel_aspect


def frame_seconds(row: Row, numbers: Sequence[int], *, sound_seconds: float | None = None) -> list[float] | None:
    """
    When frames of a row's clip are shown.

    Args:
        row (`dict`): a dataset row.
        numbers (`Sequence[int]`): of the frames, from `taken_frames`.
        sound_seconds (`float`, *optional*): how long the clip's sound is.

    Returns:
        `list[float]` or `None`: seconds from the clip's start. Of a video, or of moments of one in order, they are the
        file's; images are spread evenly over the sound. None for images without sound, which have no times.
    """
    if not row.get("frames"):
        times = index_video(row["video"]).times
        return [times[number] for number in numbers]
    moments = [split_moment(name) for name in row["frames"]]
    seconds = [moment for _, moment in moments if moment is not None]
    if len(seconds) == len(moments) and len({path for path, _ in moments}) == 1 and seconds == sorted(seconds):
        return [seconds[number] for number in numbers]
    if not sound_seconds:
        return None
    return [number * sound_seconds / len(moments) for number in numbers]


def measure_sound_seconds(row: Row) -> float | None:
    """How long the sound file of a row is, from its header where that says it; None where there is none to be read."""
    if not row.get("audio") or not os.path.isfile(row["audio"]):
        return None
    with open_sound_file(row["audio"]) as file:
        if file is not None:
            return file.frames / file.samplerate
    track = read_track(row["audio"])
    return None if track is None else len(track[0]) / track[1]


def load_frames(row: Row, *, num_frames: int, pad: bool = True) -> np.ndarray:
    """
    The frames of a row's clip.

    Args:
        row (`dict`): a dataset row with `frames` or `video`. A frame is an image, or a moment of a video in seconds,
            as in `clip.mp4#t=1.5`. The rate of a video may vary: its frames are spread over its time.
        num_frames (`int`): how many to take, see `taken_frames`.
        pad (`bool`, *optional*, defaults to `True`): put black frames behind those of a clip that has fewer.

    Returns:
        `np.ndarray` of shape `(num_frames, H, W, 3)`, or fewer without `pad`; uint8, RGB, upright.

    Raises:
        `DataError`: names the file that is missing, can not be read, or differs in size from the clip's first frame.
    """
    numbers = taken_frames(row, num_frames)
    if row.get("frames"):
        frames = np.stack(read_listed([row["frames"][number] for number in numbers]))
    else:
        frames = read_frames(row["video"], index_video(row["video"]), numbers)
    missing = num_frames - len(frames) if pad else 0
    return np.pad(frames, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else frames


def read_listed(names: Sequence[str]) -> list[np.ndarray]:
    """Images and moments of videos, in order; each video is opened once."""
    moments: dict[str, list[tuple[int, float]]] = {}
    frames: dict[int, np.ndarray] = {}
    for number, name in enumerate(names):
        path, seconds = split_moment(name)
        if seconds is None:
            frames[number] = read_image(path)
        else:
            moments.setdefault(path, []).append((number, seconds))
    for path, wanted in moments.items():
        index = index_video(path)
        read = read_frames(path, index, index.find(path, [seconds for _, seconds in wanted]))
        frames.update({number: frame for (number, _), frame in zip(wanted, read, strict=True)})
    for number, name in enumerate(names):
        if frames[number].shape != frames[0].shape:
            (height, width), (first_height, first_width) = frames[number].shape[:2], frames[0].shape[:2]
            raise DataError(
                f"{name}: {width}x{height} pixels, but the clip's first frame has {first_width}x{first_height}"
            )
    return [frames[number] for number in range(len(names))]


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


def load_audio(row: Row, *, sampling_rate: int) -> np.ndarray | None:
    """
    The sound of a row's clip.

    Args:
        row (`dict`): a dataset row with `audio`, or with `video` whose own track is taken.
        sampling_rate (`int`): in hertz.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, mono, or `None` where the clip has no sound. Samples lie in
        [-1, 1]; those that an editor saved as floats may exceed it by little, see `require_samples`. A track stands on
        the clock of its own file's pictures, see `read_track`; channels are mixed by `mix_channels`.

    Raises:
        `DataError`: names the file that is missing, can not be read, has no sound track, holds no samples, or holds
            numbers that were never scaled to 1.
    """
    if row.get("audio"):
        return load_sound(row["audio"], "remove `audio` where the clip has no sound", sampling_rate)
    track = read_track(row["video"]) if row.get("video") else None
    return None if track is None else _as_mono(row["video"], track, sampling_rate)


def load_sound(path: str, way_out: str, sampling_rate: int) -> np.ndarray:
    """
    A file's sound, as `load_audio` gives that of a clip.

    Args:
        path (`str`): the file.
        way_out (`str`): what to do where it has no sound, for the error.
        sampling_rate (`int`): in hertz.
    """
    track = read_sound(path)
    if track is None:
        raise DataError(f"{path}: it has no sound track; {way_out}")
    return _as_mono(path, track, sampling_rate)


def _as_mono(path: str, track: tuple[np.ndarray, int], sampling_rate: int) -> np.ndarray:
    wave, rate = track
    if not len(wave):
        raise DataError(f"{path}: {NO_SAMPLES}")
    require_samples(wave, path)
    mono = mix_channels(wave)
    heard = mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate).astype(np.float32)
    if not len(heard):
        raise DataError(f"{path}: {len(wave)} samples at {rate:,} Hz are no sound")
    return heard
