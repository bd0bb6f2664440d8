"""Ref-AVS in its official layout, and R2-AVSBench, a table of other references to its clips."""

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ...text_files import read_table
from ..schema import as_dataset
from .split_names import require_plain_split

SPLITS = ("train", "val", "test_s", "test_u", "test_n")
NUM_FRAMES = 10
NULL_CLASS = "null"
NULL_SPLIT, UNSEEN_SPLIT = "test_n", "test_u"
# What the split of unseen classes has besides those of training.
UNSEEN_CLASSES = (
    "baby",
    "emergency-car",
    "gun",
    "leopard",
    "lion",
    "motorcycle",
    "mower",
    "pig",
    "sheep",
    "tiger",
    "truck",
    "tuba",
    "wolf",
)
TABLE, R2_TABLE = "metadata.csv", "R2AVSBench_metadata.csv"
_COLUMNS = {"vid", "uid", "split", "fid", "exp"}
# The scripts that come with R2-AVSBench read these.
R2_COLUMNS = {"uid", "split", "fid", "exp"}


def load_refavs(root: str | Path, split: str) -> Dataset:
    """
    Load a split of Ref-AVS (Wang et al., 2024) without reading any media.

    Args:
        root (`str` or `Path`): folder with `metadata.csv`, `media` and `gt_mask`.
        split (`str`): `"train"`, `"val"`, `"test_s"` (classes of the training split), `"test_u"` (others) or
            `"test_n"` (references that match nothing).

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema`. A uid that occurs twice gets
        `#2` where it comes for the second time in `id`.

    Raises:
        `DataError`: where the table is missing, lacks a column, or has no row of that split.
    """
    return _load_table(Path(root), split, TABLE, _COLUMNS)


def load_r2avsbench(root: str | Path, split: str) -> Dataset:
    """
    Load a split of R2-AVSBench (Zhou et al., 2025): other references, which need more reasoning, to clips of Ref-AVS's
    test splits.

    Args:
        root (`str` or `Path`): the folder of Ref-AVS, into which `R2AVSBench_metadata.csv` was put.
        split (`str`): `"test_s"` or `"test_u"`, as the table has it.

    Returns:
        `Dataset`: as [`load_refavs`].

    Raises:
        `DataError`: as [`load_refavs`].
    """
    return _load_table(Path(root), split, R2_TABLE, R2_COLUMNS)


def list_r2avsbench_splits(root: str | Path) -> list[str]:
    """The splits that the table of R2-AVSBench has rows of; none where it is not there."""
    table = Path(root) / R2_TABLE
    if not table.is_file():
        return []
    found = {entry["split"] for _, entry in _read_entries(table, R2_COLUMNS)}
    return [split for split in SPLITS if split in found]


def _load_table(root: Path, split: str, name: str, columns: set[str]) -> Dataset:
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} of Ref-AVS; use one of {', '.join(SPLITS)}")
    table = root / name
    if not table.is_file():
        raise DataError(f"{table}: no such file; give the folder that holds Ref-AVS's {name}, media and gt_mask")
    entries = [(line, entry) for line, entry in _read_entries(table, columns) if entry["split"] == split]
    if not entries:
        raise DataError(f"{table}: no row of split {split!r}")
    seen: Counter[str] = Counter()
    elsewhere: list[str] = []
    rows = [_build_row(root, f"{table}, line {line}", entry, seen, elsewhere) for line, entry in entries]
    if elsewhere:
        warnings.warn(
            f"{root}: the media of {len(elsewhere)} null references are not under their own name, as in the official "
            f"download, but under that of their video (first: {elsewhere[0]})"
        )
    return as_dataset(rows, table)


def _read_entries(table: Path, columns: set[str]) -> list[tuple[int, dict[str, str]]]:
    """The entries of a table, of all splits, each with its line."""
    (_, header), *lines = read_table(table) or [(1, [])]
    missing = sorted(columns - set(header))
    if missing:
        shown = "vid,uid,split,fid,exp" if table.name == TABLE else ",".join(sorted(columns))
        raise DataError(f"{table}: it has no column `{missing[0]}`; the official one has {shown}")
    entries = []
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"{table}, line {line}: it has not as many cells as columns; restore the table")
        entry = dict(zip(header, cells, strict=True))
        require_plain_split(f"{table}, line {line}", entry["split"], SPLITS)
        entries.append((line, entry))
    return entries


def _build_row(
    root: Path, where: str, entry: dict[str, str], seen: Counter[str], elsewhere: list[str]
) -> dict[str, Any]:
    uid = entry["uid"]
    parts = uid.rsplit("_", 2)
    if len(parts) != 3:
        raise DataError(f"{where}: uid {uid!r} is not <video>_<class>_<number>")
    # The column `vid` is another name for null references: the media lie under what the uid says.
    video, class_name = parts[0], parts[1]
    is_null = class_name == NULL_CLASS
    seen[uid] += 1
    # Texts: paths of pathlib take ten times as long for the 300,000 files of the official table.
    frames_folder, audio = f"{root}/media/{video}/frames", f"{root}/media/{video}/audio.wav"
    if is_null and not (os.path.isdir(frames_folder) and os.path.isfile(audio)):
        other = entry.get("vid", video)
        others = [f"{root}/media/{other}", f"{root}/media_cross/{other}"]
        frames_folder = _first_existing([frames_folder, *(f"{other}/frames" for other in others)])
        audio = _first_existing([audio, *(f"{other}/audio.wav" for other in others)])
        elsewhere.append(uid)
    masks = None
    if not is_null:
        mask_folder = f"{root}/gt_mask/{video}/fid_{entry['fid']}"
        masks = [f"{mask_folder}/{i:05d}.png" for i in range(NUM_FRAMES)]
    return {
        "id": uid if seen[uid] == 1 else f"{uid}#{seen[uid]}",
        "split": entry["split"],
        "reference": entry["exp"],
        "class_name": class_name,
        "is_null": is_null,
        "frames": [f"{frames_folder}/{i}.jpg" for i in range(NUM_FRAMES)],
        "video": None,
        "audio": audio,
        "masks": masks,
        "num_objects": None,
        "target": None,
        "prefill": None,
    }


def _first_existing(paths: list[str]) -> str:
    """The first path that exists; the first of all where none does, so that the error names the official place."""
    return next((path for path in paths if os.path.exists(path)), paths[0])
