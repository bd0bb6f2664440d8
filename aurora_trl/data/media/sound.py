"""Sound out of files, and channels into one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
import soundfile

from ...errors import DataError
from .containers import (
    LONGEST_PAUSE_SECONDS,
    NEW_TIMES,
    REENCODE,
    find_pictures,
    find_sound,
    open_container,
    open_video,
    require_pictures,
    said,
)
from .ends import CutShort, require_end, tells_mp3_length
from .ogg import require_pages

# A sound that pauses for less, by the clock of its packets, goes on: many containers round to milliseconds and more.
_PAUSE_SECONDS = 0.1
_LOST_SECONDS = 0.1  # the last frame of an MP3 that some players leave out is none
_UNKNOWN_SAMPLES = 1 << 62  # libsndfile's word where a FLAC that was streamed does not say it
# The power of channels' mean, against what it would be if they had nothing to do with each other: below it they are
# taken to cancel each other.
_CANCELLED = 0.05
# Editors write samples above 1; numbers of 8 bits or more that nobody scaled are far above that.
_LOUDEST = 4.0
NO_SAMPLES = "it holds no samples; a clip without sound needs no `audio`, and no track: `ffmpeg -i IN -c copy -an OUT`"
_GLANCE, _GLANCES = 4096, 32  # samples in a piece, and pieces
_MIX_WINDOW = 4096  # samples: a tenth to a quarter of a second


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
    with open_sound_file(path) as file:
        if file is not None:
            wave = file.read(dtype="float32", always_2d=True)
            if len(wave) < file.frames - _LOST_SECONDS * file.samplerate:
                raise CutShort(f"{path}: the sound is cut short, {len(wave)} of {file.frames} samples; restore it")
            return wave, file.samplerate
    try:
        return read_track(path)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: its sound can not be read: ")
        raise DataError(f"{path}: can not be read as sound: {reason}") from None


@contextmanager
def open_sound_file(path: str) -> Iterator[soundfile.SoundFile | None]:
    """
    A file as libsndfile reads it, with its length; None where it does not, or guesses the length, and FFmpeg has to
    read it. What goes wrong with it inside the block names the file.
    """
    require_end(path, "sound")
    try:
        file = soundfile.SoundFile(os.fsencode(path))  # names of old archives are in any encoding
    except (soundfile.LibsndfileError, TypeError):  # the latter where the file is called `.raw`
        file = None
    try:
        if file is not None and file.format == "OGG":
            require_pages(path)
        if file is None or file.frames >= _UNKNOWN_SAMPLES or (file.format == "MP3" and not tells_mp3_length(path)):
            yield None
        else:
            yield file
    except (soundfile.LibsndfileError, MemoryError) as error:
        raise DataError(f"{path}: can not be read as sound: {error}") from None
    finally:
        if file is not None:
            file.close()


def require_samples(wave: np.ndarray, path: str) -> None:
    """Raise `DataError` where samples of a file are not numbers, or so large that they were never scaled to 1."""
    peak = max(float(wave.max()), -float(wave.min())) if wave.size else 0.0  # NaN where one of them is
    if not np.isfinite(peak):
        raise DataError(f"{path}: some of its samples are no numbers (NaN or infinite); write the file anew")
    if peak > _LOUDEST:
        raise DataError(
            f"{path}: its samples reach {peak:,.0f}, and those of sounds lie between -1 and 1; divide them by the "
            "largest number of their kind, as 32,768 of 16 bits, and write the file anew"
        )


def glance(file: soundfile.SoundFile, path: str) -> None:
    """
    Look at what the header of a sound file does not tell, in a few milliseconds: the end of a FLAC, and pieces of
    samples that are saved as floats, which alone may be no numbers or too large.
    """
    if file.format == "FLAC" and file.frames:
        file.seek(file.frames - 1)
        file.read(1)
    if file.subtype in ("FLOAT", "DOUBLE"):
        for start in range(0, file.frames, max(_GLANCE, file.frames // _GLANCES)):
            file.seek(start)
            require_samples(file.read(_GLANCE, dtype="float32", always_2d=True), path)


def mix_channels(wave: np.ndarray) -> np.ndarray:
    """
    One channel out of several: their mean; in moments when they are of opposite phase, so that hardly anything of them
    is left in it, the loudest of them.

    Args:
        wave (`np.ndarray` of shape `(samples, channels)`): float32.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32.
    """
    mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if wave.shape[1] == 1 or not len(wave):
        return mono
    starts = np.arange(0, len(wave), _MIX_WINDOW)
    # Channel by channel: the squares of all of them would take as much memory as the sound.
    powers = np.stack([np.add.reduceat(np.square(channel), starts) for channel in wave.T])  # (channels, windows)
    cancelled = np.add.reduceat(np.square(mono), starts) < _CANCELLED * powers.sum(axis=0) / wave.shape[1] ** 2
    if not cancelled.any():
        return mono
    loudest = wave[:, int(powers[:, cancelled].sum(axis=1).argmax())]
    # From one to the other without a click.
    share = np.interp(np.arange(len(wave)), starts + _MIX_WINDOW / 2, cancelled).astype(np.float32)
    return mono + share * (loudest - mono)


def read_track(path: str) -> tuple[np.ndarray, int] | None:
    """
    The first sound track of a file, of any codec that FFmpeg knows, on the clock of its pictures: silence stands
    before a sound that begins after the first of them, and where a sound pauses; what comes before the first is left
    out. Without pictures a sound begins where it begins.

    Args:
        path (`str`): a video or a sound file.

    Returns:
        `tuple`: samples `(N, channels)` float32, and their rate in hertz; None where there is no track.

    Raises:
        `DataError`: names the file that is missing or can not be read.
    """
    with open_track(path) as track:
        if track is None:
            return None
        parts, rate = track
        samples = list(parts)
        return (np.concatenate(samples) if samples else np.zeros((0, 1), np.float32)), rate


@contextmanager
def open_track(path: str) -> Iterator[tuple[Iterator[np.ndarray], int] | None]:
    """What `read_track` returns, with the samples in pieces, which are decoded as they are asked for in the block."""
    require_end(path, "sound")
    try:
        with open_container(path) as container:
            track = find_sound(container)
            if track is None:
                yield None
                return
            if track.codec_context is None:
                raise DataError(f"{path}: its sound can not be read: FFmpeg does not know its codec; {REENCODE}")
            start = _first_picture_seconds(path) if find_pictures(container) is not None else None
            yield _place_sound(container.decode(track), start, track.rate, path), track.rate
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (av.FFmpegError, EOFError, MemoryError) as error:
        raise DataError(f"{path}: its sound can not be read: {said(error)}") from None


def _first_picture_seconds(path: str) -> float | None:
    """When the first picture of a file is shown, by the file's own clock; None where no picture can be decoded."""
    try:
        with open_video(path) as container:
            frame = next(container.decode(require_pictures(container, path)), None)
    except DataError:
        return None  # whoever wants its pictures hears of it
    return None if frame is None or frame.pts is None else float(frame.pts * frame.time_base)


def _place_sound(frames: Iterator[Any], start: float | None, rate: int, path: str) -> Iterator[np.ndarray]:
    """Samples `(N, channels)` of decoded frames, each at its time from `start` on; None: from the first on."""
    begun, place = False, 0  # the place of the next sample; below 0 it stands before the start
    for seconds, samples in _resample(frames, rate):
        if seconds is not None:
            start = seconds if start is None else start
            gap = round((seconds - start) * rate) - place
            if not begun:
                place, gap = min(0, gap), max(0, gap)
            if gap > LONGEST_PAUSE_SECONDS * rate:
                raise DataError(f"{path}: its sound pauses for {gap / rate:.0f} s, by its clock; {NEW_TIMES}")
            if gap > (_PAUSE_SECONDS * rate if begun else 0):
                yield np.zeros((gap, samples.shape[1]), np.float32)
                place += gap
        begun = True
        heard = samples[max(0, -place) :]
        place += len(samples)
        if len(heard):
            yield heard


def _resample(frames: Iterator[Any], rate: int) -> Iterator[tuple[float | None, np.ndarray]]:
    """When each frame is heard, where it says so, and its samples `(N, channels)`, with the channels of the first."""
    source: tuple[Any, ...] | None = None
    layout: Any = None
    resampler: Any = None
    for frame in frames:
        if source != (frame.format.name, frame.layout.name, frame.sample_rate):
            # Broadcasts change from one to the other.
            yield from _rest_of(resampler, layout)
            source, layout = (frame.format.name, frame.layout.name, frame.sample_rate), layout or frame.layout
            # Packed: PyAV crashes where it reads eight planes (18.1).
            resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
        seconds = None if frame.pts is None else float(frame.pts * frame.time_base)
        for part in resampler.resample(frame):
            yield seconds, part.to_ndarray().reshape(-1, layout.nb_channels)
            seconds = None
    yield from _rest_of(resampler, layout)


def _rest_of(resampler: Any, layout: Any) -> Iterator[tuple[None, np.ndarray]]:
    for part in () if resampler is None else resampler.resample(None):
        yield None, part.to_ndarray().reshape(-1, layout.nb_channels)
