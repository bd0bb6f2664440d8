"""
Frames out of video files, by PyAV: those that decoding a file from its start gives, in every container and codec.

`tests/data/media/test_video_matrix.py` holds it to that. decord 0.6 reads nothing here: of 225 files of such a matrix
that it could read, it gave other frames in 91 (open GOPs, and with them x265's defaults; B-frames in MPEG-2 and -4;
most of AVI, TS and PS), and where it was right PyAV took 0.4 to 1.0 of its time.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import av
import numpy as np

from ...errors import DataError
from .containers import LONGEST_PAUSE_SECONDS, NEW_TIMES, REENCODE, open_video, require_pictures
from .ends import CutShort, require_end
from .images import on_white, open_image
from .orientation import Orientation, orientation_of

# Frames' times are rounded to the container's clock: a moment this close before a frame belongs to it.
_CLOCK_SECONDS = 1e-3
# Just past the end it is the last frame that is meant.
_GRACE_SECONDS = 0.5
# Containers whose packets say when each frame is shown, and from which key frames decoding may start. Of all others
# the frames are known once they are decoded (AVI, MPEG-PS and -TS, FLV, ASF, bare streams).
_INDEXED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
# Containers whose header says how long they are; that of others is a guess from what there is.
_TIMED = _INDEXED | {"flv", "asf"}


@dataclass(frozen=True)
class VideoIndex:
    """
    What a video holds.

    Attributes:
        times (`tuple[float, ...]`): when each frame is shown, in seconds from the first; the rate may vary.
        stamps (`tuple[int | None, ...]`): the same in the stream's own clock; None where the file does not say it.
        keyframes (`tuple[int, ...]`): the frames that decode without earlier ones, by number; none where the file is
            decoded from its start.
        duration (`float`): until the last frame ends, in seconds.
        size (`tuple[int, int]`): height and width of the upright frames, in pixels.
        orientation (`Orientation`): how stored frames are turned.
        pixel_aspect (`Fraction`): width of a pixel of an upright frame by its height. Frames are as they are stored,
            and a player widens, or heightens, those of which it is not 1.
    """

    times: tuple[float, ...]
    stamps: tuple[int | None, ...]
    keyframes: tuple[int, ...]
    duration: float
    size: tuple[int, int]
    orientation: Orientation
    pixel_aspect: Fraction = Fraction(1)

    def at(self, seconds: float) -> int:
        """The number of the frame that is shown at a moment; of the last one after the end."""
        return max(0, bisect_right(self.times, seconds + _CLOCK_SECONDS) - 1)

    def find(self, path: str, moments: Sequence[float]) -> list[int]:
        """The numbers of the frames that are shown at moments; `DataError` where one lies after the file's end."""
        late = next((seconds for seconds in moments if seconds > self.duration + _GRACE_SECONDS), None)
        if late is not None:
            raise CutShort(f"{path}: it ends at {self.duration:.2f} s, a frame is wanted at {late:.2f} s")
        return [self.at(seconds) for seconds in moments]

    def spread(self, wanted: int) -> list[int]:
        """
        The frames nearest to the middle of each of `wanted` equal parts of the time from the first frame to the last,
        all where there are fewer: those of `frame_indices`, where the rate does not vary.
        """
        if len(self.times) <= wanted:
            return list(range(len(self.times)))
        return [self._nearest((i + 0.5) * self.times[-1] / wanted) for i in range(wanted)]

    def _nearest(self, seconds: float) -> int:
        after = min(bisect_right(self.times, seconds), len(self.times) - 1)
        before = max(after - 1, 0)
        # Halfway, up to the clock's rounding, is the later one's.
        return before if seconds - self.times[before] < self.times[after] - seconds - _CLOCK_SECONDS else after


def index_video(path: str) -> VideoIndex:
    """
    Find out which frames a video has, and when each is shown: from its packets where the container is one that tells
    it, by decoding it once where not. The last videos are remembered.

    Raises:
        `DataError`: where the file is missing, is no video, has no frames, or is to be turned by less than a quarter.
    """
    try:
        stat = os.stat(path)
    except OSError:
        raise DataError(f"{path}: no such video") from None
    return _index_video(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _index_video(path: str, *version: int) -> VideoIndex:
    require_end(path, "video")
    listed = None
    with open_video(path) as container:
        if container.format.name == "tiff_pipe":  # of which FFmpeg knows the first page alone
            with open_image(path):
                pass
        if container.format.name in _INDEXED:
            listed = _list_packets(container, path)
    if listed is not None:
        return listed
    with open_video(path) as container:
        return _list_frames(container, path)


def _list_packets(container: Any, path: str) -> VideoIndex | None:
    """The index that packets give; None where they do not say all of it."""
    stream = require_pictures(container, path)
    first, packets, end = None, [], 0.0
    for packet in container.demux():
        end = max(end, _end_seconds(packet))
        if packet.stream is stream and packet.size:
            packets.append((packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
        if packet.stream is stream and first is None:
            first = next(iter(packet.decode()), None)
    _require_duration(path, container, end)
    # An edit list cuts frames off: they are decoded, and never shown.
    shown = [packet[:3] for packet in packets if not packet[3]]
    if first is None or not shown:
        raise DataError(f"{path}: the video has no frames")
    # Where it cuts between frames, or some packet has no time, only decoding tells what is left.
    if any(packet[3] for packet in packets[-len(shown) :]) or any(packet[0] is None for packet in packets):
        return None
    shown.sort()
    stamps = [pts for pts, _, _ in shown]
    # Pictures that are shown before the first key frame lean on what is not there: a decoder may leave them out.
    if len(set(stamps)) < len(stamps) or not packets[0][2] or stamps[0] < packets[0][0]:
        return None
    times = tuple(float((pts - stamps[0]) * stream.time_base) for pts in stamps)
    last = float(shown[-1][1] * stream.time_base) or _frame_seconds(stream, times)
    keyframes = tuple(number for number, packet in enumerate(shown) if packet[2])
    return _make_index(path, stream, first, times, stamps, keyframes, last)


def _list_frames(container: Any, path: str) -> VideoIndex:
    """The index that decoding gives."""
    stream = require_pictures(container, path)
    first, stamps, end = None, [], 0.0
    for packet in container.demux():
        end = max(end, _end_seconds(packet))
        for frame in packet.decode() if packet.stream is stream else ():
            first = first or frame
            stamps.append(frame.pts)
    if container.format.name in _TIMED:
        _require_duration(path, container, end)
    if first is None:
        raise DataError(f"{path}: the video has no frames")
    times = _rising_times(stamps, stream)
    return _make_index(path, stream, first, times, stamps, (), _frame_seconds(stream, times))


def _make_index(
    path: str,
    stream: Any,
    first: Any,
    times: tuple[float, ...],
    stamps: Sequence[int | None],
    keyframes: tuple[int, ...],
    last_seconds: float,
) -> VideoIndex:
    pause, before = max(((after - before, before) for before, after in pairwise(times)), default=(0.0, 0.0))
    if pause > LONGEST_PAUSE_SECONDS:
        raise DataError(f"{path}: its pictures pause for {pause:.0f} s at {before:.2f} s, by its clock; {NEW_TIMES}")
    orientation = orientation_of(first, path)
    size = orientation.size_of(first)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    aspect = 1 / aspect if orientation.transposed else aspect
    return VideoIndex(times, tuple(stamps), keyframes, times[-1] + last_seconds, size, orientation, aspect)


def _end_seconds(packet: Any) -> float:
    """When a packet's content is over, by the file's clock."""
    stamp = packet.dts if packet.pts is None else packet.pts
    return 0.0 if stamp is None else float((stamp + (packet.duration or 0)) * packet.time_base)


def _require_duration(path: str, container: Any, end: float) -> None:
    """Raise where a file is over long before its header says, as one that was cut between two whole parts."""
    declared = (container.duration or 0) / av.time_base
    if declared > end + max(1.0, 0.05 * declared):
        raise CutShort(
            f"{path}: it ends at {end:.2f} s of {declared:.2f} s; restore it or remove the rows that use it"
        )


def _rising_times(stamps: Sequence[int | None], stream: Any) -> tuple[float, ...]:
    """
    Times of frames in the order in which they are shown. One without a stamp stands evenly between its neighbours;
    where stamps go back the file has no times of its own, and the frames come at the stream's rate.
    """
    known = [(number, float(stamp * stream.time_base)) for number, stamp in enumerate(stamps) if stamp is not None]
    seconds = _frame_seconds(stream, ())
    if not known or any(later < earlier for (_, earlier), (_, later) in pairwise(known)):
        return tuple(number * seconds for number in range(len(stamps)))
    first, last = known[0], known[-1]
    before = (-1, first[1] - (first[0] + 1) * seconds)
    after = (len(stamps), last[1] + (len(stamps) - last[0]) * seconds)
    numbers, moments = zip(before, *known, after, strict=True)
    times = np.interp(np.arange(len(stamps)), numbers, moments)
    return tuple((times - times[0]).tolist())


def _frame_seconds(stream: Any, times: Sequence[float]) -> float:
    """How long a frame is shown that does not say it."""
    if len(times) > 1:
        return times[-1] / (len(times) - 1)
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else 0.0


def read_frames(path: str, index: VideoIndex, numbers: Sequence[int]) -> np.ndarray:
    """
    Read some frames of a video: those that decoding it from the start gives.

    Where the container tells which frames decode without earlier ones, and that saves more than half of the work, what
    stands before them is left out.

    Args:
        path (`str`): the video.
        index (`VideoIndex`): from `index_video`.
        numbers (`Sequence[int]`): which frames, in any order; one may be wanted twice.

    Returns:
        `np.ndarray` of shape `(len(numbers), H, W, 3)`, uint8, RGB, turned as the file asks for.

    Raises:
        `DataError`: names the file whose frames can not be read, are damaged, or differ in size.
    """
    wanted = sorted(set(numbers))
    found = _jump(path, index, wanted)
    if found is None:
        found = {}
        for number, frame in decode_through(path, index):
            if number == wanted[len(found)]:
                found[number] = upright_frame(path, index, number, frame)
            if len(found) == len(wanted):
                break
    require_decoded(path, index, [number for number in wanted if number not in found])
    for number in wanted:
        require_size(path, number, found[number].shape[:2], wanted[0], found[wanted[0]].shape[:2])
    return np.stack([found[number] for number in numbers])


def _jump(path: str, index: VideoIndex, wanted: Sequence[int]) -> dict[int, np.ndarray] | None:
    """The frames, decoded from the key frames before them; None where that is no gain, or does not go as it should."""
    if not index.keyframes or wanted[0] < index.keyframes[0]:
        return None
    groups: dict[int, list[int]] = {}
    for number in wanted:
        groups.setdefault(index.keyframes[bisect_right(index.keyframes, number) - 1], []).append(number)
    if 2 * sum(group[-1] - start + 1 for start, group in groups.items()) > wanted[-1] + 1:
        return None
    numbers = {stamp: number for number, stamp in enumerate(index.stamps)}
    found: dict[int, np.ndarray] = {}
    try:
        with open_video(path) as container:
            stream = require_pictures(container, path)
            for start, group in groups.items():
                container.seek(index.stamps[start], stream=stream)
                following: int | None = None
                for frame in container.decode(stream):
                    current = numbers.get(frame.pts)
                    if current is None or (current > group[0] if following is None else current != following):
                        return None
                    following = current + 1
                    if current in group:
                        found[current] = upright_frame(path, index, current, frame)
                    if current >= group[-1]:
                        break
    except DataError:
        return None  # decoding from the start says what is wrong
    return found if len(found) == len(wanted) else None


def check_frames(path: str, index: VideoIndex) -> None:
    """
    Decode a whole video as `read_frames` does, and keep nothing.

    Args:
        path (`str`): the video.
        index (`VideoIndex`): from `index_video`.

    Raises:
        `DataError`: names the first frame that is damaged, can not be decoded, or differs in size from the first.
    """
    count = 0
    for number, frame in decode_through(path, index):
        _require_whole(path, index, number, frame)
        require_size(path, number, index.orientation.size_of(frame), 0, index.size)
        count += 1
    require_decoded(path, index, range(count, len(index.times)))


def decode_through(path: str, index: VideoIndex) -> Iterator[tuple[int, Any]]:
    """The frames as they are decoded from the start of the file, with their numbers."""
    with open_video(path) as container:
        for number, frame in enumerate(container.decode(require_pictures(container, path))):
            if number >= len(index.stamps) or frame.pts != index.stamps[number]:
                raise DataError(
                    f"{path}: frame {number} is another one than its packets announce; the file is damaged or cut "
                    f"badly: {REENCODE}"
                )
            yield number, frame


def require_decoded(path: str, index: VideoIndex, missing: Sequence[int]) -> None:
    """Raise `DataError` where frames that were wanted did not come."""
    if missing:
        raise DataError(f"{path}: frame {missing[0]}, at {index.times[missing[0]]:.2f} s, can not be decoded")


def _require_whole(path: str, index: VideoIndex, number: int, frame: Any) -> None:
    if frame.is_corrupt:
        raise DataError(f"{path}: frame {number}, at {index.times[number]:.2f} s, is damaged")


def require_size(path: str, number: int, size: tuple[int, ...], other: int, other_size: tuple[int, ...]) -> None:
    """Raise `DataError` where two frames differ in height or width."""
    if size != other_size:
        (height, width), (other_height, other_width) = size, other_size
        raise DataError(
            f"{path}: frame {number} has {width}x{height} pixels, and frame {other} {other_width}x{other_height}; "
            f"{REENCODE}"
        )


def upright_frame(path: str, index: VideoIndex, number: int, frame: Any) -> np.ndarray:
    """A decoded frame `(H, W, 3)` as a player shows it, on white; `DataError` where it is damaged."""
    _require_whole(path, index, number, frame)
    if any(part.is_alpha for part in frame.format.components):
        return index.orientation.apply(on_white(frame.to_ndarray(format="rgba")))
    return index.orientation.apply(frame.to_ndarray(format="rgb24"))
