"""Pages of an Ogg file, each of which has a checksum: a decoder leaves out one that is damaged, and goes on."""

import zlib
from pathlib import Path

from ...errors import DataError

_MARK, _HEADER_BYTES = b"OggS", 27
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def require_pages(path: str) -> None:
    """
    Raise where a page is damaged: the sound would be shorter by it, and all behind it too early.

    Args:
        path (`str`): a file whose first bytes are those of a page. What stands behind the last one is no fault.

    Raises:
        `DataError`: names the file.
    """
    content, place = Path(path).read_bytes(), 0
    while content.startswith(_MARK, place):
        table = place + _HEADER_BYTES
        count = content[table - 1]
        end = table + count + sum(content[table : table + count])
        if _checksum(content[place:end]) != int.from_bytes(content[place + 22 : place + 26], "little"):
            break
        place = end
    if content.find(_MARK, place) >= 0:
        raise DataError(f"{path}: the sound is damaged at byte {place}; restore it or remove the rows that use it")


def _checksum(page: bytes) -> int:
    """That of zlib, with all bits in reverse, and nothing at both ends."""
    blank = page[:22] + bytes(4) + page[26:]
    found = zlib.crc32(blank.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{found:032b}"[::-1], 2)
