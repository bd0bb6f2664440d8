"""The columns of a dataset row, and the error that names a bad one."""

from typing import Any

from datasets import Features, List, Value

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
        # One per frame: a PNG's path, or a COCO run-length encoding or polygons as JSON; None for a frame that is not
        # annotated, and in place of them all where none is.
        "masks": List(Value("string")),
        "target": Value("string"),  # the text to learn, where the phase has one
    }
)
COLUMNS = tuple(FEATURES)


class DataError(ValueError):
    """Bad input. The message is one line that names the file, row or key and the way out."""


def check_row(row: dict[str, Any]) -> None:
    """Raise `DataError` where a row can not be used, whatever its files hold."""
    if not (row.get("reference") or "").strip():
        raise DataError(f"row {row.get('id')!r}: the reference is empty; remove the row or write its reference")
    if not row.get("frames") and not row.get("video"):
        raise DataError(f"row {row.get('id')!r}: it has neither `frames` nor `video`")
    masks, frames = row.get("masks"), row.get("frames")
    if masks and frames and len(masks) != len(frames):
        raise DataError(f"row {row.get('id')!r}: {len(masks)} masks for {len(frames)} frames; give one per frame")
