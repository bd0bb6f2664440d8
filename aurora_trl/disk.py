"""Writing so that a file is whole or not there, and so that a full disk is named."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import xxhash
from safetensors import SafetensorError

from .errors import DataError

# What a disk answers where nothing more can be written, whatever the program does.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)
# The words of writers that raise no OSError: torch's archive, safetensors' Rust, Arrow's C++, libsndfile.
_DISK_WORDS = (
    "PytorchStreamWriter",
    "inline_container",
    "iostream error",
    "unexpected pos",
    "System error.",
    "No space left",
    "File too large",
    "Disk quota",
)
_END_BYTES = 1 << 20

# The way out of a command that writes a new folder.
NEW_FOLDER = "free some, remove the folder and run the command again"


def is_disk_error(error: BaseException) -> bool:
    """Whether a disk, and not the program, is why something could not be written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_ERRORS
    return isinstance(error, (OSError, RuntimeError, SafetensorError)) and any(
        word in str(error) for word in _DISK_WORDS
    )


@contextmanager
def naming(
    path: str | Path,
    way_out: str = "free some, and run the same command again",
    weights_file: str = "model.safetensors",
) -> Iterator[None]:
    """
    Let an error of the disk in the block name what was being written. Errors of other kinds pass.

    Args:
        path (`str` or `Path`): the file, or a folder: then its file that was written to last is named.
        way_out (`str`, *optional*): the end of the line.
        weights_file (`str`, *optional*): what safetensors writes in a folder; of its file nothing is left.

    Raises:
        `DataError`: in place of the disk's error.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_error(error):
            raise
        path = Path(path)
        in_folder = path / weights_file if isinstance(error, SafetensorError) else _written_last(path)
        file = in_folder if path.is_dir() else path
        if isinstance(error, OSError) and isinstance(error.filename, str):
            file = Path(error.filename)
        raise DataError(f"{file}: {_reason(path, error)}; {way_out}") from error


def _written_last(folder: Path) -> Path:
    """The file in a folder that was changed last, or the folder."""
    files = [(file.stat().st_mtime_ns, file) for file in folder.rglob("*") if file.is_file()]
    return max(files)[1] if files else folder


def _reason(path: Path, error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return f"can not be written whole: {text} ({free / 1e6:,.0f} MB are free)"


@contextmanager
def written_whole(path: str | Path, mode: str = "w", *, sync: bool = True) -> Iterator[IO[Any]]:
    """
    A file that appears, or takes another's place, when the block ends well; otherwise all is as it was.

    Args:
        path (`str` or `Path`): the file; its folder is made.
        mode (`str`, *optional*, defaults to `"w"`): text in UTF-8, or `"wb"`.
        sync (`bool`, *optional*, defaults to `True`): bring it to the disk first, so that a machine that fails leaves
            one of the two whole.

    Yields:
        `IO`: to write to.

    Raises:
        `DataError`: where the disk is full; names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def bring_to_disk(folder: Path) -> None:
    """Let a machine that fails lose nothing of a folder's files, before what they replace is taken away."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def put_in_place(source: Path, target: Path) -> None:
    """
    Move a file or folder to where something may be already, which is replaced.

    Where the file system can not rename (another device, some network file systems), it is copied; a reader that must
    tell a copy cut short from a whole one needs a list of files inside.

    Args:
        source (`Path`): is gone afterwards.
        target (`Path`): in a folder that exists.
    """
    replaced = source.with_name(f"{source.name}.replaced")
    if os.path.lexists(target) and (target.is_dir() or source.is_dir()):
        remove(replaced)
        _move(target, replaced)
    _move(source, target)
    remove(replaced)


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError:
        remove(target)
        shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy2(source, target)
        remove(source)


def remove(path: Path) -> None:
    """Take a file, a link or a folder away, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest_of_ends(path: Path) -> str:
    """
    Of a file's content; of a large file its two ends, which a cut or a page that never reached the disk changes.

    Args:
        path (`Path`): the file.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    with path.open("rb") as file:
        digest = xxhash.xxh3_64(file.read(_END_BYTES))
        file.seek(max(path.stat().st_size - _END_BYTES, 0))
        digest.update(file.read(_END_BYTES))
    return digest.hexdigest()
