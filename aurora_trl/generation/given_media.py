"""Clips as a caller has them, files or pixels, as rows that name files."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import soundfile
from PIL import Image

from ..data.folders import find_misplaced
from ..data.media.images import rgb_pixels
from ..data.schema import Row

Picture: TypeAlias = str | Path | Image.Image | np.ndarray
Frames: TypeAlias = Sequence[Picture] | np.ndarray
Sound: TypeAlias = str | Path | tuple[np.ndarray, int]


@contextmanager
def rows_of_clips(
    references: Sequence[str], video: Any, frames: Any, audio: Any, **reference_media: Any
) -> Iterator[list[Row]]:
    """
    One row per reference. Pixels and samples are written to files first, which are gone when the block ends.

    Args:
        references (`Sequence[str]`): the sentences.
        video (`str` or `Path`), frames (`Frames`), audio (`Sound`): the clip of all references, or a list with a clip
            for each; see [`AuroraPipeline`].
        **reference_media: what the references are besides their text, by the names of `REFERENCE_MEDIA`, likewise.

    Raises:
        `ValueError`: where not exactly one of `video` and `frames` is given, a list has another length than
            `references`, or a value is neither a file's path nor what can be written as one.
    """
    if (video is None) == (frames is None):
        raise ValueError("give the clip as `video` or as `frames`, and not both")
    count = len(references)
    videos = _per_reference("video", video, count, isinstance(video, (list, tuple)))
    clips = _per_reference("frames", frames, count, _are_clips(frames))
    sounds = _per_reference("audio", audio, count, isinstance(audio, list))
    given = {name: value for name, value in reference_media.items() if value is not None}
    besides = {name: _per_reference(name, value, count, isinstance(value, list)) for name, value in given.items()}
    with ExitStack() as stack:
        files = _Files(stack)
        yield [
            {
                "id": str(video) if count == 1 and isinstance(video, (str, Path)) else f"clip {number}",
                "reference": reference,
                "frames": None if clip is None else files.frames(clip),
                "video": None if video is None else files.path("video", video),
                "audio": None if sound is None else files.sound("audio", sound),
                **{name: files.of_reference(name, values[number]) for name, values in besides.items()},
            }
            for number, (reference, video, clip, sound) in enumerate(
                zip(references, videos, clips, sounds, strict=True)
            )
        ]


def _per_reference(name: str, value: Any, count: int, is_list: bool) -> list[Any]:
    if not is_list:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"`{name}` has {len(value)} clips for {count} references; give one for each, or one for all")
    return list(value)


def _are_clips(frames: Any) -> bool:
    """Whether `frames` holds clips, and not the frames of one."""
    if isinstance(frames, np.ndarray):
        return frames.ndim == 5
    first = frames[0] if isinstance(frames, (list, tuple)) and len(frames) else None
    return isinstance(first, (list, tuple)) or (isinstance(first, np.ndarray) and first.ndim == 4)


class _Files:
    """Files of what is in memory, each written once."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._folder: Path | None = None
        self._written: dict[int, Any] = {}

    def path(self, name: str, value: Any) -> str:
        if not isinstance(value, (str, Path)):
            way_out = "give pixels as `frames`" if name == "video" else "give the path of a file"
            raise ValueError(f"`{name}` takes the path of a file, got a {type(value).__name__}; {way_out}")
        return str(value)

    def frames(self, clip: Any) -> list[str]:
        if isinstance(clip, (str, Path, Image.Image)):
            shown = repr(str(clip)) if isinstance(clip, (str, Path)) else "a picture"
            raise ValueError(f"`frames` takes a list of frames in order, got one: {shown}; put it in a list")
        if isinstance(clip, np.ndarray) and clip.ndim == 3:
            raise ValueError(f"`frames` takes an array of shape (T, H, W, 3), got {clip.shape}; put it in a list")
        if id(clip) not in self._written:
            self._require_order(clip)
            self._written[id(clip)] = [self._frame(frame, number) for number, frame in enumerate(clip)]
        return self._written[id(clip)]

    def _require_order(self, clip: Any) -> None:
        """A shell gives `*.jpg` in the order of letters, and `sorted` does."""
        items = clip if isinstance(clip, (list, tuple)) else ()
        misplaced = find_misplaced([str(item) for item in items if isinstance(item, (str, Path))])
        if misplaced is not None:
            earlier, later = misplaced
            raise ValueError(f"`frames`: {earlier} stands before {later}; sort them by number, as `ls -v` does")

    def _frame(self, frame: Any, number: int) -> str:
        if isinstance(frame, (str, Path)):
            return str(frame)
        if isinstance(frame, np.ndarray):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(
                    f"`frames`: frame {number} is an array of {frame.dtype} and shape {frame.shape}; give RGB pixels "
                    "(H, W, 3) in uint8"
                )
            if not frame.size:
                raise ValueError(f"`frames`: frame {number} has no pixels, its shape is {frame.shape}")
        elif isinstance(frame, Image.Image):
            frame = rgb_pixels(frame, f"`frames`: frame {number}")  # as from its file
        else:
            raise ValueError(
                f"`frames`: frame {number} is a {type(frame).__name__}; give paths, PIL images or arrays of uint8"
            )
        path = self._new_file(".png")
        Image.fromarray(frame).save(path, compress_level=1)
        return str(path)

    def of_reference(self, name: str, value: Any) -> str | None:
        if value is None:
            return None
        return self.frames([value])[0] if name == "reference_image" else self.sound(name, value)

    def sound(self, name: str, sound: Any) -> str:
        if isinstance(sound, np.ndarray):
            raise ValueError(f"`{name}` takes a path, or samples with their rate as `(samples, rate)`")
        if not isinstance(sound, tuple):
            return self.path(name, sound)
        samples, rate = cast(tuple[Any, Any], sound if len(sound) == 2 else (None, None))
        if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2) or not samples.size:
            raise ValueError(f"`{name}` takes `(samples, rate)` with an array of shape (N,) or (N, channels)")
        if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
            raise ValueError(
                f"`{name}` takes samples of shape (N, channels), got {samples.shape}; give them turned, as `samples.T`"
            )
        if not isinstance(rate, (int, float, np.number)) or not 0 < rate < 1 << 31 or rate != int(rate):
            raise ValueError(f"`{name}` takes `(samples, rate)` with a rate in whole hertz, got {rate!r}")
        if samples.dtype not in (np.int16, np.int32) and not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"`{name}` takes samples in int16, int32 or floats in [-1, 1], got {samples.dtype}")
        if id(samples) not in self._written:
            path = self._new_file(".wav")
            kept = samples if np.issubdtype(samples.dtype, np.integer) else samples.astype(np.float32)
            soundfile.write(path, kept, int(rate), subtype=None if kept is samples else "FLOAT")
            self._written[id(samples)] = str(path)
        return self._written[id(samples)]

    def _new_file(self, suffix: str) -> Path:
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self._folder / f"{len(list(self._folder.iterdir()))}{suffix}"
