"""Checks of a dataset before training starts: a missing or broken file shows itself here, not hours later."""

import os
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import soundfile
from PIL import Image

from .masks import decode_rle
from .schema import DataError, check_row

_TAIL_BYTES = 1 << 16


def check_dataset(rows: Iterable[dict[str, Any]], *, limit: int = 20) -> list[str]:
    """
    Look for what would stop a training run: files that are missing, cut short or of another size, empty references.

    Only headers and ends of files are read.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        limit (`int`, *optional*, defaults to 20): stop after so many problems.

    Returns:
        `list[str]`: one line per problem, each names the file or the row and the way out; empty where all is well.
    """
    problems: list[str] = []
    seen: set[str] = set()
    checker = _FileChecker()
    for row in rows:
        if len(problems) >= limit:
            break
        if row["id"] in seen:
            problems.append(f"row {row['id']!r}: its id occurs twice; give each row its own")
        seen.add(row["id"])
        try:
            check_row(row)
            checker.check(row)
        except DataError as error:
            if str(error) not in problems:
                problems.append(str(error))
    return problems


def require_valid(rows: Iterable[dict[str, Any]]) -> None:
    """
    Raise where `check_dataset` finds anything.

    Raises:
        `DataError`: the first problem, with the number of all that were found.
    """
    problems = check_dataset(rows)
    if problems:
        more = f" ({len(problems)} problems; `aurora check-data` lists them)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)


class _FileChecker:
    """Each file is looked at once, however many rows use it."""

    def __init__(self) -> None:
        self._image_size = lru_cache(maxsize=None)(_image_size)
        self._check_sound = lru_cache(maxsize=None)(_check_sound)

    def check(self, row: dict[str, Any]) -> None:
        sizes = [self._image_size(path, "frame") for path in row.get("frames") or ()]
        for path, size in zip(row.get("frames") or (), sizes, strict=True):
            if size != sizes[0]:
                raise DataError(f"{path}: {_shown(size)} pixels, but the clip's first frame has {_shown(sizes[0])}")
        for name in ("video", "audio"):
            if row.get(name) and not os.path.isfile(row[name]):
                raise DataError(f"{row[name]}: no such file (`{name}` of row {row['id']!r})")
        if row.get("audio"):
            self._check_sound(row["audio"])
        if row.get("is_null"):
            return
        for name in row.get("masks") or ():
            is_rle = name.startswith("{")
            size = decode_rle(name).shape[::-1] if is_rle else self._image_size(name, "mask")
            if sizes and size != sizes[0]:
                place = f"row {row['id']!r}: a mask" if is_rle else name
                raise DataError(f"{place}: {_shown(size)} pixels, but the clip's frames have {_shown(sizes[0])}")


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _image_size(path: str, what: str) -> tuple[int, int]:
    """Width and height from the header; an image whose end is missing is an error."""
    try:
        with Image.open(path) as image:
            size, kind = image.size, image.format
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}; restore it or remove the rows that use it") from None
    except OSError as error:
        raise DataError(f"{path}: can not be read as an image: {error}") from None
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if end is not None and end not in _tail(path):
        raise DataError(f"{path}: the {what} is cut short; restore it or remove the rows that use it")
    return size


def _tail(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read()


def _check_sound(path: str) -> None:
    """Raise for a file that can not be opened, is empty, or is shorter than its header says (libsndfile reads on)."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: can not be read as sound: {error.error_string}") from None
    if info.frames == 0:
        raise DataError(f"{path}: it holds no samples")
    with open(path, "rb") as file:
        head = file.read(12)
    if len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE":
        declared = struct.unpack("<I", head[4:8])[0] + 8
        # Streams that were never closed declare 0 or the largest number.
        if 8 < declared < 2**32 - 1 and os.path.getsize(path) < declared - 1:
            raise DataError(
                f"{path}: the sound is cut short, {os.path.getsize(path)} of {declared} bytes; restore it or remove "
                "the rows that use it"
            )
