"""What a step reads: data, checkpoints and code of one's own, and what other steps of its chain make."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from ..disk import digest_of_ends
from .recipe_files import recipe_script

# Keys of a recipe that name what a run writes, or keeps for its own speed.
_OWN = frozenset({"output_dir", "logging_dir", "feature_cache", "resume_from_checkpoint", "run_name"})
_CODE = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")
# What a phase leaves that no other reads, and that differs where the phase is run again, or is written later.
_NOT_READ = frozenset({"trainer_state.json", "training_args.bin", "README.md"})
# A folder with more files than these is one of media, whose names and sizes alone are looked at.
_MANY_FILES = 200
# Of more than this the sizes and the ends are looked at: every run of a chain begins with reading it.
_WHOLE_BYTES = 1 << 28


def words_of(settings: Mapping[str, Any] | Iterable[Any]) -> Iterator[str]:
    """All texts of a recipe that may name what it reads."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            if key not in _OWN:
                yield from words_of(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from words_of(value)


def digest_outside(words: Iterable[str], output_dir: Path, made: Iterable[Path] = ()) -> dict[str, str]:
    """
    Digests of the files and folders that words name.

    Args:
        words (`Iterable[str]`): of a command, or of a recipe: paths, also behind `--flag=` or `name:`, and functions
            as `package.module:function`.
        output_dir (`Path`): the chain's.
        made (`Iterable[Path]`): what its steps make.

    Returns:
        `dict[str, str]`: by path, of those that exist, that no step makes, that lie in nothing that one makes and
            hold nothing such. Of a folder the files directly in it count, such as a table of rows or a checkpoint's
            weights, and not the media below.
    """
    output = output_dir.resolve()
    of_chain = {output / ".pipeline", output / "configs", *(path.resolve() for path in made)}
    holding = {output, *(parent for path in of_chain for parent in path.parents)}
    found = []
    for word in words:
        for name in _places(word):
            try:
                place = Path(name).resolve()
                if Path(name).exists() and place not in holding and not of_chain & {place, *place.parents}:
                    found.append(name)
            except (OSError, ValueError):  # a text that is too long for a name
                continue
    return digests(found)


def digests(paths: Iterable[str]) -> dict[str, str]:
    """Digests of files and folders, by path, of those that can be read."""
    found: dict[str, str] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            found[path] = _digest(Path(path))
    return found


def digests_of_made(paths: Iterable[Path]) -> dict[str, str]:
    """
    Digests of what steps have made, file by file: what is added later, such as a card, was not read.

    Args:
        paths (`Iterable[Path]`): files, or folders, of which the files directly in them count.
    """
    found: list[Path] = []
    for path in paths:
        with suppress(OSError):
            files = [one for one in _files_in(path) if one.name not in _NOT_READ] if path.is_dir() else [path]
            found += files if len(files) <= _MANY_FILES else []
    return digests(map(str, found))


def made_by_others(words: Iterable[str], makers: Mapping[Path, str]) -> list[str]:
    """
    The steps that make what words name.

    Args:
        words (`Iterable[str]`): as for `digest_outside`.
        makers (`Mapping[Path, str]`): steps by the resolved path of what they make.
    """
    places = [Path(os.path.realpath(name)) for word in words for name in _places(word) if "\0" not in name]
    return list(dict.fromkeys(makers[path] for place in places for path in (place, *place.parents) if path in makers))


def script_digest(script: str) -> str:
    """Of what a step trains with: the name of one of the package's own, the name and the content of another's."""
    path = Path(script)
    own = path.resolve() == recipe_script(path.stem).resolve()
    content = "" if own else digests([script]).get(script, "")
    return f"{path.name} {content}".strip()


def changed_since(files: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The paths whose digests differ; one that is gone has done its part."""
    return [path for path, digest in files.items() if path in now and now[path] != digest]


def _places(word: str) -> Iterator[str]:
    word = word.partition("=")[2] if word.startswith("--") else word
    if word.startswith("-") or not word.strip() or "\n" in word:
        return
    code = _CODE.fullmatch(word)
    if code is not None:
        yield code[1].replace(".", "/") + ".py"
    yield word
    if ":" in word:  # an annotator with its data, such as `synthetic:WORLD`
        yield word.partition(":")[2]


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else _files_in(path)
    sizes = {file.name: file.stat().st_size for file in files}
    if len(files) > _MANY_FILES:
        return f"{len(files)} files, {xxhash.xxh3_64_hexdigest(json.dumps(sizes).encode())}"
    whole = sum(sizes.values()) <= _WHOLE_BYTES
    digests = (_content(file, file.stat().st_mtime_ns, sizes[file.name], whole) for file in files)
    return ",".join(f"{name}={size}:{digest}" for (name, size), digest in zip(sizes.items(), digests, strict=True))


@cache
def _content(file: Path, _time: int, _size: int, whole: bool) -> str:
    """The digest of a file's content; read once for all steps that have to do with it."""
    return xxhash.xxh3_64_hexdigest(file.read_bytes()) if whole else digest_of_ends(file)


def _files_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_file() and not one.name.startswith((".", "_")))
