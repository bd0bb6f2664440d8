"""Objects in videos whose masks all stand in one JSON file: MeViS and ReVOS in their official layouts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ..json_values import scan_json
from ..schema import as_dataset
from .expressions import (
    EXPRESSIONS_FILE,
    Expression,
    FramePaths,
    MasksInFile,
    Places,
    add_place,
    build_row,
    read_expressions,
    require_split,
)

MASKS_FILE, FOREGROUND_FILE = "mask_dict.json", "mask_dict_foreground.json"
REVOS_SPLITS = ("train", "valid")
REVOS_KINDS = ("referring", "reasoning", "null")
_REVOS_TABLE = "meta_expressions_{}_.json"


def list_mevis_splits(root: str | Path) -> list[str]:
    """The splits of a folder of MeViS that have references; none where it is no such folder."""
    order = {"train": 0, "valid_u": 1, "valid": 2}
    found = [path.parent.name for path in Path(root).glob(f"*/{EXPRESSIONS_FILE}")]
    return sorted(found, key=lambda name: (order.get(name, 3), name))


def list_revos_splits(root: str | Path) -> list[str]:
    """The splits of a folder of ReVOS that have references; none where it is no such folder."""
    return [split for split in REVOS_SPLITS if (Path(root) / _REVOS_TABLE.format(split)).is_file()]


def load_mevis(root: str | Path, split: str, *, objects: str = "together") -> Dataset:
    """
    Load a split of MeViS (Ding et al., 2023) without reading any frame or mask.

    The layout: `SPLIT/meta_expressions.json`, `SPLIT/JPEGImages/VIDEO/FRAME.jpg`, and `SPLIT/mask_dict.json` with run
    lengths by annotation and frame. That file is gone through once; rows name places in it. `valid`, whose masks the
    competition keeps to itself, has rows without masks.

    Args:
        root (`str` or `Path`): the folder.
        split (`str`): `"train"`, `"valid_u"` or `"valid"`, those that are there.
        objects (`str`, *optional*, defaults to `"together"`): a reference may be about several objects: `"together"`
            gives the mask of all, as published scores and models have it; `"apart"` the mask of each, for
            `max_objects` above 1.

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: names the file, the video and the reference.
    """
    root = Path(root)
    require_split(split, list_mevis_splits(root), root, f"SPLIT/{EXPRESSIONS_FILE}")
    folder = root / split
    frames = FramePaths(folder / "JPEGImages", ".jpg")
    masks = MasksInFile(folder / MASKS_FILE, objects)
    places = _find_masks(masks.path) if masks.path.is_file() else None
    rows = []
    for expression in read_expressions(folder / EXPRESSIONS_FILE):
        columns: dict[str, Any] = {"frames": frames.of(expression)}
        if places is not None:
            columns |= _mask_columns(masks, places, expression)
        rows.append(build_row(f"{expression.video}_{expression.name}", split, expression.text, **columns))
    if not rows:
        raise DataError(f"{folder / EXPRESSIONS_FILE}: it holds no references")
    return as_dataset(rows, root)


def load_revos(root: str | Path, split: str, *, objects: str = "together") -> Dataset:
    """
    Load a split of ReVOS (Yan et al., 2024) without reading any frame or mask.

    The layout: `meta_expressions_train_.json`, `meta_expressions_valid_.json`, `JPEGImages/VIDEO/FRAME.jpg`,
    `mask_dict.json` as in MeViS, and `mask_dict_foreground.json` with the mask of all objects of each frame, for the
    score R. Both are gone through once; rows name places in them.

    Args:
        root (`str` or `Path`): the folder.
        split (`str`): `"train"` or `"valid"`.
        objects (`str`, *optional*, defaults to `"together"`): as in [`load_mevis`].

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema`. `reference_kind` is
            `referring`, `reasoning` or `null` (`type_id` 0, 1 and 2; a null reference matches nothing).
            `foreground_masks` is there where its file is.

    Raises:
        `DataError`: names the file, the video and the reference.
    """
    root = Path(root)
    require_split(split, list_revos_splits(root), root, "meta_expressions_SPLIT_.json")
    frames = FramePaths(root / "JPEGImages", ".jpg")
    masks, foreground = MasksInFile(root / MASKS_FILE, objects), MasksInFile(root / FOREGROUND_FILE, "together")
    places = _find_masks(masks.path)
    videos = _find_foreground(foreground.path) if foreground.path.is_file() else None
    rows = []
    for expression in read_expressions(root / _REVOS_TABLE.format(split)):
        columns: dict[str, Any] = {"frames": frames.of(expression), "reference_kind": _revos_kind(expression)}
        columns |= _mask_columns(masks, places, expression)
        if videos is not None:
            video = expression.video
            if video not in videos:
                raise DataError(f"{foreground.path}: no masks of {video!r}; restore the official file")
            columns["foreground_masks"] = foreground.of(
                video, [videos[video]], len(expression.frames), expression.where
            )
        rows.append(build_row(f"{expression.video}_{expression.name}", split, expression.text, **columns))
    if not rows:
        raise DataError(f"{root / _REVOS_TABLE.format(split)}: it holds no references")
    return as_dataset(rows, root)


def _revos_kind(expression: Expression) -> str | None:
    number = expression.values.get("type_id")
    if number is None:
        return None
    if number not in range(len(REVOS_KINDS)):
        raise DataError(f"{expression.where}: `type_id` {number!r} is none of 0, 1 and 2")
    return REVOS_KINDS[number]


def _find_masks(path: Path) -> dict[str, Places]:
    """Where the masks of each annotation stand."""
    found: dict[str, Places] = {}
    for keys, value, span in scan_json(path, lambda keys: len(keys) < 2):
        add_place(found, keys[0] if keys else "", keys, value, span, path)
    return found


def _find_foreground(path: Path) -> dict[str, Places]:
    """Where the foreground of each video stands."""

    def opens(keys: Sequence[str | int]) -> bool:
        return len(keys) < 2 or (len(keys) == 2 and keys[1] == "masks_rle")

    found: dict[str, Places] = {}
    for keys, value, span in scan_json(path, opens):
        if len(keys) == 3:
            add_place(found, keys[0], keys, value, span, path)
    return found


def _mask_columns(masks: MasksInFile, places: dict[str, Places], expression: Expression) -> dict[str, Any]:
    """The masks of a reference; of none where it is about no object."""
    if "anno_id" not in expression.values:
        raise DataError(f"{expression.where}: `anno_id` is missing; restore the official file")
    numbers = expression.numbers("anno_id")
    if not numbers:
        return {"is_null": True}
    missing = next((number for number in numbers if str(number) not in places), None)
    if missing is not None:
        raise DataError(f"{expression.where}: {masks.path} has no annotation {missing}; both must be of one download")
    each = [places[str(number)] for number in numbers]
    return {"masks": masks.of(tuple(numbers), each, len(expression.frames), expression.where)}
