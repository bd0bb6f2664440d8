"""Files of a dataset's folder."""

from collections.abc import Iterator
from pathlib import Path


def list_files(folder: str | Path, pattern: str) -> Iterator[Path]:
    """
    The files of a folder that fit a pattern, in no order. Archives that were made on a Mac hold a file `._NAME` beside
    each NAME, with what only a Mac can use; these are left out.
    """
    return (path for path in Path(folder).glob(pattern) if not path.name.startswith("._"))
