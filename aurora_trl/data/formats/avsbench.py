"""AVSBench in its official layouts: single source (S4), multiple sources (MS3), semantic (AVSS)."""

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ...errors import DataError
from ...prompts import SOUNDING_REFERENCE, display_class, normalize_class
from ...text_files import parse_json, read_table, read_text
from ..media.images import open_image
from ..schema import COLUMNS, Row, as_dataset
from .split_names import require_plain_split

SUBSETS = ("s4", "ms3", "avss")
SPLITS = ("train", "val", "test")
TABLES = {"s4": "s4_meta_data.csv", "ms3": "ms3_meta_data.csv", "avss": "metadata.csv"}
# The official download keeps the two older subsets in folders of these names.
_FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "."}
_NUM_FRAMES = 5
_NUM_CLASSES = 71
# S4's categories are AudioSet's phrases for sounds; a model names the thing that makes them.
_S4_CLASSES = {
    "ambulance siren": "ambulance",
    "baby laughter": "baby",
    "cap gun shooting": "gun",
    "cat meowing": "cat",
    "chainsawing trees": "chainsaw",
    "coyote howling": "coyote",
    "dog barking": "dog",
    "driving buses": "bus",
    "female singing": "woman",
    "horse clip clop": "horse",
    "lawn mowing": "lawn mower",
    "lions roaring": "lion",
    "male speech": "man",
    "mynah bird singing": "mynah bird",
    "playing acoustic guitar": "guitar",
    "playing glockenspiel": "glockenspiel",
    "playing piano": "piano",
    "playing tabla": "tabla",
    "playing ukulele": "ukulele",
    "playing violin": "violin",
    "typing on computer keyboard": "keyboard",
}


def load_avsbench(root: str | Path, subset: str, split: str) -> Dataset:
    """
    Load a split of AVSBench (Zhou et al., 2022, 2023) without reading any media.

    There are no references: each clip asks for what sounds, with the paper's own words. Where only some frames are
    annotated, as in the training splits of S4 and of AVSS's `v1s`, the others have None in `masks`. The masks of AVSS
    are those of all classes together; [`load_class_maps`] reads them apart. The masks of MS3 are those of all that
    sounds together, and nothing says how many objects that is: `num_objects` is None, which is one `[SEG]` for all.

    Args:
        root (`str` or `Path`): folder with the subset's table (`s4_meta_data.csv`, `ms3_meta_data.csv`,
            `metadata.csv`), or the one above it.
        subset (`str`): `"s4"`, `"ms3"` or `"avss"`.
        split (`str`): `"train"`, `"val"` or `"test"`.

    Returns:
        `Dataset`: one row per clip, with the columns of `aurora_trl.data.schema`. `class_name` names what sounds
        in S4, and None in the other two.

    Raises:
        `DataError`: where the table is missing, lacks a column, or has no row of that split.
    """
    if subset not in SUBSETS:
        raise DataError(f"unknown subset {subset!r} of AVSBench; use one of {', '.join(SUBSETS)}")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} of AVSBench; use one of {', '.join(SPLITS)}")
    table = find_table(root, subset)
    if table is None:
        raise DataError(f"{Path(root) / TABLES[subset]}: no such file; give the folder that holds it")
    (_, header), *lines = read_table(table) or [(1, [])]
    if "split" not in header:
        raise DataError(f"{table}: it has no column `split`")
    if subset == "s4" and len(header) < 4:
        raise DataError(f"{table}: its columns must be name, start, category and split, and it has {len(header)}")
    column = header.index("split")
    for number, line in lines:
        if len(line) < len(header):
            raise DataError(f"{table}, line {number}: fewer values than the header has columns")
        require_plain_split(f"{table}, line {number}", line[column], SPLITS)
    build = _BUILDERS[subset]
    rows = [build(table.parent, header, line, split) for _, line in lines if line[column] == split]
    if not rows:
        raise DataError(f"{table}: no row of split {split!r}")
    return as_dataset(rows, table)


def find_table(root: str | Path, subset: str) -> Path | None:
    """The subset's table in a folder or in the official folder below it; None where there is none."""
    candidates = [Path(root) / TABLES[subset], Path(root) / _FOLDERS[subset] / TABLES[subset]]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None or subset != "avss":
        return found
    header = next(csv.reader(StringIO(read_text(found, 1 << 16))), [])
    return found if {"uid", "label", "split"} <= set(header) else None  # Ref-AVS has a table of that name, too


def _row(name: str, split: str, **columns: Any) -> dict[str, Any]:
    row = {**dict.fromkeys(COLUMNS), "id": name, "split": split, "reference": SOUNDING_REFERENCE, "is_null": False}
    return {**row, **columns}


def _s4_row(root: Path, header: Sequence[str], line: Sequence[str], split: str) -> dict[str, Any]:
    name, category = line[0], line[2]
    data = root / "s4_data" if (root / "s4_data").is_dir() else root
    inside = Path(split) / category / name
    annotated = 1 if split == "train" else _NUM_FRAMES
    return _row(
        name,
        split,
        class_name=_S4_CLASSES.get(normalize_class(category), display_class(category)),
        frames=[str(data / "visual_frames" / inside / f"{name}_{i}.png") for i in range(1, _NUM_FRAMES + 1)],
        audio=str(data / "audio_wav" / split / category / f"{name}.wav"),
        masks=[str(data / "gt_masks" / inside / f"{name}_{i}.png") for i in range(1, annotated + 1)]
        + [None] * (_NUM_FRAMES - annotated),
    )


def _ms3_row(root: Path, header: Sequence[str], line: Sequence[str], split: str) -> dict[str, Any]:
    name = line[0]
    data = root / "ms3_data" if (root / "ms3_data").is_dir() else root
    numbers = range(1, _NUM_FRAMES + 1)
    return _row(
        name,
        split,
        frames=[str(data / "visual_frames" / name / f"{name}.mp4_{i}.png") for i in numbers],
        audio=str(data / "audio_wav" / split / f"{name}.wav"),
        masks=[str(data / "gt_masks" / split / name / f"{name}_{i}.png") for i in numbers],
    )


def _avss_row(root: Path, header: Sequence[str], line: Sequence[str], split: str) -> dict[str, Any]:
    entry = dict(zip(header, line, strict=False))
    label, name = entry.get("label", ""), entry.get("uid", "")
    if label not in ("v1s", "v1m", "v2"):
        raise DataError(f"{root / TABLES['avss']}: label {label!r} of {name!r} is none of v1s, v1m, v2")
    folder = root / label / name
    frames = 10 if label == "v2" else _NUM_FRAMES
    annotated = 1 if label == "v1s" and split == "train" else frames
    return _row(
        name,
        split,
        frames=[str(folder / "frames" / f"{i}.jpg") for i in range(frames)],
        audio=str(folder / "audio.wav"),
        masks=[str(folder / "labels_rgb" / f"{i}.png") for i in range(annotated)] + [None] * (frames - annotated),
    )


_BUILDERS: dict[str, Callable[[Path, Sequence[str], Sequence[str], str], dict[str, Any]]] = {
    "s4": _s4_row,
    "ms3": _ms3_row,
    "avss": _avss_row,
}


def class_palette(num_classes: int = _NUM_CLASSES) -> np.ndarray:
    """The colour of each class in AVSS's `labels_rgb`, `(classes, 3)` uint8: the bits of its number, dealt in turn."""
    palette = np.zeros((num_classes, 3), np.uint8)
    for number in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                palette[number, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette


def load_class_names(root: str | Path) -> list[str]:
    """
    The classes of AVSS in the order of their numbers, from `label2idx.json`.

    Raises:
        `DataError`: where the file is missing or is no mapping of names to numbers.
    """
    path = Path(root) / "label2idx.json"
    try:
        numbers = parse_json(read_text(path))
        return sorted(numbers, key=lambda name: int(numbers[name]))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it comes with AVSBench-semantic") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a mapping of class names to numbers: {error}") from None


def load_class_maps(row: Row, num_classes: int = _NUM_CLASSES) -> np.ndarray:
    """
    The class of each pixel in the annotated frames of an AVSS row, for [`SemanticMetrics`].

    Args:
        row (`dict`): a row of `load_avsbench(root, "avss", split)`.
        num_classes (`int`, *optional*, defaults to 71): with the background.

    Returns:
        `np.ndarray` of shape `(annotated frames, H, W)`, int64.

    Raises:
        `DataError`: names the file that is missing, or has a colour of no class.
    """
    palette = class_palette(num_classes).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    order = np.argsort(palette)
    maps = []
    for path in row["masks"]:
        if path is None:
            continue
        with open_image(path, "mask") as image:
            colours = np.asarray(image.convert("RGB")).astype(np.int64) @ [1 << 16, 1 << 8, 1]
        found = np.searchsorted(palette[order], colours).clip(max=num_classes - 1)
        if (palette[order][found] != colours).any():
            raise DataError(f"{path}: it has a colour that stands for none of the {num_classes} classes")
        maps.append(order[found])
    return np.stack(maps)
