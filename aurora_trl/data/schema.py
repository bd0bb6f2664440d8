"""The columns of a dataset row."""

import json
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from datasets import Dataset, Features, LargeList, List, Value, concatenate_datasets

from ..errors import DataError
from ..text_files import parse_json
from .hints import HINTS, check_hints, hinted_frames

# One row is one reference about one clip. Media are paths: they are read when a batch needs them.
FEATURES = Features(
    {
        "id": Value("string"),  # the dataset's own id of the reference
        "split": Value("string"),
        "reference": Value("string"),
        "class_name": Value("string"),  # as the dataset spells it, hyphens included
        "is_null": Value("bool"),  # the reference matches nothing: every mask is empty
        # Frames in order, or None: images, or moments of a video in seconds, as in `clip.mp4#t=1.5`.
        "frames": List(Value("string")),
        "video": Value("string"),  # one video file, whose frames are taken evenly, or None
        "audio": Value("string"),  # a file with sound, a video too; None: the track of `video`, or no sound
        # One per frame: a PNG's path, or a COCO run-length encoding or polygons as JSON, or the name of values in a
        # JSON file (see `json_values.py`), whose union it is; None for a frame that is not annotated, and in place of
        # them all where none is. Of several objects the union, or a JSON list with the mask of each, in the same order
        # in every frame, and null for one that is not in the frame.
        "masks": List(Value("string")),
        "num_objects": Value("int32"),  # how many objects the reference is about; None: one, or as many as have masks
        "target": Value("string"),  # the text to learn, where the phase has one
        "prefill": Value("string"),  # what the answer begins with, before `target`: read, and not learnt
    }
)
COLUMNS = tuple(FEATURES)
# Columns that rows may have besides.
OPTIONAL_COLUMNS = (
    "mask_value",  # where the files of masks hold a number per object, this row's
    "reference_kind",  # as its benchmark parts references: some scores are means over kinds
    "foreground_masks",  # as `masks`: all that is an object, which the score of ReVOS asks for
    # Files that a reference is, or goes with: it is spoken, or points at a sound or a picture. See
    # `media/reference.py`.
    "reference_speech",
    "reference_sound",
    "reference_image",
    *HINTS,  # what marks an object that nobody drew, see `hints.py`
)
OPTIONAL_FEATURES: dict[str, Any] = {
    **dict.fromkeys(OPTIONAL_COLUMNS, Value("string")),
    "mask_value": Value("int64"),
    "foreground_masks": List(Value("string")),
    "boxes": List(List(Value("float64"))),
    "points": List(List(List(Value("float64")))),
}
MASK_COLUMNS = ("masks", "foreground_masks")
REFERENCE_MEDIA = ("reference_speech", "reference_sound", "reference_image")
# What the columns take that are no text; None everywhere.
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "is_null": (bool, int),
    **dict.fromkeys(("frames", *MASK_COLUMNS, *HINTS), (list,)),
    **dict.fromkeys(("num_objects", "mask_value"), (int,)),
}
# None among the masks is a frame that is not annotated.
_ITEMS: dict[str, tuple[type, ...]] = {"frames": (str,), **dict.fromkeys(MASK_COLUMNS, (str, type(None)))}
# Columns of one's own may not be called what samplers and rewards get besides those of a row.
TAKEN = frozenset(
    ("prompt", "prompts", "completion", "completions", "completion_ids", "image", "images", "media", "max_objects")
    + ("pred_masks", "object_masks", "pred_boxes", "pred_points", "mask_quality", "trainer_state", "log_extra")
    + ("log_metric",)
)
_ROWS_AT_ONCE = 2048
# A row as a mapping: the columns above, and whatever a collator or a trainer puts beside them.
Row: TypeAlias = dict[str, Any]

# What recipes, checkpoints and rows of earlier versions call them.
RENAMED = {"max_targets": "max_objects", "num_targets": "num_objects"}

logger = logging.getLogger(__name__)


def with_current_names(values: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """
    Settings, or a row, with what has another name now under that name; a line says so once for each source.

    Args:
        values (`dict`): as they were read.
        source (`str` or `Path`): the file, for that line.

    Raises:
        `DataError`: where both names are there.
    """
    for old in RENAMED.keys() & values.keys():
        if RENAMED[old] in values:
            raise DataError(f"{source}: `{old}` is what `{RENAMED[old]}` was called; remove one of them")
        _say_renamed(str(source), old)
    return {RENAMED.get(name, name): value for name, value in values.items()}


@cache
def _say_renamed(source: str, old: str) -> None:
    logger.warning(f"{source}: `{old}` is called `{RENAMED[old]}` now, and is read as that")


def clip_key(row: Row) -> tuple[Any, ...]:
    """What makes two rows show the same clip: their media files."""
    return (tuple(row.get("frames") or ()), row.get("video"), row.get("audio"))


def annotated_frames(row: Row) -> tuple[int, ...] | None:
    """The numbers of the frames that have a mask, or else a box or points; None where all have one, or none has."""
    masks = row.get("masks") or hinted_frames(row)
    numbers = tuple(number for number, mask in enumerate(masks) if mask is not None)
    return numbers if 0 < len(numbers) < len(masks) else None


def view_key(row: Row) -> tuple[Any, ...]:
    """
    What makes a model see and hear the same of two rows: their media files, the frames that are chosen of them, and
    the files of their references.
    """
    files = tuple(row.get(name) for name in REFERENCE_MEDIA)
    return (*clip_key(row), annotated_frames(row), *(files if any(files) else ()))


def as_dataset(rows: Sequence[Row], source: str | Path) -> Dataset:
    """
    Rows as a dataset: the columns of this file, and whatever else they hold, which every reward gets by name.

    Args:
        rows (`Sequence[dict]`): a column that one lacks is None there.
        source (`str` or `Path`): where they are from, for the error.

    Raises:
        `DataError`: where a column of one's own holds values of different kinds, or a value can not be kept: half of a
            character, or a number beyond 64 bits.
    """
    # A part at a time: while `datasets` converts rows they take several times what they take then.
    parts = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)] or [rows]
    try:
        dataset = concatenate_datasets(
            [
                Dataset.from_list([{name: row.get(name) for name in COLUMNS} for row in part], features=FEATURES)
                for part in parts
            ]
        )
    except _UNKEPT:
        for name, row in product(COLUMNS, rows):
            _require_kept(row, name, source)
        raise
    for name in dict.fromkeys(name for row in rows for name in row if name not in FEATURES):
        try:
            values = [row.get(name) for row in rows]
            dataset = dataset.add_column(name, values, feature=OPTIONAL_FEATURES.get(name))
        except _UNKEPT as error:
            for row in rows:
                _require_kept(row, name, source)
            text = " ".join(str(error).split())
            raise DataError(f"{source}: the values of `{name}` are not all of one kind ({text})") from None
    return dataset


# What Arrow says to a value that it can not hold.
_UNKEPT = (pa.ArrowException, TypeError, OverflowError, UnicodeError)


def _require_kept(row: Row, name: str, source: str | Path) -> None:
    """Raise `DataError` where a dataset can not hold a value."""
    column = FEATURES.arrow_schema.field(name).type if name in FEATURES else None
    try:
        pa.array([row.get(name)], type=column)
    except _UNKEPT as error:
        text = " ".join(str(error).split())
        raise DataError(f"{source}: row {row.get('id')!r}: `{name}` can not be kept ({text})") from None


def with_target(row: Row, target: str) -> dict[str, Any]:
    """The row with another text to learn, which is the whole answer."""
    return {**row, "target": target, "prefill": None}


def split_mask(mask: str) -> list[str | None] | None:
    """
    The masks of the objects in a frame, out of an entry of `masks` that lists them.

    Args:
        mask (`str`): the entry.

    Returns:
        `list` or `None`: per object a path, or JSON, or None for an empty mask; None where the entry is a single mask.

    Raises:
        `DataError`: where it is a list, and not of masks.
    """
    if not (mask.startswith("[") and mask.endswith("]")):
        return None
    try:
        masks = parse_json(mask)
    except ValueError as error:
        raise DataError(f"not a list of masks: {mask[:60]!r} ({error})") from None
    wrong = next((item for item in masks if not isinstance(item, str | dict | None)), None)
    if wrong is not None or not masks:
        raise DataError(f"not a list of masks: {mask[:60]!r}; it holds paths, mappings or null, one for each object")
    return [json.dumps(item) if isinstance(item, dict) else item for item in masks]


def count_objects(row: Row) -> int:
    """
    How many objects a row's reference is about.

    Raises:
        `DataError`: where frames list the masks of more or fewer, or `num_objects` says another number.
    """
    listed = [split_mask(mask) for mask in row.get("masks") or () if mask is not None]
    counts = {0 if objects is None else len(objects) for objects in listed} - ({0} if not any(listed) else set())
    said = row.get("num_objects")
    if said is not None and said < 1:
        raise DataError(f"row {row.get('id')!r}: `num_objects` is {said}; where nothing matches, set `is_null` alone")
    if len(counts) > 1:
        raise DataError(
            f"row {row.get('id')!r}: not every annotated frame lists the masks of the same objects; give one for each "
            "object in each of these frames, null where it is not in the frame"
        )
    found = next(iter(counts), None)
    if found is not None and said is not None and found != said:
        raise DataError(f"row {row.get('id')!r}: `num_objects` is {said}, and its frames list the masks of {found}")
    return 1 if row.get("is_null") else said or found or 1


def require_few_objects(rows: Iterable[Row], max_objects: int) -> None:
    """Raise `DataError` where a row is about more objects than an answer may have."""
    for row in rows:
        count = count_objects(row)
        if count > max_objects:
            raise DataError(
                f"row {row.get('id')!r}: it is about {count} objects, and `max_objects` is {max_objects}; raise it, "
                "or give one mask per frame for all of them together, and no `num_objects`"
            )


def require_text_references(rows: Iterable[Row], what: str) -> None:
    """
    Raise `DataError` where a reference is spoken, or goes with a sound or a picture.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        what (`str`): what can not take it, for the error.
    """
    for row in rows:
        name = next((name for name in REFERENCE_MEDIA if row.get(name)), None)
        if name is not None:
            raise DataError(
                f"row {row.get('id')!r}: it has a `{name}`, and {what} takes references of text alone; leave such "
                "rows out (of OmniAVS, `dataset_subset: text` has none)"
            )


def kind_fault(row: Row) -> str | None:
    """What is wrong with the kind of a row's value, such as text in place of a number; None where nothing is."""
    for name in (*COLUMNS, *OPTIONAL_COLUMNS):
        value, kinds = row.get(name), _KINDS.get(name, (str,))
        if name == "is_null" and value not in (None, True, False):
            return f"`is_null` is {_shortened(value)}; it must be true or false, without quotes"
        # A bool is an int to Python, and no number to whoever wrote it.
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            return f"`{name}` is {type(value).__name__}, not {kinds[0].__name__}"
        items = _ITEMS.get(name)
        wrong = [] if items is None else [item for item in row.get(name) or () if not isinstance(item, items)]
        if items is not None and wrong:
            return f"`{name}` holds {_shortened(wrong[0])}, not {items[0].__name__}"
    return None


def require_kinds(dataset: Dataset, name: str) -> None:
    """
    Raise `DataError` where a dataset has a column of another kind than rows have, or an empty reference. Datasets that
    this package loads have the kinds of this file; of others each row is looked at.

    Args:
        dataset (`Dataset`): rows.
        name (`str`): what it is, for the error.
    """
    if "reference" not in dataset.column_names:
        raise DataError(f"`{name}` has no column `reference`: each row needs a sentence about its object")
    taken = next((column for column in dataset.column_names if column in TAKEN), None)
    if taken is not None:
        raise DataError(f"`{name}`: `{taken}` is what the trainer gives to rewards; call the column something else")
    kinds = {**FEATURES, **OPTIONAL_FEATURES}
    known = {column: dataset.features[column] for column in kinds if column in dataset.column_names}
    for column, kind in known.items():
        while isinstance(kind, List | LargeList):
            kind = kind.feature
        if not isinstance(kind, Value):
            raise DataError(
                f"`{name}`: its column `{column}` is of {type(kind).__name__}; a row names files by their paths, and "
                "a mask that is no file as text, see `aurora_trl.data.masks.encode_rle`"
            )
    odd = any(kind != kinds[column] and getattr(kind, "dtype", None) != "null" for column, kind in known.items())
    if odd or any(column in known for column in HINTS):
        for row in dataset.select_columns(list(known)):
            check_row(row)
    elif not all(map(is_sentence, dataset["reference"])):
        number = next(n for n, text in enumerate(dataset["reference"]) if not is_sentence(text))
        check_row(dataset.select_columns(list(known))[number])


def is_sentence(text: str | None) -> bool:
    """Whether a text holds anything that is seen: neither spaces alone, nor marks without a width."""
    return any(character.isprintable() and not character.isspace() for character in text or "")


def _shortened(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def require_references(rows: Iterable[Row]) -> None:
    """Raise `DataError` where a row asks for nothing."""
    for row in rows:
        if not is_sentence(row.get("reference")):
            raise DataError(f"row {row.get('id')!r}: the reference is empty; remove the row or write its reference")


def check_row(row: Row) -> None:
    """Raise `DataError` where a row can not be used, whatever its files hold."""
    fault = kind_fault(row)
    if fault is not None:
        raise DataError(f"row {row.get('id')!r}: {fault}")
    require_references([row])
    if not row.get("frames") and not row.get("video"):
        raise DataError(f"row {row.get('id')!r}: it has neither `frames` nor `video`")
    masks, frames, number = row.get("masks"), row.get("frames"), row.get("mask_value")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        raise DataError(
            f"row {row.get('id')!r}: `mask_value` is {number!r}; it must be the number that the object has in its "
            "masks, 1 or more: 0 is the background"
        )
    if number is not None and not masks and not row.get("is_null"):
        raise DataError(f"row {row.get('id')!r}: it has a `mask_value` and no `masks` to look for it in")
    if masks and frames and len(masks) != len(frames):
        raise DataError(f"row {row.get('id')!r}: {len(masks)} masks for {len(frames)} frames; give one per frame")
    around = row.get("foreground_masks")
    if around and frames and len(around) != len(frames):
        raise DataError(f"row {row.get('id')!r}: {len(around)} `foreground_masks` for {len(frames)} frames")
    check_hints(row)
    count_objects(row)
