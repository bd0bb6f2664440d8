"""
Values inside large JSON files: found once without holding the file, and read when they are needed.

Datasets of videos keep the masks of all clips in one file of hundreds of megabytes. Rows name a mask there by its
place and a short digest, as in `mask_dict.json#json=1200-1350:ab12cd`; of several places the mask is the union.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError

# The keys and numbers that lead to a value; its first byte, the one behind its last, and the digest of its bytes, as a
# name has them.
Keys = tuple[str | int, ...]
Span = str

_MARK = "#json="
_CHUNK_BYTES = 4 << 20
_LARGEST_VALUE_BYTES = 64 << 20


def scan_json(path: str | Path, opens: Callable[[Keys], bool]) -> Iterator[tuple[Keys, Any, Span]]:
    """
    Go through a JSON file from its beginning to its end, a part of it in memory at a time.

    Args:
        path (`str` or `Path`): the file, in UTF-8.
        opens (`Callable`): whether the parts of the list or mapping at these keys come one by one; otherwise it comes
            as one value.

    Yields:
        `tuple[tuple, Any, str]`: its keys, the value, and its place in the file.

    Raises:
        `DataError`: where there is no such file, or it is no JSON: cut short, for example.
    """
    try:
        with open(path, "rb") as file:
            reader = _Reader(file)
            yield from _walk(reader, (), opens)
            reader.expect("")
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); restore the file") from None


def name_spans(path: str | Path, *spans: Span) -> str:
    """The name of values in a file by their places, which `read_named` takes."""
    return f"{path}{_MARK}" + ",".join(spans)


def names_values(name: str) -> bool:
    """Whether a name is one of `name_spans`."""
    return _MARK in name


def read_named(name: str) -> list[Any]:
    """
    The values that a name of `name_spans` stands for.

    Raises:
        `DataError`: where the file is gone, or is not the one that was looked through.
    """
    path, _, places = name.rpartition(_MARK)
    try:
        with open(path, "rb") as file:
            return [_read_span(file, place) for place in places.split(",")]
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise DataError(
            f"{path}: no value at {places}: the file has changed since it was loaded; load the dataset again"
        ) from None


def _read_span(file: BinaryIO, place: Span) -> Any:
    span, _, digest = place.partition(":")
    start, end = map(int, span.split("-"))
    file.seek(start)
    content = file.read(end - start)
    if digest and digest != _digest(content):  # names of earlier versions have none
        raise ValueError
    return json.loads(content)


def _digest(content: bytes) -> str:
    return f"{zlib.crc32(content) & 0xFFFFFF:06x}"


def _walk(reader: "_Reader", keys: Keys, opens: Callable[[Keys], bool]) -> Iterator[tuple[Keys, Any, Span]]:
    first = reader.peek()
    if first not in ("{", "[") or not opens(keys):
        start = reader.place
        value, raw = reader.value()
        yield keys, value, f"{start}-{reader.place}:{_digest(raw)}"
        return
    reader.expect(first)
    closing = "}" if first == "{" else "]"
    number = 0
    while reader.peek() != closing:
        if number:
            reader.expect(",")
        key: str | int = number
        if first == "{":
            key, _ = reader.value()
            if not isinstance(key, str):
                raise ValueError(f"a key is no text at byte {reader.place}")
            reader.expect(":")
        yield from _walk(reader, (*keys, key), opens)
        number += 1
    reader.expect(closing)


class _Reader:
    """The rest of a file as text with a character for each byte, so that places in it are places in the file."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        start = file.read(_CHUNK_BYTES)
        self._text, self._at, self._base = start.decode("latin-1"), 0, 0
        if start.startswith(b"\xef\xbb\xbf"):
            self._at = 3

    @property
    def place(self) -> int:
        """The next byte."""
        return self._base + self._at

    def _read_on(self, size: int) -> bool:
        """Drop what is behind, and read more; False at the end, where nothing changes."""
        chunk = self._file.read(size)
        if chunk:
            self._base += self._at
            self._text, self._at = self._text[self._at :] + chunk.decode("latin-1"), 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is no white space, at which it then stands; empty at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\r\n":
                    return character
                self._at += 1
            if not self._read_on(_CHUNK_BYTES):
                return ""

    def expect(self, character: str) -> None:
        """Go past a character, or raise `ValueError`; an empty one is the end."""
        if self.peek() != character:
            wanted = f"{character!r} is missing" if character else "there is more than one value"
            raise ValueError(f"{wanted} at byte {self.place}")
        self._at += len(character)

    def value(self) -> tuple[Any, bytes]:
        """The whole value that stands next, and its bytes."""
        self.peek()
        size = _CHUNK_BYTES
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may go on behind what was read.
                if len(self._text) - self._at > _LARGEST_VALUE_BYTES or not self._read_on(size):
                    raise ValueError(f"no value at byte {self.place}: {_reason(error)}") from None
                size *= 2
                continue
            # So may a number: `3.` and `3e+` are 3 where the file is not read on.
            if len(self._text) - end > 2 or not self._read_on(size):
                break
        raw = self._text[self._at : end].encode("latin-1")
        self._at = end
        return value if raw.isascii() else json.loads(raw), raw


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error).split(":")[0]
