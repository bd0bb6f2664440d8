"""OmniAVS in its official layout: references that are written or spoken, and may point at a sound or a picture."""

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import DataError
from ...text_files import json_lines, parse_json
from ..json_values import scan_json
from ..schema import Row, as_dataset
from .expressions import MasksInFile, Places, add_place, build_row, require_split

VIDEOS_FILE = "video_dict.json"
# The kinds of references; the published score is the mean over them.
EXPRESSION_TYPES = (
    "text",
    "speech",
    "text_sound",
    "speech_sound",
    "text_image",
    "speech_image",
    "text_sound_image",
    "speech_sound_image",
)
_TABLE = "meta_expressions_{}.jsonl"
_MEDIA = {
    "referring_speech": ("reference_speech", "referring_speeches"),
    "referring_sound": ("reference_sound", "referring_sounds"),
    "referring_image": ("reference_image", "referring_images"),
}
_KEYS = ("video_name", "exp_id", "expr", "expr_type", "obj_id")


def list_omniavs_splits(root: str | Path) -> list[str]:
    """The splits of a folder of OmniAVS that have references; none where it is no such folder."""
    if not (Path(root) / VIDEOS_FILE).is_file():
        return []
    return [split for split in ("train", "val", "test") if (Path(root) / _TABLE.format(split)).is_file()]


def load_omniavs(root: str | Path, split: str, kind: str | None = None, *, objects: str = "together") -> Dataset:
    """
    Load a split of OmniAVS (Ying et al., 2025) without reading any frame, sound or mask.

    The layout: `meta_expressions_SPLIT.jsonl`, `images/VIDEO/FRAME.jpg`, `audios/VIDEO.mp3`,
    `referrings/referring_speeches`, `referring_sounds` and `referring_images`, and `video_dict.json` with the frames'
    names and the run lengths of each object. That file is gone through once; rows name places in it.

    The published script compares references to several objects with the mask of the first one; here it is the mask of
    all, as in the paper and in its training code.

    Args:
        root (`str` or `Path`): the folder.
        split (`str`): `"train"` or `"test"`.
        kind (`str`, *optional*): one of `EXPRESSION_TYPES`; all by default.
        objects (`str`, *optional*, defaults to `"together"`): as in [`~aurora_trl.data.load_mevis`].

    Returns:
        `Dataset`: one row per reference, with the columns of `aurora_trl.data.schema`, `reference_kind`, files in
            `reference_speech`, `reference_sound` and `reference_image`, and `explanation`, the reason that annotators
            gave. A reference that is spoken has its text in `reference` all the same.

    Raises:
        `DataError`: names the file and the line.
    """
    root = Path(root)
    if kind is not None and kind not in EXPRESSION_TYPES:
        raise DataError(f"unknown subset {kind!r} of OmniAVS; use one of {', '.join(EXPRESSION_TYPES)}")
    require_split(split, list_omniavs_splits(root), root, f"{VIDEOS_FILE} and {_TABLE.format('SPLIT')}")
    table = root / _TABLE.format(split)
    masks = MasksInFile(root / VIDEOS_FILE, objects)
    frames, places = _find_videos(masks.path)
    paths = {video: [f"{root}/images/{video}/{name}" for name in names] for video, names in frames.items()}
    seen: Counter[str] = Counter()
    rows: list[Row] = []
    for where, entry in _read_table(table):
        if kind is not None and entry["expr_type"] != kind:
            continue
        video = str(entry["video_name"])
        if video not in paths:
            raise DataError(f"{where}: {masks.path} has no video {video!r}; both must be of one download")
        columns: dict[str, Any] = {
            "frames": paths[video],
            "audio": f"{root}/audios/{video}.mp3",
            "reference_kind": entry["expr_type"],
            "explanation": entry.get("expl") or None,
        }
        numbers = [str(number) for number in entry["obj_id"]]
        missing = next((number for number in numbers if number not in places[video]), None)
        if missing is not None:
            raise DataError(
                f"{where}: {masks.path} has no object {missing} of {video!r}; both must be of one download"
            )
        if numbers:
            each = [places[video][number] for number in numbers]
            columns["masks"] = masks.of((video, *numbers), each, len(paths[video]), f"{where}, video {video!r}")
        for key, (column, folder) in _MEDIA.items():
            columns[column] = f"{root}/referrings/{folder}/{entry[key]}" if entry.get(key) else None
        name = f"{video}_{entry['exp_id']}"
        seen[name] += 1
        row_id = name if seen[name] == 1 else f"{name}#{seen[name]}"
        rows.append(build_row(row_id, split, entry["expr"], is_null=not numbers, **columns))
    if not rows:
        raise DataError(f"{table}: no reference" + (f" of the subset {kind!r}" if kind else ""))
    return as_dataset(rows, table)


def _read_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = []
    for number, line in json_lines(path):
        where = f"{path}, line {number}"
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from None
        missing = next((key for key in _KEYS if not isinstance(entry, dict) or entry.get(key) is None), None)
        if missing is not None:
            raise DataError(f"{where}: `{missing}` is missing; restore the official file")
        if entry["expr_type"] not in EXPRESSION_TYPES:
            raise DataError(f"{where}: `expr_type` {entry['expr_type']!r} is none of {', '.join(EXPRESSION_TYPES)}")
        if not isinstance(entry["obj_id"], list) or not isinstance(entry["expr"], str):
            raise DataError(f"{where}: `obj_id` must be a list and `expr` a text; restore the official file")
        entries.append((where, entry))
    return entries


def _find_videos(path: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, Places]]]:
    """The names of each video's frames, and where the masks of its objects stand."""

    def opens(keys: tuple[str | int, ...]) -> bool:
        return len(keys) < 2 or (len(keys) < 4 and keys[1] == "mask_dict")

    frames: dict[str, list[str]] = {}
    places: dict[str, dict[str, Places]] = {}
    for keys, value, span in scan_json(path, opens):
        video = str(keys[0]) if keys else ""
        objects = places.setdefault(video, {})
        if len(keys) == 2 and keys[1] == "file_name":
            frames[video] = [str(name) for name in value]
        elif len(keys) == 4:
            add_place(objects, keys[2], keys, value, span, path)
    return frames, places
