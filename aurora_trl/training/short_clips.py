"""A word about clips and references of which the model takes more, or less, than there is."""

from collections.abc import Iterable
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset

from ..data.schema import REFERENCE_MEDIA
from ..data.validation import describe_short_clips
from ..models.processing_aurora import AuroraProcessor
from ..models.reference_places import require_taken

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


def warn_of_unheard_sound(rows: Any, policy_processor: Any) -> None:
    """
    Say how many rows have sound where the policy does not hear.

    Args:
        rows (`Dataset`): dataset rows; nothing is said of what is none.
        policy_processor (`ProcessorMixin`): of the policy.
    """
    if policy_processor.sampling_rate is None and isinstance(rows, Dataset) and "audio" in rows.column_names:
        count = sum(path is not None for path in rows["audio"])
        if count:
            name = type(policy_processor).__name__.removesuffix("Processor")
            logger.warning(f"{name} does not hear: the sound of {count} of {len(rows)} rows is not read")


def require_taken_references(datasets: Iterable[Any], processor: AuroraProcessor) -> None:
    """Raise `DataError` for a row whose reference the policy can not take; those of a stream are looked at later."""
    for dataset in datasets:
        columns = [name for name in REFERENCE_MEDIA if name in (dataset.column_names or ())]
        if columns and isinstance(dataset, Dataset):
            require_taken(dataset.select_columns(["id", *columns]), processor)
