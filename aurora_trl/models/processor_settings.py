"""What a processor's settings may be."""

from typing import Any

from ..prompts import SEG_TOKEN
from .configuration_aurora import MASK_SOURCES, require_seg_source


def check_settings(processor: Any) -> None:
    """
    Raise `ValueError` where a setting is out of range, or two do not go together.

    Args:
        processor (`AuroraProcessor`): with its settings.
    """
    needed = ("mask_image_size", "mask_target_size", "num_frames", "max_objects")
    for name in (*needed, "policy_frames", "max_answer_tokens"):
        value = getattr(processor, name)
        if not (isinstance(value, int) and value >= 1) and (name in needed or value is not None):
            raise ValueError(f"`{name}` must be at least 1, got {value!r}")
    for name, lowest in (("pixel_mean", float("-inf")), ("pixel_std", 0.0)):
        values = getattr(processor, name)
        if len(values) != 3 or not all(isinstance(value, (int, float)) and value > lowest for value in values):
            raise ValueError(f"`{name}` must be 3 numbers{' above 0' * (lowest == 0)}, got {values}")
    if processor.mask_source not in MASK_SOURCES:
        raise ValueError(f"`mask_source` must be one of {', '.join(MASK_SOURCES)}, got {processor.mask_source!r}")
    if processor.mask_source == "both" and processor.max_objects > 1:
        raise ValueError(
            f"`mask_source: both` draws one object, and `max_objects` is {processor.max_objects}: leave one of the "
            "two out"
        )
    require_seg_source(processor.seg_source, processor.num_queries)
    if processor.seg_source == "queries" and processor.max_objects > 1:
        raise ValueError(
            f"`seg_source: queries` draws one object, and `max_objects` is {processor.max_objects}: leave one of the "
            "two out"
        )
    try:
        shown = processor.instruction.format(reference=SEG_TOKEN)
    except (AttributeError, LookupError, ValueError):
        shown = ""
    if SEG_TOKEN not in shown:
        raise ValueError(f"`instruction` must be a text with the place {{reference}}, got {processor.instruction!r}")
    if processor.seg_source == "queries" and SEG_TOKEN in processor.instruction:
        raise ValueError(
            f"`seg_source: queries` keeps {SEG_TOKEN} out of texts, and `instruction` names it: reword it"
        )
