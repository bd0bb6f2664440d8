"""What can be wrong with a single file: an image, a sound, a video."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...errors import DataError
from .ends import CutShort, require_end
from .images import open_image, require_undamaged, rgb_pixels, upright_size
from .loading import split_moment
from .sound import NO_SAMPLES, glance, mix_channels, open_sound_file, read_sound, read_track, require_samples
from .video import check_frames, index_video, read_frames

MIN_SOUND_SECONDS = 1.0
# A sample of 16 bits that is off by three steps: anything quieter than that is no sound.
_SILENCE = 1e-4


class Fault(DataError):
    """
    What is wrong with a file or a row.

    Args:
        kind (`str`): for the summary, such as `missing` or `cut short`.
        text (`str`): the line that names the file or row and the way out.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


@contextmanager
def _as_fault() -> Iterator[None]:
    try:
        yield
    except Fault:
        raise
    except DataError as error:
        raise Fault("cut short" if isinstance(error, CutShort) else "unreadable", str(error)) from None


def check_image(path: str, what: str, *, decode: bool = False) -> tuple[int, int]:
    """
    Check an image and measure it.

    Args:
        path (`str`): the file.
        what (`str`): what it is, for the message: `frame` or `mask`.
        decode (`bool`, *optional*, defaults to `False`): decode it; otherwise its header and its end are looked at.

    Returns:
        `tuple[int, int]`: width and height in pixels, as a viewer shows it.

    Raises:
        `Fault`: where it is missing, cut short, or no image.
    """
    if not os.path.isfile(path):
        raise Fault("missing", f"{path}: no such {what}; restore it or remove the rows that use it")
    with _as_fault():
        # The end first: a decoder's own words for a file that ends early are many.
        require_end(path, what)
        with open_image(path, what) as image:
            height, width = upright_size(image)
            if decode:
                require_undamaged(image, path)
            if what != "mask" and (decode or image.mode == "F"):
                rgb_pixels(image, path)
            elif decode:
                image.load()
    return width, height


def check_video(path: str, *, moments: tuple[float, ...] = (), decode: bool = False) -> tuple[int, int]:
    """
    Check a video.

    Args:
        path (`str`): the file.
        moments (`tuple[float, ...]`, *optional*): seconds at which its frames are wanted; all frames where none are
            given.
        decode (`bool`, *optional*, defaults to `False`): decode the frames; otherwise its packets are listed, where
            they tell which frames there are.

    Returns:
        `tuple[int, int]`: width and height of its upright frames in pixels.

    Raises:
        `Fault`: where it is missing, no video, cut short, too short for a moment, or a frame can not be decoded.
    """
    if not os.path.isfile(path):
        raise Fault("missing", f"{path}: no such file; restore it or remove the rows that use it")
    with _as_fault():
        index = index_video(path)
        numbers = index.find(path, moments)
        if decode and moments:
            read_frames(path, index, numbers)
        elif decode:
            check_frames(path, index)
    height, width = index.size
    return width, height


def check_pixels(path: str) -> None:
    """Raise `Fault` where a player shows a video in another shape than it is stored in, which is worth knowing."""
    with _as_fault():
        index = index_video(path)
    if index.pixel_aspect != 1:
        height, width = index.size
        text = f"{path}: its pixels are not square, {width}x{height} are shown as {round(width * index.pixel_aspect)}"
        raise Fault("pixels", f"{text}x{height}; masks, boxes and points are those of {width}x{height}")


def check_sound(path: str, *, decode: bool = False, min_seconds: float = MIN_SOUND_SECONDS) -> None:
    """
    Check a sound file, or a video's sound track.

    Args:
        path (`str`): the file.
        decode (`bool`, *optional*, defaults to `False`): listen to it; otherwise its header is looked at.
        min_seconds (`float`, *optional*, defaults to 1.0): what is shorter is an error.

    Raises:
        `Fault`: where it is missing, cut short, no sound, silent or too short.
    """
    if not os.path.isfile(path):
        raise Fault("missing", f"{path}: no such file; restore it or remove the rows that use it")
    with _as_fault():
        seconds, loudest = _listen(path, decode)
    _check_heard(path, seconds, loudest, min_seconds)


def check_track(path: str, *, min_seconds: float = MIN_SOUND_SECONDS) -> None:
    """Listen to the sound track of a video as `check_sound` does to a file; it is no fault to have none."""
    with _as_fault():
        track = read_track(path)
        heard = None if track is None else _measure(path, *track)
    if heard is not None:
        _check_heard(path, *heard, min_seconds)


def _check_heard(path: str, seconds: float, loudest: float | None, min_seconds: float) -> None:
    if seconds == 0:
        raise Fault("empty sound", f"{path}: {NO_SAMPLES}")
    if seconds < min_seconds:
        raise Fault("short sound", f"{path}: {seconds:.2f} s of sound, less than {min_seconds:g} s")
    if loudest is not None and loudest < _SILENCE:
        raise Fault("silent sound", f"{path}: it is silent; a clip without sound needs no track and no `audio`")


def _listen(path: str, decode: bool) -> tuple[float, float | None]:
    """Seconds of sound, and the loudest sample where the file is decoded."""
    if not decode:
        with open_sound_file(path) as file:
            if file is not None:
                glance(file, path)
                return file.frames / file.samplerate, None
    track = read_sound(path)
    if track is None:
        raise DataError(f"{path}: it has no sound track; remove `audio` where the clip has no sound")
    return _measure(path, *track)


def _measure(path: str, wave: np.ndarray, rate: int) -> tuple[float, float]:
    require_samples(wave, path)
    return len(wave) / rate, float(np.abs(mix_channels(wave)).max()) if len(wave) else 0.0


def group_frames(names: list[str]) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """The images among a row's frames, and the moments that it wants of each video."""
    images: list[str] = []
    moments: dict[str, tuple[float, ...]] = {}
    for name in names:
        path, seconds = split_moment(name)
        if seconds is None:
            images.append(path)
        else:
            moments[path] = (*moments.get(path, ()), seconds)
    return images, moments
