"""One way to name a dataset: a path, and a format where the path does not show it."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path

from datasets import Dataset

from ...errors import DataError
from ...journal import is_beside
from ...text_files import read_text, strange_separator
from ..folders import visible_files
from ..schema import as_dataset
from . import avsbench, mevis, omniavs, reasonseg, refavs, refcoco, refytvos
from .avsbench import load_avsbench
from .expressions import OBJECTS
from .jsonl import load_json, read_rows
from .mevis import load_mevis, load_revos
from .omniavs import load_omniavs
from .parquet import ROWS_FOLDER, list_parquet_splits, load_parquet
from .reasonseg import load_reasonseg
from .refavs import load_r2avsbench, load_refavs
from .refcoco import load_refcoco
from .refytvos import load_refdavis, load_refytvos
from .split_names import require_one_spelling

FORMATS = (
    *("refavs", "r2avsbench", "avsbench", "omniavs"),
    *("refytvos", "refdavis", "mevis", "revos"),
    *("refcoco", "reasonseg", "json", "parquet"),
)
# The parts that some formats have: of OmniAVS one kind of references, or all of them where none is named.
SUBSETS = {"avsbench": avsbench.SUBSETS, "refcoco": refcoco.SPLITTERS, "omniavs": omniavs.EXPRESSION_TYPES}
# Formats that know several objects of a reference apart.
_SEVERAL_OBJECTS = ("mevis", "revos", "omniavs")
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_REFAVS_COLUMNS = {"vid", "uid", "split", "fid", "exp"}


@dataclass(frozen=True)
class Source:
    """
    A dataset as a recipe or a command names it.

    Attributes:
        path (`str`): a folder, a file, or for `parquet` a Hub repository.
        format (`str`): one of `FORMATS`.
        subset (`str`, *optional*): one of `SUBSETS`, where the format has any.
        objects (`str`, *optional*, defaults to `"together"`): whether a reference to several objects has one mask of
            them all or, `"apart"`, the mask of each.
    """

    path: str
    format: str
    subset: str | None = None
    objects: str = "together"

    def splits(self) -> list[str]:
        """The splits that there are, in their usual order."""
        return _SPLITS[self.format](self)

    def usual_split(self) -> str:
        """What is trained on where nobody names a split: `train`, or that of a file whose rows all name another."""
        named = self.splits() if self.format == "json" and Path(self.path).is_file() else []
        return named[0] if len(named) == 1 else "train"

    def load(self, split: str | None = None) -> Dataset:
        """
        A split's rows.

        Args:
            split (`str`, *optional*): its name; by default `train`, or all rows of a JSONL file.

        Raises:
            `DataError`: where there is no such split, or the files are not what the format says.
        """
        return _LOADERS[self.format](self, split)


def find_source(
    path: str | Path, dataset_format: str | None = None, subset: str | None = None, objects: str = "together"
) -> Source:
    """
    Recognise a dataset.

    Args:
        path (`str` or `Path`): a folder, a file, or for `parquet` a Hub repository.
        dataset_format (`str`, *optional*): one of `FORMATS`; by default what the files show.
        subset (`str`, *optional*): one of `SUBSETS`.
        objects (`str`, *optional*, defaults to `"together"`): see [`Source`].

    Returns:
        `Source`: what to load splits from.

    Raises:
        `DataError`: where there is nothing, or where what is there could be more than one thing.
    """
    path = Path(path)
    if dataset_format is not None and dataset_format not in FORMATS:
        raise DataError(f"unknown dataset format {dataset_format!r}; use one of {', '.join(FORMATS)}")
    if subset is not None and not any(subset in known for known in SUBSETS.values()):
        raise DataError(f"unknown dataset subset {subset!r}; {describe_subsets()}")
    if objects not in OBJECTS:
        raise DataError(f"unknown way {objects!r} to have several objects; use {' or '.join(OBJECTS)}")
    if dataset_format != "parquet" and not path.exists():
        raise DataError(
            f"{path}: no such dataset folder or JSONL file; `aurora synth DIR` makes a small one, and "
            "`dataset_format: parquet` loads a Hub repository"
        )
    found: list[tuple[str | None, str | None]] = [(dataset_format, subset)]
    if dataset_format in (None, "avsbench", "refcoco"):
        found = _recognise(path)
    if subset in omniavs.EXPRESSION_TYPES:  # a choice among its rows, and no part of its folder
        found = [(name, subset if name == "omniavs" else part) for name, part in found]
    wanted = [pair for pair in found if dataset_format in (None, pair[0]) and subset in (None, pair[1])]
    if not wanted:
        if dataset_format is not None or subset is not None:
            named = " ".join(name for name in (dataset_format, subset) if name)
            raise DataError(f"{path}: it does not look like {named}; found {_shown(found)}")
        shown = f"its files do not show its format{_near_miss(path)}"
        raise DataError(f"{path}: {shown}; name it with `dataset_format`, one of {', '.join(FORMATS)}")
    if len(wanted) > 1:
        raise DataError(f"{path}: it could be {_shown(wanted)}; say which with `dataset_format` and `dataset_subset`")
    name, part = wanted[0]
    if part is not None and part not in SUBSETS.get(str(name), ()):
        known = f"has {', '.join(SUBSETS[name])}" if name in SUBSETS else "has none"
        raise DataError(f"{path}: the subset {part!r} is named, but {name} {known}")
    if objects == "apart" and name not in _SEVERAL_OBJECTS:
        raise DataError(f"{path}: {name} has the masks of several objects as they are; leave out `{objects}`")
    return Source(str(path), str(name), part, objects)


def find_beside(path: str | Path, dataset_format: str | None, subset: str | None, objects: str) -> Source:
    """
    Recognise a dataset that is evaluated on where another one is trained on: what is said about the other one holds
    for it, too, where its files allow it.

    Args:
        path, dataset_format, subset, objects: as for [`find_source`]; the last three are said about the other one.
    """
    found = _recognise(Path(path)) if Path(path).exists() else []
    formats = {name for name, _ in found}
    # Where the files show nothing, what was said is all that is known.
    wanted = dataset_format if not found or dataset_format in formats else None
    parts = {part for name, part in found if wanted in (None, name)}
    parts |= set(omniavs.EXPRESSION_TYPES if "omniavs" in formats else ())
    source = find_source(path, wanted, subset if not found or subset in parts else None)
    return replace(source, objects=objects if source.format in _SEVERAL_OBJECTS else "together")


def describe_subsets() -> str:
    """Which formats have which."""
    return "; ".join(f"{name} has {', '.join(known)}" for name, known in SUBSETS.items())


def _shown(pairs: list[tuple[str | None, str | None]]) -> str:
    return " or ".join(" ".join(name for name in pair if name) for pair in pairs) or "nothing that is known"


def _recognise(path: Path) -> list[tuple[str | None, str | None]]:
    """Every format, with its subset, that the files could be of."""
    if path.is_file():
        if path.suffix.lower() not in _JSON_SUFFIXES:
            return []
        start = read_text(path, 1 << 16)
        return [("reasonseg" if '"image"' in start and '"query"' in start else "json", None)]
    found: list[tuple[str | None, str | None]] = []
    if (path / "metadata.csv").is_file() and set(_header(path / "metadata.csv")) >= _REFAVS_COLUMNS:
        found.append(("refavs", None))
    found += [("avsbench", subset) for subset in avsbench.SUBSETS if avsbench.find_table(path, subset)]
    found += [("refcoco", splitter) for splitter in refcoco.list_splitters(path)]
    shown = {
        "r2avsbench": refavs.list_r2avsbench_splits,
        "omniavs": omniavs.list_omniavs_splits,
        "refytvos": refytvos.list_refytvos_splits,
        "mevis": mevis.list_mevis_splits,
        "revos": mevis.list_revos_splits,
    }
    known = [name for name, list_splits in shown.items() if list_splits(path)]
    # In `meta_expressions` Ref-YouTube-VOS has the files that MeViS has beside its splits.
    found += [(name, None) for name in known if name != "mevis" or path.name != refytvos.EXPRESSIONS_FOLDER]
    if (path / refytvos.DAVIS_TEXTS).is_dir():
        found.append(("refdavis", None))
    if _folder_splits(path):
        found.append(("reasonseg", None))
    if json_files(path) and "omniavs" not in known:
        found.append(("json", None))
    if (path / ROWS_FOLDER).is_dir():
        found.append(("parquet", None))
    return found


def _header(table: Path) -> list[str]:
    return next(csv.reader(StringIO(read_text(table, 1 << 16))), [])


def _near_miss(path: Path) -> str:
    """What may be meant by a file or folder whose format is not known; empty where nothing is to be seen."""
    if path.is_file():
        return f" (a file of rows ends with {', '.join(_JSON_SUFFIXES)}; see docs/data.md)"
    for table in (path / name for name in (refavs.TABLE, *avsbench.TABLES.values())):
        separator = strange_separator(_header(table)) if table.is_file() else None
        if separator is not None:
            return f" (the columns of {table.name} are separated by {separator!r}; save it with commas)"
    for folder in sorted(folder for folder in path.iterdir() if folder.is_dir()):
        found = _recognise(folder)
        if found:
            return f" ({folder} looks like {_shown(found)}; give that folder)"
    return ""


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: ({"train": 0, "val": 1}.get(name, 2), name))


def _folder_splits(path: Path) -> list[str]:
    """The sub-folders in which an image stands beside its annotation, as in ReasonSeg."""
    folders = [folder for folder in path.iterdir() if folder.is_dir()]
    return _ordered(
        folder.name
        for folder in folders
        if any(image.with_suffix(".json").is_file() for image in islice(visible_files(folder, "*.jpg"), 1))
    )


def _load_json(source: Source, split: str | None) -> Dataset:
    """A folder has a file for each split; of a file the rows of the split, or all where none names any."""
    path = Path(source.path)
    if path.is_dir():
        return _load_json_file(path, split or "train")
    rows = read_rows(path)
    names_splits = any(row["split"] for row in rows)
    rows = [{**row, "split": row["split"] or "train"} for row in rows]
    if split is not None and names_splits:
        named = _ordered({row["split"] for row in rows})
        if split not in named:
            raise DataError(f"{path}: no row of split {split!r}; its rows name {', '.join(named)}")
        require_one_spelling(path, split, named)
        rows = [row for row in rows if row["split"] == split]
    return as_dataset(rows, path)


def _load_json_file(folder: Path, split: str) -> Dataset:
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; the folder has {', '.join(json_files(folder))}")
    return as_dataset([{**row, "split": row["split"] or split} for row in read_rows(path)], path)


def json_files(folder: Path) -> list[str]:
    """The names of a folder's files of JSON lines."""
    return _ordered(file.stem for file in visible_files(folder, "*.jsonl") if not is_beside(file))


def _json_splits(source: Source) -> list[str]:
    path = Path(source.path)
    return json_files(path) if path.is_dir() else _ordered(set(load_json(path)["split"]))


def _reasonseg_splits(source: Source) -> list[str]:
    path = Path(source.path)
    return _folder_splits(path) if path.is_dir() else _ordered(reasonseg.list_file_splits(path))


def _refcoco_splits(source: Source) -> list[str]:
    return refcoco.list_refcoco_splits(source.path, source.subset or "")


def _refavs_splits(source: Source) -> list[str]:
    """All official ones: a table that lacks one is not the official table."""
    return list(refavs.SPLITS)


_SPLITS: dict[str, Callable[[Source], list[str]]] = {
    "refavs": _refavs_splits,
    "r2avsbench": lambda source: refavs.list_r2avsbench_splits(source.path),
    "avsbench": lambda source: list(avsbench.SPLITS),
    "omniavs": lambda source: omniavs.list_omniavs_splits(source.path),
    "refytvos": lambda source: refytvos.list_refytvos_splits(source.path),
    "refdavis": lambda source: list(refytvos.DAVIS_SPLITS),
    "mevis": lambda source: mevis.list_mevis_splits(source.path),
    "revos": lambda source: mevis.list_revos_splits(source.path),
    "refcoco": _refcoco_splits,
    "reasonseg": _reasonseg_splits,
    "json": _json_splits,
    "parquet": lambda source: list_parquet_splits(source.path),
}
_LOADERS: dict[str, Callable[[Source, str | None], Dataset]] = {
    "refavs": lambda source, split: load_refavs(source.path, split or "train"),
    "avsbench": lambda source, split: load_avsbench(source.path, source.subset or "", split or "train"),
    "r2avsbench": lambda source, split: load_r2avsbench(source.path, split or "test_s"),
    "omniavs": lambda source, split: load_omniavs(
        source.path, split or "train", source.subset, objects=source.objects
    ),
    "refytvos": lambda source, split: load_refytvos(source.path, split or "train"),
    "refdavis": lambda source, split: load_refdavis(source.path, split or "train"),
    "mevis": lambda source, split: load_mevis(source.path, split or "train", objects=source.objects),
    "revos": lambda source, split: load_revos(source.path, split or "train", objects=source.objects),
    "refcoco": lambda source, split: load_refcoco(source.path, source.subset or "", split or "train"),
    "reasonseg": lambda source, split: load_reasonseg(source.path, split or "train"),
    "json": _load_json,
    "parquet": lambda source, split: load_parquet(source.path, split or "train"),
}
