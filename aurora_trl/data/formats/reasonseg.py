"""Reasoning segmentation of images: ReasonSeg's folders, or one JSON file of images and queries."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ...text_files import parse_json, read_text
from ..folders import media_folder, visible_files
from ..mask_text import encode_polygons, flat_outline
from ..schema import COLUMNS, as_dataset
from .split_names import require_one_spelling

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_KEYS = ("id", "image", "query", "polygons", "rle", "class_name", "split", "is_null")


def load_reasonseg(root: str | Path, split: str) -> Dataset:
    """
    Load images with queries; a row is one query about one image, a clip of one frame without sound.

    Two forms are read, both without opening an image:

    * a folder in the layout of ReasonSeg (Lai et al., 2024): `{split}/{name}.jpg` beside `{split}/{name}.json` with
      `text`, a list of queries, and `shapes`, polygons with the label `target` or `ignore`. Training takes all queries
      of an image, the other splits take its first, as the published evaluation does. What an `ignore` cuts out of a
      target counts as background.
    * a file: a JSON list, or one object per line, of `image` (a path relative to the file), `query`, and `polygons`
      (`[[x1, y1, x2, y2, ...], ...]` in pixels) or `rle` (COCO), or `is_null: true`; `id`, `class_name` and `split`
      where there are any.

    Args:
        root (`str` or `Path`): the folder or the file.
        split (`str`): a sub-folder's name; of a file, the rows that name this split or none.

    Returns:
        `Dataset`: with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: names the file, the entry and the key.
    """
    root = Path(root)
    if root.is_file():
        rows = _read_file(root, split)
    elif (root / split).is_dir():
        rows = [row for path in sorted(visible_files(root / split, "*.json")) for row in _read_image(path, split)]
    else:
        raise DataError(f"{root / split}: no such folder; give ReasonSeg's folder with {split}/NAME.jpg and NAME.json")
    if not rows:
        raise DataError(f"{root}: no row of split {split!r}")
    return as_dataset(rows, root)


def _row(row_id: str, split: str, query: str, image: Path, mask: str | None, **columns: Any) -> dict[str, Any]:
    row = {**dict.fromkeys(COLUMNS), "id": row_id, "split": split, "reference": query, "is_null": False}
    return {**row, "frames": [str(image)], "masks": None if mask is None else [mask], **columns}


def _read_image(path: Path, split: str) -> list[dict[str, Any]]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252")  # some files of the official download
    try:
        annotation = parse_json(text)
        queries = [annotation["text"]] if isinstance(annotation["text"], str) else list(annotation["text"])
        shapes = [(shape["label"], shape["points"]) for shape in annotation["shapes"]]
        targets = [points for label, points in shapes if label == "target"]
        largest = max(map(_area, targets), default=0.0)
        holes = [points for label, points in shapes if label == "ignore" and _area(points) < largest]
        mask = encode_polygons(targets, holes)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: not an annotation of ReasonSeg with `text` and `shapes`: {error!r}") from None
    if not queries:
        raise DataError(f"{path}: `text` holds no query")
    image = next((p for p in map(path.with_suffix, _IMAGE_SUFFIXES) if p.is_file()), path.with_suffix(".jpg"))
    kept = queries if split == "train" else queries[:1]
    return [
        _row(path.stem if i == 0 else f"{path.stem}#{i + 1}", split, query, image, mask)
        for i, query in enumerate(kept)
    ]


def _area(points: list[list[float]]) -> float:
    """The area of a polygon in pixels."""
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def list_file_splits(path: Path) -> list[str]:
    """The splits that a file's entries name; `train` where none names any."""
    named = {entry.get("split") for _, entry in _read_entries(path) if isinstance(entry, dict)}
    return sorted(str(split) for split in named if split) or ["train"]


def _read_file(path: Path, split: str) -> list[dict[str, Any]]:
    rows = [_read_entry(f"{path}, entry {n}", entry, path, split, n) for n, entry in _read_entries(path)]
    require_one_spelling(path, split, {row["split"] for row in rows})
    return [row for row in rows if row["split"] == split]


def _read_entries(path: Path) -> list[tuple[int, Any]]:
    """What a file's list holds, or its lines, from 1."""
    text, number = read_text(path), 0
    try:
        if text.lstrip().startswith("["):
            return list(enumerate(parse_json(text), 1))
        entries = []
        for number, line in enumerate(text.split("\n"), 1):
            entries += [(number, parse_json(line))] if line.strip() else []
        return entries
    except ValueError as error:
        raise DataError(f"{path}{f', line {number}' if number else ''}: not valid JSON: {error}") from None


def _read_entry(where: str, entry: Any, path: Path, split: str, number: int) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: an entry is an object, not {type(entry).__name__}")
    unknown = sorted(set(entry) - set(_KEYS))
    if unknown:
        raise DataError(f"{where}: unknown key `{unknown[0]}`; the keys are {', '.join(_KEYS)}")
    for key in ("image", "query"):
        if not isinstance(entry.get(key), str):
            raise DataError(f"{where}: `{key}` is missing, or is no text")
    is_null = entry.get("is_null") or False
    if not isinstance(is_null, bool):
        raise DataError(f"{where}: `is_null` is {is_null!r}; write true or false without quotes")
    entry = {key: value for key, value in entry.items() if value is not None}
    if is_null + ("polygons" in entry) + ("rle" in entry) != 1:
        raise DataError(f"{where}: give one of `polygons`, `rle` and `is_null: true`")
    mask = None
    if "polygons" in entry:
        try:
            pairs = [list(zip(flat[::2], flat[1::2], strict=True)) for flat in map(flat_outline, entry["polygons"])]
            mask = encode_polygons(pairs)
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: `polygons` is not a list of [x1, y1, x2, y2, ...]: {error}") from None
    elif "rle" in entry:
        mask = entry["rle"] if isinstance(entry["rle"], str) else json.dumps(entry["rle"])
    return _row(
        str(entry.get("id", f"{path.stem}-{number}")),
        entry.get("split") or split,
        entry["query"],
        media_folder(path, entry["image"]) / entry["image"],
        mask,
        class_name=entry.get("class_name"),
        is_null=is_null,
    )
