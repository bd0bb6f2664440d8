"""A word about clips that have fewer frames than the model takes."""

from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset

from ..data.validation import describe_short_clips

logger = get_logger(__name__)

# The packets of a video are listed to count its frames: of a large dataset the first ones speak for all.
_COUNTED_VIDEOS = 100


def warn_of_short_clips(rows: Any, num_frames: int) -> None:
    """
    Say how many clips are filled up with black frames, and which flag mends it.

    Args:
        rows (`Dataset`): dataset rows; nothing is said of what is none.
        num_frames (`int`): frames that the model takes.
    """
    if isinstance(rows, Dataset) and {"frames", "video"} <= set(rows.column_names):
        note = describe_short_clips(rows.select_columns(["frames", "video"]), num_frames, max_videos=_COUNTED_VIDEOS)
        if note is not None:
            logger.warning(note)
