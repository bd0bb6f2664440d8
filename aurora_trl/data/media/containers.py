"""Files that FFmpeg opens, and the tracks of them that a player plays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.stream import Disposition

from ...errors import DataError

REENCODE = "encode it anew, as with `ffmpeg -i IN -c:v libx264 OUT.mp4`"
# By a file's clock: after more it has jumped, as a camera's does once it is told the time.
LONGEST_PAUSE_SECONDS = 3600.0
NEW_TIMES = "give it new times, as with `ffmpeg -i IN -vf setpts=N/FR/TB -af asetpts=N/SR/TB OUT.mp4`"
# Tracks that belong to others: a cover, the pictures of chapters.
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails
# What FFmpeg draws as a video of letters, by the file's ending alone.
_TEXTS = frozenset({"tty", "bin", "xbin", "adf", "idf"})


def open_container(path: str) -> Any:
    """A file as FFmpeg opens it. Its name is a file's, whatever stands in it: `12:30.mp4` asks for no protocol."""
    # Tags of old files are in any encoding, and are not read.
    return av.open(f"file:{path}", metadata_errors="replace")


@contextmanager
def open_video(path: str) -> Iterator[Any]:
    """The container of a file; what goes wrong with it inside the block names the file."""
    try:
        with open_container(path) as container:
            yield container
    except FileNotFoundError:
        raise DataError(f"{path}: no such video") from None
    except (av.FFmpegError, EOFError, MemoryError) as error:
        raise DataError(f"{path}: can not be read as a video: {said(error)}") from None


def said(error: Exception) -> str:
    """What FFmpeg says is wrong, without the name of the file."""
    return getattr(error, "strerror", None) or str(error)


def find_pictures(container: Any) -> Any | None:
    """
    The track of moving pictures that a player shows: of several the first that is marked as the default, but not the
    still picture beside an animation. A cover is none.
    """
    tracks = [track for track in container.streams.video if not track.disposition & _COVERS]
    return min(tracks, key=lambda track: (not _is_default(track), track.frames == 1), default=None)


def find_sound(container: Any) -> Any | None:
    """The track of sound that a player plays: of several the first that is marked as the default, not a comment's."""
    return min(container.streams.audio, key=lambda track: not _is_default(track), default=None)


def _is_default(track: Any) -> bool:
    return bool(track.disposition & Disposition.default)


def require_pictures(container: Any, path: str) -> Any:
    """The track of `find_pictures`; `DataError` where there is none, or nothing that decodes it."""
    stream = find_pictures(container)
    if stream is None:
        raise DataError(f"{path}: it has no video track")
    if container.format.name in _TEXTS:
        raise DataError(f"{path}: it is text, and no video")
    if stream.codec_context is None:
        raise DataError(f"{path}: can not be read as a video: FFmpeg does not know its codec; {REENCODE}")
    return stream
