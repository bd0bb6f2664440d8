"""Rows in a JSONL file: how the data steps between the phases hand them on, and how one's own data come in."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from .schema import COLUMNS, FEATURES, DataError

_REQUIRED = ("id", "reference")
_TYPES: dict[str, tuple[type, ...]] = {"is_null": (bool,), "frames": (list,), "masks": (list,)}


def load_json(path: str | Path) -> Dataset:
    """
    Load rows from a JSONL file, one object per line.

    Paths in `frames`, `video`, `audio` and `masks` are relative to the file's folder, or absolute. Only `id`,
    `reference` and one of `frames` and `video` are needed; a missing column is None, `is_null` is false.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `Dataset`: with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: names the file, the line and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    folder = path.resolve().parent
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_read_row(f"{path}, line {number}", line, folder))
    if not rows:
        raise DataError(f"{path}: it holds no rows")
    return Dataset.from_list(rows, features=FEATURES)


def _read_row(place: str, line: str, folder: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row is an object, not {type(row).__name__}")
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise DataError(f"{place}: unknown key `{unknown[0]}`; the keys are {', '.join(COLUMNS)}")
    for key in _REQUIRED:
        if row.get(key) is None:
            raise DataError(f"{place}: `{key}` is missing")
    for key, value in row.items():
        if value is not None and not isinstance(value, _TYPES.get(key, (str,))):
            raise DataError(f"{place}: `{key}` is {type(value).__name__}, not {_TYPES.get(key, (str,))[0].__name__}")
    row = {**dict.fromkeys(COLUMNS), **row}
    row["is_null"] = bool(row["is_null"])
    row["split"] = row["split"] or "train"
    return _map_paths(row, lambda value: os.path.normpath(folder / value))


def save_json(rows: Iterable[dict[str, Any]], path: str | Path) -> Path:
    """
    Write rows to a JSONL file, whole or not at all.

    Args:
        rows (`Iterable[dict]`): rows with the columns of `aurora_trl.data.schema`; other keys are left out.
        path (`str` or `Path`): the file. Media are written relative to its folder, so that both can move together.

    Returns:
        `Path`: the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.resolve().parent
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for row in rows:
            kept = {key: row[key] for key in COLUMNS if row.get(key) is not None}
            kept = _map_paths(kept, lambda value: os.path.relpath(value, folder))
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    temporary.replace(path)
    return path


def _map_paths(row: dict[str, Any], change: Any) -> dict[str, Any]:
    """The row with each path changed; a mask that is an RLE is no path."""
    row = dict(row)
    for key in ("frames", "masks"):
        if row.get(key):
            row[key] = [value if value.startswith("{") else str(change(value)) for value in row[key]]
    for key in ("video", "audio"):
        if row.get(key):
            row[key] = str(change(row[key]))
    return row
