"""Frames and sound of a clip one after the other: what they need of memory does not grow with its length."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from ...errors import DataError
from ..schema import Row
from .containers import open_video, require_pictures
from .loading import count_frames, frame_seconds, measure_sound_seconds, read_listed, split_moment
from .sound import mix_channels, open_sound_file, open_track, require_samples
from .video import VideoIndex, decode_through, index_video, require_decoded, require_size, upright_frame

_LISTED_AT_ONCE = 16
# Of the time between two frames: a moment that is a frame's belongs to it, whatever the rounding of the file's clock.
_CLOCK_SHARE = 1e-2


def choose_frames(
    row: Row, *, fps: float | None = None, start: float = 0.0, end: float | None = None
) -> tuple[list[int], list[float] | None]:
    """
    Which frames of a clip to draw in.

    Args:
        row (`dict`): a dataset row with `frames` or `video`.
        fps (`float`, *optional*): frames per second: the one that is shown at the beginning of each part. All by
            default, and where the clip has fewer.
        start (`float`, *optional*, defaults to 0.0), end (`float`, *optional*): seconds of the clip; to its end by
            default.

    Returns:
        `tuple[list[int], list[float] | None]`: their numbers in order, and when each is shown; None for images without
            sound, which have no times.

    Raises:
        `ValueError`: for a rate or times out of range.
        `DataError`: where no frame is left, or a rate or times are asked of a clip that has none.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"`fps` must be above 0, got {fps}")
    if not 0 <= start < float("inf") or (end is not None and not start < end):
        raise ValueError(f"`start` must be at least 0 and before `end`, got {start} and {end}")
    numbers = list(range(count_frames(row)))
    times = frame_seconds(row, numbers, sound_seconds=measure_sound_seconds(row))
    if times is None:
        if fps is not None or start > 0 or end is not None:
            raise DataError(
                f"row {row.get('id')!r}: images without sound have no times; leave out `fps`, `start` and `end`"
            )
        return numbers, None
    wanted = [number for number in numbers if times[number] >= start and (end is None or times[number] < end)]
    if fps is not None and wanted:
        shown = [times[number] for number in wanted]
        parts = range(int((shown[-1] - shown[0]) * fps + _CLOCK_SHARE) + 1)
        moments = [shown[0] + (part + _CLOCK_SHARE) / fps for part in parts]
        wanted = sorted({wanted[bisect_right(shown, moment) - 1] for moment in moments})
    if not wanted:
        until = "the end" if end is None else f"{end:g} s"
        raise DataError(
            f"row {row.get('id')!r}: no frame is shown between {start:g} s and {until}; its last one is at "
            f"{times[-1]:.2f} s"
        )
    return wanted, [times[number] for number in wanted]


def stream_frames(row: Row, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """
    Frames of a row's clip, one at a time; those that `load_frames` reads.

    Args:
        row (`dict`): a dataset row with `frames` or `video`.
        numbers (`Sequence[int]`): which, in rising order.

    Yields:
        `np.ndarray` of shape `(H, W, 3)`: uint8, RGB, upright.

    Raises:
        `DataError`: names the file that is missing, can not be read, or differs in size from the first.
    """
    if not row.get("frames"):
        yield from _stream_video(row["video"], numbers)
        return
    names, size = iter([row["frames"][number] for number in numbers]), None
    while part := list(islice(names, _LISTED_AT_ONCE)):
        for name, frame in zip(part, read_listed(part), strict=True):
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                raise DataError(
                    f"{split_moment(name)[0]}: {frame.shape[1]}x{frame.shape[0]} pixels, and the first frame has "
                    f"{size[1]}x{size[0]}"
                )
            yield frame


def _stream_video(path: str, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    index, place = index_video(path), 0
    for number, frame in _decode_from(path, index, numbers[0]):
        if number == numbers[place]:
            pixels = upright_frame(path, index, number, frame)
            require_size(path, number, pixels.shape[:2], 0, index.size)
            yield pixels
            place += 1
        if place == len(numbers):
            return
    require_decoded(path, index, numbers[place:])


def _decode_from(path: str, index: VideoIndex, first: int) -> Iterator[tuple[int, Any]]:
    """Frames with their numbers, from a key frame before the first one that is wanted, or from the file's start."""
    key = index.keyframes[bisect_right(index.keyframes, first) - 1] if index.keyframes else 0
    if 0 < key <= first:
        places = {stamp: number for number, stamp in enumerate(index.stamps)}
        with open_video(path) as container:
            stream = require_pictures(container, path)
            container.seek(index.stamps[key], stream=stream)
            following: int | None = None
            for frame in container.decode(stream):
                number = places.get(frame.pts)
                if following is None and (number is None or number > first):
                    break  # it does not go as it should: decode from the start
                if number is None or number != (number if following is None else following):
                    raise DataError(
                        f"{path}: frame {following} does not follow the one before it; write the file anew"
                    )
                following = number + 1
                yield number, frame
            else:
                return
    yield from decode_through(path, index)


@contextmanager
def open_sound(row: Row) -> Iterator[tuple[Iterator[np.ndarray], int] | None]:
    """
    The sound of a row's clip in pieces, from its own file or from the video's track.

    Args:
        row (`dict`): a dataset row with `audio`, or with `video`.

    Yields:
        `tuple` or `None`: an iterator over mono samples `(N,)` float32, to be used in the block, and their rate in
            hertz; None where the clip has no sound.
    """
    path = row.get("audio") or row.get("video")
    if path is None:
        yield None
        return
    if row.get("audio") and Path(path).is_file():
        with open_sound_file(path) as file:
            if file is not None:
                blocks = file.blocks(blocksize=file.samplerate, dtype="float32", always_2d=True)
                yield _mono(blocks, path), file.samplerate
                return
    with open_track(path) as track:
        if track is None and row.get("audio"):
            raise DataError(f"{path}: it has no sound track; remove `audio` where the clip has no sound")
        yield None if track is None else (_mono(_in_blocks(*track), path), track[1])


def _in_blocks(parts: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Samples in pieces of so many, the last one perhaps shorter: packets are small, and a pause may be long."""
    kept: list[np.ndarray] = []
    room = size
    for part in parts:
        place = 0
        while len(part) - place >= room:
            yield np.concatenate([*kept, part[place : place + room]])
            place, kept, room = place + room, [], size
        if place < len(part):
            kept.append(part[place:])
            room -= len(part) - place
    if kept:
        yield np.concatenate(kept)


def _mono(blocks: Iterator[np.ndarray], path: str) -> Iterator[np.ndarray]:
    for block in blocks:
        require_samples(block, path)
        yield mix_channels(block)


def resample_stream(parts: Iterator[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    """Samples in pieces at another rate, as if they had come at once."""
    if rate == wanted:
        yield from parts
        return
    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32")
    for part in parts:
        yield stream.resample_chunk(part)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def cut_stream(parts: Iterator[np.ndarray], rate: int, start: float, end: float | None) -> Iterator[np.ndarray]:
    """Samples in pieces, from one moment to another in seconds."""
    first, last, place = round(start * rate), None if end is None else round(end * rate), 0
    for part in parts:
        if last is not None and place >= last:
            return
        yield part[max(0, first - place) : None if last is None else max(0, last - place)]
        place += len(part)
