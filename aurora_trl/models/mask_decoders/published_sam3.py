"""SAM 3 from a published folder, which holds a detector, a text encoder and a tracker: one of the two draws."""

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Sam3Config, Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel

from ...errors import DataError
from ..checkpoints.weight_files import build_from_weights
from .sam2 import add_shared_table
from .sam2_video import MEMORY_WEIGHTS, ClipMemory
from .sam3 import USED_LEVELS, Sam3MaskConfig, Sam3MaskDecoder, Sam3VideoMaskConfig, Sam3VideoMaskDecoder
from .sam3_concept import ConceptPrompts, Sam3ConceptConfig, Sam3ConceptMaskDecoder, Sam3ConceptModel

logger = logging.getLogger(__name__)

# Of `facebook/sam3`, which holds all parts. What transformers (5.24) saves as a tracker alone has its prefixes twice.
SAM3_MODEL_TYPE = "sam3_video"
# Where the parts of the tracker lie in the published file. The detector has the image encoder that both share.
_PLACES = {
    "detector_model.vision_encoder.backbone.": "vision_encoder.backbone.",
    "tracker_neck.": "vision_encoder.neck.",
    "tracker_model.": "",
}
_DETECTOR = "detector_model."
# Of the detector's own: what reads texts and boxes.
_OTHER_PROMPTS = re.compile(r"text_encoder\.|text_projection\.|geometry_encoder\.")
_UNUSED_LEVEL = re.compile(rf"vision_encoder\.neck\.fpn_layers\.([{USED_LEVELS}-9]|\d\d+)\.")


def load_sam3(
    folder: Path,
    content: dict[str, Any],
    weights: dict[str, torch.Tensor],
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    memory: ClipMemory | None = None,
) -> Sam3MaskDecoder | Sam3VideoMaskDecoder:
    """
    SAM 3's tracker from a folder in transformers' layout; one line says what of the checkpoint is not used.

    Args:
        folder (`Path`): for messages.
        content (`dict`): of its `config.json`, with the `model_type` of a whole SAM 3.
        weights (`dict[str, torch.Tensor]`): all of its tensors.
        image_size (`int`, *optional*): another input size than the published 1008, in pixels, a multiple of the patch
            size (14): positions are tiled and scaled to it, as in transformers.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.
        memory (`ClipMemory`, *optional*): read and use the memory across frames.

    Raises:
        `DataError`: where the checkpoint is not whole.
        `ValueError`: for an image size or a memory that this model can not have.
    """
    sizes = content.get("tracker_config")
    if not isinstance(sizes, dict):
        raise DataError(f"{folder}: its config has no `tracker_config`; this is not a whole SAM 3")
    tracker, others = split_weights(weights, with_memory=memory is not None)
    how = "frame by frame" if memory is None else "with the memory across frames"
    logger.warning(_unused_line(folder, f"its tracker draws, {how}", others))
    if memory is None:
        parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        image_config = Sam3TrackerConfig(**{name: dict(sizes[name]) for name in parts if name in sizes})
        set_sam3_image_size(image_config, image_size)
        config = Sam3MaskConfig(image_config)
        sam = build_from_weights(Sam3TrackerModel, config.sam_config, tracker, dtype=dtype, source=folder)
        return Sam3MaskDecoder(Sam3MaskConfig(sam.config, attn_implementation=sam.config._attn_implementation), sam)
    video_config = Sam3TrackerVideoConfig.from_dict(sizes)
    # Dropout would let rewards, losses and evaluation see different masks of one prompt.
    video_config.memory_attention_dropout = video_config.memory_attention_rope_dropout = 0.0
    set_sam3_image_size(video_config, image_size)
    # Refuses what does not fit before weights are built.
    settings = asdict(memory)
    video = Sam3VideoMaskConfig(video_config, **settings)
    with_memory = build_from_weights(Sam3TrackerVideoModel, video.sam_config, tracker, dtype=dtype, source=folder)
    attention = with_memory.config._attn_implementation
    video = Sam3VideoMaskConfig(with_memory.config, **settings, attn_implementation=attention)
    return Sam3VideoMaskDecoder(video, with_memory)


def split_weights(
    weights: dict[str, torch.Tensor], *, with_memory: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """
    Args:
        weights (`dict[str, torch.Tensor]`): of a published file.
        with_memory (`bool`): the memory across frames is used.

    Returns:
        `tuple`: the tracker's by the names of its model, and those that are not used, by their names in the file.
    """
    tracker, others = {}, {}
    for name, value in weights.items():
        place = next((place for place in _PLACES if name.startswith(place)), "")
        own = _PLACES.get(place, "") + name.removeprefix(place)
        unused = own.startswith(_DETECTOR) or _UNUSED_LEVEL.match(own)
        if unused or (not with_memory and MEMORY_WEIGHTS.match(own)):
            others[name] = value
        else:
            tracker[own] = value
    add_shared_table(tracker)
    return tracker, others


def load_sam3_concepts(
    folder: Path,
    content: dict[str, Any],
    weights: dict[str, torch.Tensor],
    concepts: ConceptPrompts,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sam3ConceptMaskDecoder:
    """
    SAM 3's detector from a folder in transformers' layout; one line says what of the checkpoint is not used.

    Args:
        concepts (`ConceptPrompts`): how `[SEG]` names what is to be found.
        folder, content, weights, image_size, dtype: as for [`load_sam3`].

    Raises:
        `DataError`: where the checkpoint is not whole.
        `ValueError`: for an image size or a number of objects that this model can not have.
    """
    sizes = content.get("detector_config")
    if not isinstance(sizes, dict):
        raise DataError(f"{folder}: its config has no `detector_config`; this is not a whole SAM 3")
    detector: dict[str, torch.Tensor] = {}
    others: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        own = name.removeprefix(_DETECTOR)
        unused = own == name or _OTHER_PROMPTS.match(own) or _UNUSED_LEVEL.match(own)
        (others if unused else detector)[name if unused else own] = value
    logger.warning(_unused_line(folder, "its detector draws what [SEG] names", others))
    detector_config = Sam3Config(**{name: value for name, value in sizes.items() if name != "model_type"})
    set_sam3_image_size(detector_config, image_size)
    config = Sam3ConceptConfig(detector_config, **asdict(concepts))
    sam = build_from_weights(Sam3ConceptModel, config.sam3_config, detector, dtype=dtype, source=folder)
    attention = sam.config._attn_implementation
    config = Sam3ConceptConfig(sam.config, **asdict(concepts), attn_implementation=attention)
    return Sam3ConceptMaskDecoder(config, sam)


def _unused_line(folder: Path, used: str, others: dict[str, torch.Tensor]) -> str:
    """What of SAM 3 is read and what is not, with the number of parameters."""
    parts = {
        "the text encoder": "detector_model.text_",
        "the boxes' encoder": "detector_model.geometry_encoder.",
        "the detector": "detector_model.detr_",
        "the tracker": "tracker_model.mask_decoder.",
        "the memory": "tracker_model.memory_",
        "the image encoder's coarsest level": "tracker_neck.fpn_layers.3.",
    }
    names = [part for part, prefix in parts.items() if any(name.startswith(prefix) for name in others)]
    if not names:
        return f"{folder}: {used}"
    count = sum(value.numel() for value in others.values())
    *first, last = names
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"{folder}: {used}; not used: {listed} ({count:,} parameters)"


def set_sam3_image_size(config: Any, image_size: int | None) -> None:
    """
    Set the side of the square in all places of a config that know it.

    Args:
        config (`Sam3TrackerConfig`, `Sam3TrackerVideoConfig` or `Sam3Config`): changed in place.
        image_size (`int`, *optional*): in pixels; None leaves it.

    Raises:
        `ValueError`: where the side does not hold whole patches.
    """
    vision = config.vision_config
    patch = vision.backbone_config.patch_size
    if image_size is None:
        return
    if image_size < patch or image_size % patch:
        raise ValueError(f"SAM 3's image size must be a multiple of {patch}, got {image_size}")
    if isinstance(config, Sam3TrackerVideoConfig):
        config.image_size = image_size  # sets it in the parts, too
        return
    vision.image_size = image_size
    if isinstance(config, Sam3TrackerConfig):
        config.prompt_encoder_config.image_size = image_size
    grid = image_size // patch
    vision.backbone_feature_sizes = [[grid * scale] * 2 for scale in (4, 2, 1)]
