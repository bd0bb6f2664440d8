"""Where a file says that it ends: a download, a copy or a recording may have broken off before."""

import math
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from ...errors import DataError

# Writers of WAV and AIFF differ in whether they count the header, and the byte that makes a number even.
_HEADER_BYTES = 8
_MP3_FRAME_BYTES = 512
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_TAIL_BYTES = 1 << 16
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_MP4_FIRST = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MP4_NEEDED = (b"moov", b"moof", b"mdat")
_LFS_POINTER = b"version https://git-lfs"


class CutShort(DataError):
    """A file that ends before its header says."""


def require_end(path: str, what: str) -> None:
    """
    Raise where a file ends before it says itself: by the sizes in its header, or for want of the mark of its end.

    It reads headers, and decodes nothing. What stands behind the end is no fault. A kind of file that does not say
    where it ends passes, and so does a file that was never closed, such as the record of a live stream.

    Args:
        path (`str`): an image, a sound or a video.
        what (`str`): what it is, for the message.

    Raises:
        `CutShort`: names the file.
        `DataError`: names the file of which there is a pointer alone, as in a clone without Git LFS.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise DataError(f"{path}: a pointer of Git LFS in place of the {what}; fetch it with `git lfs pull`")
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            end = _find_end(file, size)
    except struct.error:
        end = math.inf  # in the middle of its header
    except OSError:
        return  # whoever reads it says so
    if size < end:
        said = "its end is missing" if end == math.inf else f"{size} of {end} bytes"
        raise CutShort(f"{path}: the {what} is cut short, {said}; restore it or remove the rows that use it")


def tells_mp3_length(path: str) -> bool:
    """Whether the first frame of an MP3 says how long it is; otherwise a length is guessed from the rate of that."""
    with open(path, "rb") as file:
        return _mp3_end(file, 0) is not None


def _find_end(file: BinaryIO, size: int) -> float:
    """Where a file says that it ends, in bytes; infinite where it should say so and does not, 0 where it need not."""
    head = file.read(16)
    for start, find in _KINDS.items():
        if head.startswith(start):
            return find(file, size)
    return _mp4_end(file, size) if head[4:8] in _MP4_FIRST else _mp3_end(file, size) or 0


def _unpack(file: BinaryIO, place: int, form: str) -> tuple[int, ...]:
    file.seek(place)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _is_known(length: int, bits: int = 32) -> bool:
    """Whether a length is one, and not what stands for none where a writer could not go back to its header."""
    if bits == 64:
        return 0 < length < 1 << 62
    return 0 < length < 0x7F000000 or 0x80000000 <= length < 0xFFFFFF00  # between them are those of SoX and eSpeak


def _riff_end(file: BinaryIO, size: int) -> float:
    """WAV, WebP, and AVI, of which a long one has several such parts."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        name = file.read(4)
        if name not in (b"RIFF", b"RIFX"):
            break  # behind the end
        (length,) = _unpack(file, end + 4, "<I" if name == b"RIFF" else ">I")
        if not _is_known(length):
            return 0
        end += 8 + length + length % 2
    return end - _HEADER_BYTES


def _rf64_end(file: BinaryIO, size: int) -> float:
    (length,) = _unpack(file, 20, "<Q")
    return 8 + length if _is_known(length, 64) else 0


def _aiff_end(file: BinaryIO, size: int) -> float:
    (length,) = _unpack(file, 4, ">I")
    return length if _is_known(length) else 0  # without the header


def _w64_end(file: BinaryIO, size: int) -> float:
    (length,) = _unpack(file, 16, "<Q")
    return length if _is_known(length, 64) else 0


def _au_end(file: BinaryIO, size: int) -> float:
    start, length = _unpack(file, 4, ">II")
    return start + length if _is_known(length) else 0


def _caf_end(file: BinaryIO, size: int) -> float:
    place, name = 8, b""
    while place + 12 <= size and name != b"data":
        file.seek(place)
        name = file.read(4)
        (length,) = _unpack(file, place + 4, ">Q")
        if not _is_known(length, 64):
            return 0
        place += 12 + length
    return place


def _mp4_end(file: BinaryIO, size: int) -> float:
    """MP4, MOV, M4A, and AVIF. What is no box stands behind the end."""
    place, name = 0, b""
    while place + 8 <= size:
        file.seek(place + 4)
        name = file.read(4)
        (length,) = _unpack(file, place, ">I")
        if length == 1 and name in _MP4_NEEDED:
            (length,) = _unpack(file, place + 8, ">Q")
        if length < 8:  # 0: to the end of the file
            return 0
        place += length
    return place if name in _MP4_NEEDED else 0


def _matroska_end(file: BinaryIO, size: int) -> float:
    """Matroska and WebM: a header, and a segment that has all the rest."""
    length, place = _read_ebml_length(file, len(_EBML))
    while length is not None:
        place += length
        file.seek(place)
        name = file.read(4)
        if name == _SEGMENT:
            length, place = _read_ebml_length(file, place + 4)
            return 0 if length is None else place + length
        if not name.startswith(_VOID):
            return 0
        length, place = _read_ebml_length(file, place + 1)
    return 0


def _read_ebml_length(file: BinaryIO, place: int) -> tuple[int | None, int]:
    """A length of one to eight bytes, None where it is unknown, and the place behind it."""
    (first,) = _unpack(file, place, "B")
    count = max(1, 9 - first.bit_length())
    digits = bytes([first & (0xFF >> count), *_unpack(file, place + 1, f"{count - 1}B")])
    length = int.from_bytes(digits)
    return (None if length == (1 << 7 * count) - 1 else length), place + count


def _ogg_end(file: BinaryIO, size: int) -> float:
    """A whole page. Telephones do not mark the last one as such, so any may be it."""
    start = max(0, size - 2 * _OGG_PAGE_BYTES)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return 0
    (count,) = struct.unpack_from("B", tail, page + 26)
    end = page + 27 + count + sum(struct.unpack_from(f"{count}B", tail, page + 27))
    return math.inf if end > len(tail) else 0


def _jpeg_end(file: BinaryIO, size: int) -> float:
    """The mark of the end, behind the header: that may hold a small picture, with such a mark."""
    place, name = 2, 0
    while name != 0xDA:
        mark, name, length = _unpack(file, place, ">BBH")
        if mark != 0xFF:
            return 0
        place += 1 if name == 0xFF else 2 + length
    # Mostly it stands last; telephones put a short video behind it.
    for start in (max(place, size - _TAIL_BYTES), place):
        file.seek(start)
        if b"\xff\xd9" in file.read():
            return 0
    return math.inf


def _png_end(file: BinaryIO, size: int) -> float:
    place = 8
    while place + 8 <= size:
        file.seek(place + 4)
        name = file.read(4)
        (length,) = _unpack(file, place, ">I")
        place += 12 + length
        if name == b"IEND" or not name.isalpha():
            return 0
    return math.inf


def _mp3_end(file: BinaryIO, size: int) -> int | None:
    """Of an MP3 whose first frame says how long it is; 0 where that says no bytes, None for any other file."""
    file.seek(0)
    tag = file.read(10)
    start = 0
    if tag.startswith(b"ID3") and len(tag) == 10:
        start = 10 + sum(part << shift for part, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(4096).lstrip(b"\0")[:256]
    if len(frame) < 256 or frame[0] != 0xFF or frame[1] < 0xE0:
        return None
    for name, place in ((b"Xing", 12), (b"Info", 12), (b"VBRI", 10)):
        found = frame.find(name, 4, 64)
        if found > 0:
            says = 3 if name == b"VBRI" else frame[found + 7]
            if says & 1 == 0:
                return None
            length = int.from_bytes(frame[found + place :][:4])
            return start + length - _MP3_FRAME_BYTES if says & 2 and _is_known(length) else 0
    return None


_KINDS: dict[bytes, Callable[[BinaryIO, int], float]] = {
    b"\xff\xd8\xff": _jpeg_end,
    b"\x89PNG\r\n\x1a\n": _png_end,
    b"RIFF": _riff_end,
    b"RIFX": _riff_end,
    b"RF64": _rf64_end,
    b"BW64": _rf64_end,
    _W64: _w64_end,
    b"FORM": _aiff_end,
    b"caff": _caf_end,
    b".snd": _au_end,
    b"OggS": _ogg_end,
    _EBML: _matroska_end,
}
