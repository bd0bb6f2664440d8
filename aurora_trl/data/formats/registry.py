"""One way to name a dataset: a path, and a format where the path does not show it."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path

from datasets import Dataset

from ...errors import DataError
from ...text_files import read_text
from . import avsbench, refavs
from .avsbench import load_avsbench
from .jsonl import load_json
from .parquet import ROWS_FOLDER, list_parquet_splits, load_parquet
from .reasonseg import load_reasonseg
from .refavs import load_refavs

FORMATS = ("refavs", "avsbench", "reasonseg", "json", "parquet")
_REFAVS_COLUMNS = {"vid", "uid", "split", "fid", "exp"}


@dataclass(frozen=True)
class Source:
    """
    A dataset as a recipe or a command names it.

    Attributes:
        path (`str`): a folder, a file, or for `parquet` a Hub repository.
        format (`str`): one of `FORMATS`.
        subset (`str`, *optional*): of AVSBench: `s4`, `ms3` or `avss`.
    """

    path: str
    format: str
    subset: str | None = None

    def splits(self) -> list[str]:
        """The splits that there are, in their usual order."""
        return _SPLITS[self.format](self)

    def load(self, split: str | None = None) -> Dataset:
        """
        A split's rows.

        Args:
            split (`str`, *optional*): its name; by default `train`, or all rows of a JSONL file.

        Raises:
            `DataError`: where there is no such split, or the files are not what the format says.
        """
        return _LOADERS[self.format](self, split)


def find_source(path: str | Path, dataset_format: str | None = None, subset: str | None = None) -> Source:
    """
    Recognise a dataset.

    Args:
        path (`str` or `Path`): a folder, a file, or for `parquet` a Hub repository.
        dataset_format (`str`, *optional*): one of `FORMATS`; by default what the files show.
        subset (`str`, *optional*): of AVSBench.

    Returns:
        `Source`: what to load splits from.

    Raises:
        `DataError`: where there is nothing, or where what is there could be more than one thing.
    """
    path = Path(path)
    if dataset_format is not None and dataset_format not in FORMATS:
        raise DataError(f"unknown dataset format {dataset_format!r}; use one of {', '.join(FORMATS)}")
    if subset is not None and subset not in avsbench.SUBSETS:
        raise DataError(f"unknown dataset subset {subset!r}; AVSBench has {', '.join(avsbench.SUBSETS)}")
    if dataset_format != "parquet" and not path.exists():
        raise DataError(
            f"{path}: no such dataset folder or JSONL file; `aurora synth DIR` makes a small one, and "
            "`dataset_format: parquet` loads a Hub repository"
        )
    found: list[tuple[str | None, str | None]] = [(dataset_format, subset)]
    if dataset_format in (None, "avsbench"):
        found = _recognise(path)
    wanted = [pair for pair in found if dataset_format in (None, pair[0]) and subset in (None, pair[1])]
    if not wanted:
        if dataset_format is not None or subset is not None:
            named = " ".join(name for name in (dataset_format, subset) if name)
            raise DataError(f"{path}: it does not look like {named}; found {_shown(found)}")
        raise DataError(
            f"{path}: its files do not show its format; name it with `dataset_format`, one of {', '.join(FORMATS)}"
        )
    if len(wanted) > 1:
        raise DataError(f"{path}: it could be {_shown(wanted)}; say which with `dataset_format` and `dataset_subset`")
    name, part = wanted[0]
    if part is not None and name != "avsbench":
        raise DataError(f"{path}: a subset is named, but {name} has none")
    return Source(str(path), str(name), part)


def _shown(pairs: list[tuple[str | None, str | None]]) -> str:
    return " or ".join(" ".join(name for name in pair if name) for pair in pairs) or "nothing that is known"


def _recognise(path: Path) -> list[tuple[str | None, str | None]]:
    """Every format, with its subset, that the files could be of."""
    if path.is_file():
        if path.suffix not in (".jsonl", ".json"):
            return []
        start = read_text(path, 1 << 16)
        return [("reasonseg" if '"image"' in start and '"query"' in start else "json", None)]
    found: list[tuple[str | None, str | None]] = []
    if (path / "metadata.csv").is_file() and set(_header(path / "metadata.csv")) >= _REFAVS_COLUMNS:
        found.append(("refavs", None))
    found += [("avsbench", subset) for subset in avsbench.SUBSETS if avsbench.find_table(path, subset)]
    if _folder_splits(path):
        found.append(("reasonseg", None))
    if any(path.glob("*.jsonl")):
        found.append(("json", None))
    if (path / ROWS_FOLDER).is_dir():
        found.append(("parquet", None))
    return found


def _header(table: Path) -> list[str]:
    return next(csv.reader(StringIO(read_text(table, 1 << 16))), [])


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: ({"train": 0, "val": 1}.get(name, 2), name))


def _folder_splits(path: Path) -> list[str]:
    """The sub-folders in which an image stands beside its annotation, as in ReasonSeg."""
    folders = [folder for folder in path.iterdir() if folder.is_dir()]
    return _ordered(
        folder.name
        for folder in folders
        if any(image.with_suffix(".json").is_file() for image in islice(folder.glob("*.jpg"), 1))
    )


def _load_json(source: Source, split: str | None) -> Dataset:
    """A folder has a file for each split; a file is taken whole, unless its rows name several splits."""
    path = Path(source.path)
    if path.is_dir():
        return load_json(path / f"{split or 'train'}.jsonl")
    rows = load_json(path)
    named = _ordered(set(rows["split"]))
    if split is None or len(named) == 1:
        return rows
    if split not in named:
        raise DataError(f"{path}: no row of split {split!r}; its rows name {', '.join(named)}")
    return rows.filter(lambda row: row["split"] == split)


def _json_splits(source: Source) -> list[str]:
    path = Path(source.path)
    if path.is_dir():
        return _ordered(file.stem for file in path.glob("*.jsonl"))
    return _ordered(set(load_json(path)["split"]))


def _reasonseg_splits(source: Source) -> list[str]:
    path = Path(source.path)
    return _folder_splits(path) if path.is_dir() else ["train"]


def _refavs_splits(source: Source) -> list[str]:
    """All official ones: a table that lacks one is not the official table."""
    return list(refavs.SPLITS)


_SPLITS: dict[str, Callable[[Source], list[str]]] = {
    "refavs": _refavs_splits,
    "avsbench": lambda source: list(avsbench.SPLITS),
    "reasonseg": _reasonseg_splits,
    "json": _json_splits,
    "parquet": lambda source: list_parquet_splits(source.path),
}
_LOADERS: dict[str, Callable[[Source, str | None], Dataset]] = {
    "refavs": lambda source, split: load_refavs(source.path, split or "train"),
    "avsbench": lambda source, split: load_avsbench(source.path, source.subset or "", split or "train"),
    "reasonseg": lambda source, split: load_reasonseg(source.path, split or "train"),
    "json": _load_json,
    "parquet": lambda source, split: load_parquet(source.path, split or "train"),
}
