"""Frames and sound out of video files: decord where it is installed and can, PyAV where not."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

from ...errors import DataError

try:
    import decord
except ImportError:  # there is no wheel for this platform
    decord = None

READERS = ("decord", "av")
# Frames' times are rounded to the container's clock: a moment this close before a frame belongs to it.
_CLOCK_SECONDS = 1e-3


@dataclass(frozen=True)
class VideoIndex:
    """
    What a video holds, read from its packets without decoding any.

    Attributes:
        times (`tuple[float, ...]`): when each frame is shown, in seconds from the first; the rate may vary.
        stamps (`tuple[int, ...]`): the same in the stream's own clock.
        keyframes (`tuple[int, ...]`): the frames that decode without others, by number; the first is one.
        duration (`float`): until the last frame ends, in seconds.
        rotation (`int`): quarter turns counter-clockwise that the file asks the player for.
    """

    times: tuple[float, ...]
    stamps: tuple[int, ...]
    keyframes: tuple[int, ...]
    duration: float
    rotation: int

    def at(self, seconds: float) -> int:
        """The number of the frame that is shown at a moment; of the last one after the end."""
        return max(0, bisect_right(self.times, seconds + _CLOCK_SECONDS) - 1)

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
    Read when each frame of a video is shown.

    Raises:
        `DataError`: where the file is missing, is no video, or has no frames.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise DataError(f"{path}: it has no video track")
            stream = container.streams.video[0]
            packets = sorted(
                (packet.pts, packet.duration or 0, packet.is_keyframe)
                for packet in container.demux(stream)
                # An edit list cuts frames off: they are decoded, and never shown.
                if packet.pts is not None and not packet.is_discard
            )
            clock = stream.time_base
            container.seek(0)
            # How the file is to be turned comes with its frames, which are stored as the sensor lay.
            first = next(container.decode(stream), None)
            rotation = 0 if first is None else round(first.rotation / 90) % 4
    except FileNotFoundError:
        raise DataError(f"{path}: no such video") from None
    except av.FFmpegError as error:
        raise DataError(f"{path}: can not be read as a video: {error}") from None
    if not packets or first is None or clock is None:
        raise DataError(f"{path}: the video has no frames")
    stamps = tuple(pts for pts, _, _ in packets)
    times = tuple(float((pts - stamps[0]) * clock) for pts in stamps)
    last = float(packets[-1][1] * clock) or (times[-1] / (len(times) - 1) if len(times) > 1 else 0.0)
    keyframes = tuple(i for i, packet in enumerate(packets) if packet[2])
    return VideoIndex(times, stamps, keyframes, times[-1] + last, rotation)


def read_frames(path: str, index: VideoIndex, numbers: Sequence[int], *, reader: str | None = None) -> np.ndarray:
    """
    Read some frames of a video; only what stands between them and the keyframes before them is decoded.

    Args:
        path (`str`): the video.
        index (`VideoIndex`): from `index_video`.
        numbers (`Sequence[int]`): which frames, in any order; one may be wanted twice.
        reader (`str`, *optional*): `"decord"` or `"av"` alone; by default decord, and PyAV where decord can not.

    Returns:
        `np.ndarray` of shape `(len(numbers), H, W, 3)`, uint8, RGB, turned as the file asks for.

    Raises:
        `DataError`: names the file whose frames can not be read.
    """
    if reader is None:
        reader = "av" if decord is None else "decord"
        frames = _read_decord(path, index, numbers) if reader == "decord" else None
        return _read_av(path, index, numbers) if frames is None else frames
    if reader == "av":
        return _read_av(path, index, numbers)
    frames = _read_decord(path, index, numbers)
    if frames is None:
        raise DataError(f"{path}: decord can not read it")
    return frames


def _read_decord(path: str, index: VideoIndex, numbers: Sequence[int]) -> np.ndarray | None:
    """None where decord can not, or counts other frames than there are."""
    if index.rotation:
        return None  # it turns frames into arrays of a wrong shape (decord 0.6)
    try:
        video = decord.VideoReader(path, num_threads=1)
        if len(video) != len(index.times):
            return None
        return video.get_batch(list(numbers)).asnumpy()
    except (decord.DECORDError, RuntimeError):
        return None


def _read_av(path: str, index: VideoIndex, numbers: Sequence[int]) -> np.ndarray:
    groups: dict[int, list[int]] = {}
    for number in sorted(set(numbers)):
        # The keyframe that decoding starts from.
        start = max(0, bisect_right(index.keyframes, number) - 1)
        groups.setdefault(index.keyframes[start] if index.keyframes else 0, []).append(number)
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            for start, wanted in groups.items():
                container.seek(index.stamps[start], stream=stream)
                stamps = {index.stamps[number]: number for number in wanted}
                for frame in container.decode(stream):
                    if frame.pts in stamps:
                        number = stamps.pop(frame.pts)
                        found[number] = np.rot90(frame.to_ndarray(format="rgb24"), index.rotation)
                    if not stamps:
                        break
    except av.FFmpegError as error:
        raise DataError(f"{path}: can not be read as a video: {error}") from None
    lost = next((number for number in numbers if number not in found), None)
    if lost is not None:
        raise DataError(f"{path}: frame {lost}, at {index.times[lost]:.2f} s, can not be decoded")
    return np.stack([found[number] for number in numbers])


def read_track(path: str) -> tuple[np.ndarray, int] | None:
    """
    The first sound track of a file, of any codec that FFmpeg knows.

    Args:
        path (`str`): a video or a sound file.

    Returns:
        `tuple`: samples `(N, channels)` float32, and their rate in hertz; None where there is no track.

    Raises:
        `DataError`: names the file that is missing or can not be read.
    """
    # decord's own reader is not used: it lays out two channels wrongly (decord 0.6).
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                return None
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += resampler.resample(None)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except av.FFmpegError as error:
        raise DataError(f"{path}: its sound can not be read: {error}") from None
    if not parts:
        return np.zeros((0, 1), np.float32), rate
    return np.concatenate([part.to_ndarray() for part in parts], axis=1).T, rate
