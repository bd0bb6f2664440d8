"""Rows in a JSONL file: how the data steps between the phases hand them on, and how one's own data come in."""

import difflib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...disk import written_whole
from ...errors import DataError
from ...text_files import parse_json, read_text
from ..hints import check_hints
from ..schema import (
    COLUMNS,
    MASK_COLUMNS,
    OPTIONAL_COLUMNS,
    REFERENCE_MEDIA,
    Row,
    as_dataset,
    count_objects,
    split_mask,
    with_current_names,
)

_REQUIRED = ("id", "reference")
_TYPES: dict[str, tuple[type, ...]] = {
    "is_null": (bool,),
    "frames": (list,),
    "masks": (list,),
    "foreground_masks": (list,),
    "num_objects": (int,),
    "mask_value": (int,),
    "boxes": (list,),
    "points": (list,),
}

# What rewards get besides the columns of a row.
_TAKEN = frozenset(
    ("prompt", "prompts", "completion", "completions", "completion_ids", "media", "pred_masks", "object_masks")
    + ("max_objects", "trainer_state", "log_extra", "log_metric", "image", "images")
)

# None among the masks is a frame that is not annotated.
_ITEMS: dict[str, tuple[type, ...]] = {"frames": (str,), **dict.fromkeys(MASK_COLUMNS, (str, type(None)))}


def load_json(path: str | Path) -> Dataset:
    """
    Load rows from a JSONL file, one object per line.

    | key | what |
    | --- | --- |
    | `id` | a name of the row, its own |
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
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    folder = path.resolve().parent
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            rows.append(_read_row(path, number, line, folder))
    if not rows:
        raise DataError(f"{path}: it holds no rows")
    return as_dataset(rows, path)


def _read_row(path: Path, number: int, line: str, folder: Path) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
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
    for key, value in row.items():
        kinds = _TYPES.get(key, (str,))
        # A bool is an int to Python, and no number to whoever wrote it.
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if key in (*COLUMNS, *OPTIONAL_COLUMNS) and value is not None and not fits:
            raise DataError(f"{where}: `{key}` is {type(value).__name__}, not {kinds[0].__name__}")
    for key, kind in _ITEMS.items():
        wrong = next((item for item in row.get(key) or () if not isinstance(item, kind)), None)
        if wrong is not None:
            raise DataError(f"{where}: `{key}` holds {wrong!r}, not {kind[0].__name__}")
    try:
        count_objects(row)
        check_hints(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    row = {**dict.fromkeys(COLUMNS), **row}
    row["is_null"] = bool(row["is_null"])
    row["split"] = row["split"] or "train"
    return map_paths(row, lambda value: os.path.normpath(folder / value))


def _check_own_columns(where: str, row: Row) -> None:
    """Columns of one's own are welcome; a slip of the pen, and what a trainer puts there itself, are not."""
    for key in set(row) - {*COLUMNS, *OPTIONAL_COLUMNS}:
        if key in _TAKEN:
            raise DataError(f"{where}: `{key}` is what the trainer gives to rewards; call the column something else")
        close = difflib.get_close_matches(key, (*COLUMNS, *OPTIONAL_COLUMNS), n=1, cutoff=0.8)
        if close:
            raise DataError(f"{where}: unknown key `{key}`; did you mean `{close[0]}`?")


def save_json(rows: Iterable[Row], path: str | Path) -> Path:
    """
    Write rows to a JSONL file, whole or not at all.

    Args:
        rows (`Iterable[dict]`): rows with the columns of `aurora_trl.data.schema`, and of one's own.
        path (`str` or `Path`): the file. Media are written relative to its folder, so that both can move together.

    Returns:
        `Path`: the file.
    """
    path = Path(path)
    folder = path.resolve().parent
    with written_whole(path) as file:
        for row in rows:
            kept = {key: row[key] for key in (*COLUMNS, *(set(row) - set(COLUMNS))) if row.get(key) is not None}
            kept = map_paths(kept, lambda value: os.path.relpath(value, folder))
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    return path


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
