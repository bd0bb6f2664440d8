"""Whether the files of a row are still those that an answer was about."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import xxhash

from ..disk import digest_of_ends
from ..errors import DataError
from .json_values import names_values
from .media.loading import split_moment
from .schema import MASK_COLUMNS, REFERENCE_MEDIA, Row, split_mask


def files_digest(*rows: Row) -> str:
    """
    Changes with what the files of rows hold, their masks' too, wherever they lie. Of a large file its two ends count.

    Args:
        *rows (`dict`): dataset rows. What a row holds itself, as a mask in run lengths, is left out.

    Returns:
        `str`: 16 hexadecimal digits.

    Raises:
        `DataError`: names a file that is not there.
    """
    digest = xxhash.xxh3_64()
    for path in dict.fromkeys(path for row in rows for path in _paths(row)):
        try:
            stat = Path(path).stat()
            digest.update(_file_digest(path, stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise DataError(f"{path}: can not be read: {error.strerror}") from None
    return digest.hexdigest()


def _paths(row: Row) -> Iterator[str]:
    yield from (split_moment(name)[0] for name in row.get("frames") or ())
    yield from (row[name] for name in ("video", "audio", *REFERENCE_MEDIA) if row.get(name))
    if not row.get("is_null"):  # whose masks nobody reads
        for column in MASK_COLUMNS:
            yield from _mask_paths(row.get(column) or ())


def _mask_paths(masks: Iterable[str | None]) -> Iterator[str]:
    """Images; the name of a mask inside a JSON file has a digest of its own."""
    for mask in masks:
        objects = None if mask is None else split_mask(mask)
        if objects is not None:
            yield from _mask_paths(objects)
        elif mask is not None and not mask.startswith("{") and not names_values(mask):
            yield mask


@lru_cache(maxsize=1 << 16)
def _file_digest(path: str, size: int, _mtime_ns: int) -> bytes:
    """Read once for all rows about a clip, and again where the file is another one."""
    return f"{size}:{digest_of_ends(Path(path))}".encode()
