"""Rows in a JSONL file: how the data steps between the phases hand them on, and how one's own data come in."""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ...disk import written_whole
from ...errors import DataError
from ...text_files import parse_json, read_text
from ..folders import media_folder
from ..hints import check_hints
from ..mask_text import encode_rle
from ..schema import (
    COLUMNS,
    MASK_COLUMNS,
    OPTIONAL_COLUMNS,
    REFERENCE_MEDIA,
    TAKEN,
    Row,
    as_dataset,
    count_objects,
    kind_fault,
    split_mask,
    with_current_names,
)

_REQUIRED = ("id", "reference")


def load_json(path: str | Path) -> Dataset:
    """
    Load rows from a JSONL file, one object per line; a JSON file that is one list of objects is read, too.

    | key | what |
    | --- | --- |
    | `id` | a name of the row, its own; a number is read as text |
    | `reference` | the sentence about the object |
    | `frames` | in order: images, or moments of a video in seconds, as in `clip.mp4#t=1.5`; or |
    | `video` | one video file, of which the model's frames are taken evenly |
    | `audio` | a file with sound, a video too; without it the track of `video`, or no sound |
    | `masks` | one per frame: an image (0 is background), a COCO RLE, polygons, or null for one not annotated |
    | `mask_value` | the number of the object in masks that hold one per object |
    | `boxes`, `points` | what marks the object in frames that nobody drew, see `aurora_trl/data/hints.py` |
    | `num_objects` | how many objects the reference is about, where they are several |
    | `class_name` | the object's class, for the class reward |
    | `is_null` | true where the reference matches nothing: no masks are needed |
    | `target` | the text to learn; `aurora annotate` writes it |
    | `prefill` | what the answer begins with, before `target`: the model reads it and does not learn to write it |
    | `split` | `train` where it is missing |
    | `reference_kind` | a sort of references: evaluation gives J of each, and some scores are means over them |
    | `reference_speech`, `reference_sound`, `reference_image` | a file that the reference is, or goes with |

    Paths are relative to the file's folder, or absolute. Only `id`, `reference` and one of `frames` and `video` are
    needed. A column of one's own stays: every reward gets it by name. A mask that is no file is an object,
    `{"size": [H, W], "counts": "..."}` or `{"polygons": [[x1, y1, ...]]}`, or the same as text. Where the reference is
    about several objects, a frame has one mask of all together, or a list with the mask of each, null for one that is
    not in the frame.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `Dataset`: with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: names the file, the line and the key.
    """
    rows = read_rows(path)
    return as_dataset([{**row, "split": row["split"] or "train"} for row in rows], path)


def read_rows(path: str | Path) -> list[Row]:
    """The rows that `load_json` loads; `split` is None where a row names none."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = [_read_row(path, where, value) for where, value in _read_values(path)]
    if not rows:
        raise DataError(f"{path}: it holds no rows")
    named = (name for row in rows for name in (*(row["frames"] or ()), row["video"], row["audio"]) if name)
    folder = media_folder(path, next((name.partition("#t=")[0] for name in named), None))
    return [map_paths(row, lambda value: os.path.normpath(folder / value)) for row in rows]


def _read_values(path: Path) -> Iterator[tuple[str, Any]]:
    """What stands in each line, or in the list that the file is, with its place."""
    text = read_text(path)
    if re.match(r"\s*\[\s*[{\]]", text):
        try:
            yield from ((f"{path}, entry {number}", value) for number, value in enumerate(parse_json(text), 1))
            return
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, parse_json(line)
            except ValueError as error:
                raise DataError(f"{where}: not valid JSON: {error}") from None


def _read_row(path: Path, where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row is an object, not {type(row).__name__}")
    row = with_current_names(row, path)
    _check_own_columns(where, row)
    for key in _REQUIRED:
        if row.get(key) is None:
            raise DataError(f"{where}: `{key}` is missing")
    for column in MASK_COLUMNS:
        if isinstance(row.get(column), list):
            row[column] = [json.dumps(mask) if isinstance(mask, dict | list) else mask for mask in row[column]]
    fault = kind_fault(row)
    if fault is not None:
        raise DataError(f"{where}: {fault}")
    try:
        count_objects(row)
        check_hints(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    row = {**dict.fromkeys(COLUMNS), **row, "id": str(row["id"])}
    row["is_null"] = bool(row["is_null"])
    row["split"] = row["split"] or None
    return row


def _check_own_columns(where: str, row: Row) -> None:
    """Columns of one's own are welcome; a slip of the pen, and what a trainer puts there itself, are not."""
    for key in set(row) - {*COLUMNS, *OPTIONAL_COLUMNS}:
        if key in TAKEN:
            raise DataError(f"{where}: `{key}` is what the trainer gives to rewards; call the column something else")
        known = (*COLUMNS, *OPTIONAL_COLUMNS)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        bare = re.sub("_(path|file)s?$", "", key)
        if bare != key and not close:  # `audio_path` in place of `audio`, without which the clip would have no sound
            close = [name for name in known if name in (bare, f"{bare}s") and name not in row]
            close = [name for name in close if name != "video" or "frames" not in row]
        if close:
            raise DataError(f"{where}: unknown key `{key}`; did you mean `{close[0]}`?")


def save_json(rows: Iterable[Row], path: str | Path) -> Path:
    """
    Write rows to a JSONL file, whole or not at all.

    Args:
        rows (`Iterable[dict]`): rows with the columns of `aurora_trl.data.schema`, and of one's own. Paths may be
            `Path`s, masks run lengths or polygons as mappings, or arrays `(H, W)`, and numbers those of numpy.
        path (`str` or `Path`): the file. Media are written relative to its folder, so that both can move together.

    Returns:
        `Path`: the file.

    Raises:
        `DataError`: names the row and the column that `load_json` would refuse, or that JSON has no place for.
    """
    path = Path(path)
    folder = path.resolve().parent
    with written_whole(path) as file:
        for row in rows:
            order = (*COLUMNS, *(name for name in row if name not in COLUMNS))
            kept = {name: _plain(name, row[name]) for name in order if row.get(name) is not None}
            fault = kind_fault(kept)
            if fault is not None:
                raise DataError(f"row {row.get('id')!r}: {fault}")
            kept = map_paths(kept, lambda value: os.path.relpath(value, folder))
            try:
                line = json.dumps(kept, ensure_ascii=False, default=_plain_value)
            except (TypeError, ValueError) as error:
                raise DataError(f"row {row.get('id')!r}: {error}; a file of JSON lines can not hold it") from None
            file.write(line + "\n")
    return path


def _plain(name: str, value: Any) -> Any:
    """A value of a row as JSON has it, and a mask as a row has it."""
    if isinstance(value, np.generic | Path):
        return _plain_value(value)
    if isinstance(value, np.ndarray | tuple) or (isinstance(value, list) and name in COLUMNS):
        return [_plain_mask(item) if name in MASK_COLUMNS else _plain(name, item) for item in value]
    return value


def _plain_mask(mask: Any) -> Any:
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        return encode_rle(mask > 0)
    return json.dumps(mask, default=_plain_value) if isinstance(mask, dict | list) else _plain("", mask)


def _plain_value(value: Any) -> Any:
    """What Python's JSON does not write: numpy's numbers, paths, days, and pycocotools' run lengths."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a value is {type(value).__name__}")


def map_paths(row: Row, change: Callable[[str], str | Path]) -> dict[str, Any]:
    """The row with each path changed; a mask that is JSON is no path."""

    def changed(value: str | None) -> str | None:
        if value is None or value.startswith("{"):
            return value
        objects = split_mask(value)
        return str(change(value)) if objects is None else json.dumps([changed(mask) for mask in objects])

    row = dict(row)
    if row.get("frames"):
        row["frames"] = [str(change(value)) for value in row["frames"]]
    for column in MASK_COLUMNS:
        if row.get(column):
            row[column] = [changed(value) for value in row[column]]
    for key in ("video", "audio", *REFERENCE_MEDIA):
        if row.get(key):
            row[key] = str(change(row[key]))
    return row
