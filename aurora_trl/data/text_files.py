"""Text files as editors and spreadsheets write them."""

from pathlib import Path

from ..errors import DataError


def read_text(path: str | Path, limit: int | None = None) -> str:
    """
    The text of a file in UTF-8, with or without a byte-order mark; line ends become `\\n`.

    Args:
        path (`str` or `Path`): the file.
        limit (`int`, *optional*): read this many characters only.

    Raises:
        `DataError`: names a file that is in another encoding, or can not be read.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read() if limit is None else file.read(limit)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8; save it again with that encoding") from None
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None
