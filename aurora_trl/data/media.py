"""Frames and sound of a row, read when a batch needs them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import soundfile
import soxr
from PIL import Image

from .schema import DataError

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
    Which frames stand for a clip: the middles of `wanted` equal parts, or all frames and then places without one.

    Args:
        total (`int`): frames that there are, at least 1.
        wanted (`int`): frames that the model takes.

    Returns:
        `list[int]`: `wanted` indices in order; -1 (a black frame, an empty mask) past the end of a short clip.
    """
    if total >= wanted:
        return [int((i + 0.5) * total / wanted) for i in range(wanted)]
    return [*range(total), *[NO_FRAME] * (wanted - total)]


def load_frames(row: dict[str, Any], *, num_frames: int) -> np.ndarray:
    """
    The frames of a row's clip.

    Args:
        row (`dict`): a dataset row with `frames` or `video`.
        num_frames (`int`): how many to take, see `frame_indices`.

    Returns:
        `np.ndarray` of shape `(num_frames, H, W, 3)`, uint8, RGB.

    Raises:
        `DataError`: names the file that is missing, can not be read, or differs in size from the clip's first frame.
    """
    if row.get("frames"):
        paths = row["frames"]
        found = {i: _read_image(paths[i]) for i in frame_indices(len(paths), num_frames) if i != NO_FRAME}
        first = next(iter(found.values()))
        for i, frame in found.items():
            if frame.shape != first.shape:
                raise DataError(
                    f"{paths[i]}: {frame.shape[1]}x{frame.shape[0]} pixels, but the clip's first frame has "
                    f"{first.shape[1]}x{first.shape[0]}"
                )
        blank = np.zeros_like(first)
        return np.stack([found.get(i, blank) for i in frame_indices(len(paths), num_frames)])
    if row.get("video"):
        return _read_video(row["video"], num_frames)
    raise DataError(f"row {row.get('id')!r}: it has neither `frames` nor `video`")


def _read_image(path: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such frame") from None
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: can not be read as an image: {error}") from None


def _read_video(path: str, num_frames: int) -> np.ndarray:
    """decord seeks, so that long videos are not decoded whole; PyAV reads what decord can not."""
    try:
        import decord
    except ImportError:
        return _read_video_av(path, num_frames)
    try:
        reader = decord.VideoReader(path, num_threads=1)
        indices = frame_indices(len(reader), num_frames)
        frames = reader.get_batch([i for i in indices if i != NO_FRAME]).asnumpy()
    except (decord.DECORDError, RuntimeError):
        return _read_video_av(path, num_frames)
    return _pad_frames(frames, num_frames)


def _read_video_av(path: str, num_frames: int) -> np.ndarray:
    import av

    try:
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such video") from None
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: can not be read as a video: {error}") from None
    if not frames:
        raise DataError(f"{path}: the video has no frames")
    indices = [i for i in frame_indices(len(frames), num_frames) if i != NO_FRAME]
    return _pad_frames(np.stack([frames[i] for i in indices]), num_frames)


def video_times(path: str) -> list[float]:
    """
    When each frame of a video is shown, in seconds from its start, in the order and number that `load_frames` counts.

    Raises:
        `DataError`: names the file that is missing or can not be read.
    """
    try:
        import decord

        reader = decord.VideoReader(path, num_threads=1)
        return [float(start) for start, _ in reader.get_frame_timestamp(range(len(reader)))]
    except ImportError:
        pass
    except (decord.DECORDError, RuntimeError):
        pass  # as in `_read_video`: PyAV reads what decord can not
    import av

    try:
        with av.open(path) as container:
            times = [float(frame.time or 0.0) for frame in container.decode(video=0)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such video") from None
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: can not be read as a video: {error}") from None
    return [time - times[0] for time in times]


def _pad_frames(frames: np.ndarray, num_frames: int) -> np.ndarray:
    missing = num_frames - len(frames)
    return np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)]) if missing else frames


def load_audio(row: dict[str, Any], *, sampling_rate: int) -> np.ndarray | None:
    """
    The sound of a row's clip.

    Args:
        row (`dict`): a dataset row with `audio`, or with `video` whose own track is taken.
        sampling_rate (`int`): in hertz.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32 in [-1, 1], mono, or `None` where the clip has no sound.

    Raises:
        `DataError`: names the file that is missing, can not be read, or holds no samples.
    """
    if row.get("audio"):
        path = row["audio"]
        try:
            wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise DataError(f"{path}: can not be read as sound: {error.error_string}") from None
    elif row.get("video"):
        path = row["video"]
        track = _read_track_av(path)
        if track is None:
            return None
        wave, rate = track
    else:
        return None
    if not len(wave):
        raise DataError(f"{path}: it holds no samples")
    mono = wave.mean(axis=1)
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate).astype(np.float32)


def _read_track_av(path: str) -> tuple[np.ndarray, int] | None:
    """The sound track of a video as `(samples, channels)` and its rate; None where it has none."""
    import av

    try:
        with av.open(path) as container:
            if not container.streams.audio:
                return None
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such video") from None
    except av.FFmpegError as error:
        raise DataError(f"{path}: its sound can not be read: {error}") from None
    return np.concatenate([part.to_ndarray() for part in parts], axis=1).T, rate
