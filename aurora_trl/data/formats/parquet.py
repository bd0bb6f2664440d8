"""Rows and their media in Parquet files, in a folder or on the Hub, for `datasets`."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from ...disk import NEW_FOLDER, naming
from ...errors import DataError
from ..folders import visible_files
from ..masks import with_masks_inside
from ..schema import COLUMNS, as_dataset, with_current_names
from .jsonl import map_paths

ROWS_FOLDER, MEDIA_FOLDER = "rows", "media"
_HUB_SECONDS = 20.0
_ROW_GROUP_BYTES = 16 << 20
_MEDIA_SCHEMA = pa.schema([("path", pa.string()), ("content", pa.binary())])
_CARD = """\
---
configs:
- config_name: rows
  default: true
  data_files:
{files}
- config_name: media
  data_files:
  - split: media
    path: media/*.parquet
tags:
- reasoning-segmentation
- audio-visual
---

# {name}

Clips, references and masks for `aurora_trl`. `rows` has one row per reference; `media` has each file once, by the path
that the rows name it with.

```python
from aurora_trl.data import load_parquet

rows = load_parquet("{name}", "{split}")  # this folder, or the name of its repository on the Hub
```
"""


def save_parquet(splits: Mapping[str, Dataset], folder: str | Path, *, shard_megabytes: int = 400) -> Path:
    """
    Write rows with all their media to Parquet files: `rows/SPLIT.parquet`, `media/NUMBER.parquet` and a card.

    Each file is stored once, however many rows use it, and few are in memory at a time. The folder can be pushed to
    the Hub as it is (`hf upload ORG/NAME FOLDER --repo-type dataset`).

    Args:
        splits (`Mapping[str, Dataset]`): rows by split, with the columns of `aurora_trl.data.schema`.
        folder (`str` or `Path`): new or empty folder.
        shard_megabytes (`int`, *optional*, defaults to 400): a media file is closed when it holds so much.

    Returns:
        `Path`: the folder.

    Raises:
        `DataError`: where the folder holds something, or a medium is missing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists already; name a new folder or remove it")
    names: dict[str, str] = {}  # where a file is now, and its path in the table

    def store(path: str) -> str:
        file, _, moment = path.partition("#t=")
        return names.setdefault(file, f"{len(names):08d}{Path(file).suffix}") + (f"#t={moment}" if moment else "")

    moved = {split: [map_paths(with_masks_inside(row), store) for row in rows] for split, rows in splits.items()}
    missing = next((file for file in names if not Path(file).is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}: no such file; `aurora check-data` lists all that is wrong")
    for part in (ROWS_FOLDER, MEDIA_FOLDER):
        (folder / part).mkdir(parents=True, exist_ok=True)
    _write_media(folder / MEDIA_FOLDER, names, shard_megabytes << 20)
    for split, rows in moved.items():
        # Not `to_parquet`: where the disk is full, it ends the process (datasets 5, pyarrow 25).
        file = folder / ROWS_FOLDER / f"{split}.parquet"
        with naming(file, NEW_FOLDER):
            pq.write_table(as_dataset(rows, folder).data.table, file)
    files = "\n".join(f"  - split: {split}\n    path: {ROWS_FOLDER}/{split}.parquet" for split in splits)
    (folder / "README.md").write_text(_CARD.format(files=files, name=folder.name, split=next(iter(splits))))
    return folder


def _write_media(folder: Path, names: Mapping[str, str], shard_bytes: int) -> None:
    """A row group at a time: that is what the writer holds, and what `datasets` will hold when it reads the files."""
    groups = _read_groups(names, min(_ROW_GROUP_BYTES, shard_bytes))
    group = next(groups, None)
    number = 0
    while group:
        size = 0
        with pq.ParquetWriter(folder / f"{number:05d}.parquet", _MEDIA_SCHEMA, use_dictionary=False) as writer:
            while group and size < shard_bytes:
                writer.write_table(pa.Table.from_pylist(group, _MEDIA_SCHEMA))
                size += sum(len(entry["content"]) for entry in group)
                group = next(groups, None)
        number += 1


def _read_groups(names: Mapping[str, str], group_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """Files in groups, each as large as asked for, or larger by a part of its last file."""
    group: list[dict[str, Any]] = []
    size = 0
    for file, name in names.items():
        content = Path(file).read_bytes()
        group.append({"path": name, "content": content})
        size += len(content)
        if size >= group_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def load_parquet(path: str | Path, split: str, *, media_dir: str | Path | None = None) -> Dataset:
    """
    Load a split that `save_parquet` wrote, from a folder or from the Hub.

    The media are unpacked to files once, where the next call finds them: into a folder that is named by what the
    tables are, so that a dataset that is written again is unpacked again.

    Args:
        path (`str` or `Path`): the folder, or a Hub repository such as `name/dataset`.
        split (`str`): the split's name.
        media_dir (`str` or `Path`, *optional*): where to unpack; by default in the cache of `datasets`.

    Returns:
        `Dataset`: with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: where there is no such split, no table of media, or a table that can not be read.
    """
    known = list_parquet_splits(path)
    if split not in known:
        raise DataError(f"{path}: no split {split!r}; it has {', '.join(known)}")
    folder = Path(path) if Path(path).is_dir() else _download(str(path), split)
    # Not `load_dataset`: of a folder it caches by the name alone, and takes another dataset of that name for this one
    # (datasets 5).
    rows = _read_rows(folder / ROWS_FOLDER / f"{split}.parquet")
    tables = sorted(visible_files(folder / MEDIA_FOLDER, "*.parquet"))
    if not tables:
        raise DataError(f"{path}: it has no {MEDIA_FOLDER}/*.parquet; write it again with `aurora export`")
    root = Path(media_dir or Path(datasets.config.HF_DATASETS_CACHE, "aurora_trl")).resolve()
    media = root / f"{_file_name(path)}-{_version(tables)}"
    _unpack(tables, media)
    # A table may be older than a column.
    there = [
        map_paths({**dict.fromkeys(COLUMNS), **with_current_names(row, path)}, lambda name: str(media / name))
        for row in rows
    ]
    return as_dataset(there, path)


def _read_rows(table: Path) -> list[dict[str, Any]]:
    with _named(table):
        return pq.read_table(table).to_pylist()


@contextmanager
def _named(table: Path) -> Iterator[None]:
    """What is wrong with a table's file, with its name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{table}: can not be read ({text}); write it again with `aurora export`") from None


def _version(tables: Sequence[Path]) -> str:
    """Another one where the tables are others."""
    stats = [(table.name, stat.st_size, stat.st_mtime_ns) for table in tables for stat in (table.stat(),)]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def list_parquet_splits(path: str | Path) -> list[str]:
    """
    The splits of a folder that `save_parquet` wrote, or of a Hub repository.

    Raises:
        `DataError`: where there are none.
    """
    if Path(path).is_dir():
        files = [str(file.relative_to(path)) for file in visible_files(Path(path) / ROWS_FOLDER, "*.parquet")]
    else:
        files = _hub_files(str(path))
    names = [match[1] for file in sorted(files) if (match := re.fullmatch(rf"{ROWS_FOLDER}/(.+)\.parquet", file))]
    if not names:
        raise DataError(f"{path}: it has no {ROWS_FOLDER}/SPLIT.parquet; `aurora export` writes such a dataset")
    return names


def _hub_files(name: str) -> list[str]:
    """The paths of a dataset's files on the Hub; in offline mode, of those that were downloaded."""
    if is_offline_mode():
        with suppress(LocalEntryNotFoundError):
            snapshot = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
            return [str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.is_file()]
    try:
        info = HfApi().dataset_info(name, timeout=_HUB_SECONDS)
    except RepositoryNotFoundError:
        raise DataError(
            f"{name}: no such folder, and no dataset of that name on the Hub; if it is private, log in with "
            "`hf auth login`"
        ) from None
    except (HTTPError, OSError, ValueError) as error:  # no network, offline mode, not a name
        raise DataError(f"{name}: no such folder, and the Hub can not be asked for it: {error}") from None
    return [sibling.rfilename for sibling in info.siblings or ()]


def _download(name: str, split: str) -> Path:
    """A dataset's rows of a split, and its media, in the Hub's cache."""
    wanted = [f"{ROWS_FOLDER}/{split}.parquet", f"{MEDIA_FOLDER}/*.parquet"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (HTTPError, OSError, ValueError) as error:
        raise DataError(f"{name}: can not be downloaded from the Hub: {' '.join(str(error).split())}") from None


def _file_name(path: str | Path) -> str:
    return re.sub(r"[^\w.-]+", "--", str(path).strip("/"))[-80:]


def _unpack(tables: Iterable[Path], folder: Path) -> None:
    """Write the media that are not there yet, each one whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    there = set(os.listdir(folder))
    for entry in (entry for table in tables for entry in _read_media(table, there)):
        name = entry["path"]
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"a medium is called {name!r}; its name must be that of a file without a folder")
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        with naming(temporary):
            temporary.write_bytes(entry["content"])
        temporary.replace(folder / name)


def _read_media(table: Path, there: Collection[str]) -> Iterator[dict[str, Any]]:
    """The files in a table that are not there yet; a row group of them is in memory at a time."""
    with _named(table), pq.ParquetFile(table) as file:
        if missing := {"path", "content"} - set(file.schema_arrow.names):
            raise DataError(f"{table}: it has no column `{min(missing)}`; write it again with `aurora export`")
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, ["path"]).column("path").to_pylist()
            if any(name not in there for name in names):
                entries = file.read_row_group(group, ["path", "content"]).to_pylist()
                yield from (entry for entry in entries if entry["path"] not in there)
