"""Folders and files as people keep them: links, hidden files, and names with numbers."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def visible_files(folder: Path, pattern: str) -> Iterator[Path]:
    """The files of a pattern without hidden ones, such as the `._0.jpg` that macOS puts beside `0.jpg`."""
    return (path for path in folder.glob(pattern) if not path.name.startswith("."))


def media_folder(path: Path, named: str | None) -> Path:
    """
    The folder that paths in a file are relative to.

    Args:
        path (`Path`): the file. Of a link, as in the Hub's cache, it is the link's folder where that has the media,
            otherwise the folder of what it leads to.
        named (`str`, *optional*): one of the media, as the file names it.
    """
    own = path.parent.resolve()
    return own if named is not None and (own / named).exists() else path.resolve().parent


def by_numbers(path: str) -> list[tuple[float, str]]:
    """What a path is sorted by: the numbers in it as such, so that `2.jpg` stands before `10.jpg`."""
    parts = _NUMBER.split(path)
    return [(float(part), "") if place % 2 else (-1.0, part) for place, part in enumerate(parts)]


def find_misplaced(frames: Sequence[str]) -> tuple[str, str] | None:
    """
    Whether frames stand in the order of letters, as `*.jpg` and `sorted` give them, where their numbers say another.

    Args:
        frames (`Sequence[str]`): paths.

    Returns:
        `tuple[str, str]` or `None`: the first two of which the number falls; None where all is well.
    """
    if len({_NUMBER.sub("0", path) for path in frames}) > 1 or list(frames) != sorted(frames):
        return None
    keys = [by_numbers(path) for path in frames]
    place = next((i for i in range(1, len(keys)) if keys[i] < keys[i - 1]), None)
    return None if place is None else (frames[place - 1], frames[place])
