"""Mask decoders behind one interface: `encode(frames) -> embeddings`, `decode(embeddings, prompts) -> logits`."""

from typing import Any

from ..configuration_aurora import SamConfig
from .base import MaskDecoderBase
from .sam import BatchedMaskDecoder, SamMaskDecoder
from .sam2 import Sam2MaskConfig, Sam2MaskDecoder
from .sam2_video import ClipMemory, Sam2VideoMaskConfig, Sam2VideoMaskDecoder
from .sam3 import Sam3MaskConfig, Sam3MaskDecoder, Sam3VideoMaskConfig, Sam3VideoMaskDecoder
from .sam3_concept import ConceptPrompts, Sam3ConceptConfig, Sam3ConceptMaskDecoder

# By the class of their config, whose `model_type` is what a checkpoint's `config.json` names.
_DECODERS: dict[type, type[MaskDecoderBase]] = {
    SamConfig: SamMaskDecoder,
    Sam2MaskConfig: Sam2MaskDecoder,
    Sam2VideoMaskConfig: Sam2VideoMaskDecoder,
    Sam3ConceptConfig: Sam3ConceptMaskDecoder,
    Sam3MaskConfig: Sam3MaskDecoder,
    Sam3VideoMaskConfig: Sam3VideoMaskDecoder,
}


def register_mask_decoder(config_class: type, decoder_class: type[MaskDecoderBase]) -> None:
    """
    Let an [`AuroraModel`] be built with another mask decoder.

    Args:
        config_class (`type`): a `PretrainedConfig` that is registered with `AutoConfig`.
        decoder_class (`type`): takes an instance of it.
    """
    _DECODERS[config_class] = decoder_class


def build_mask_decoder(config: Any) -> MaskDecoderBase:
    """
    A mask decoder with new weights.

    Raises:
        `ValueError`: for a config that no decoder is registered for.
    """
    if type(config) not in _DECODERS:
        known = ", ".join(sorted(cls.__name__ for cls in _DECODERS))
        raise ValueError(f"no mask decoder is registered for {type(config).__name__}; there are ones for {known}")
    return _DECODERS[type(config)](config)


__all__ = [
    "BatchedMaskDecoder",
    "ClipMemory",
    "ConceptPrompts",
    "MaskDecoderBase",
    "Sam2MaskConfig",
    "Sam2MaskDecoder",
    "Sam2VideoMaskConfig",
    "Sam2VideoMaskDecoder",
    "Sam3ConceptConfig",
    "Sam3ConceptMaskDecoder",
    "Sam3MaskConfig",
    "Sam3MaskDecoder",
    "Sam3VideoMaskConfig",
    "Sam3VideoMaskDecoder",
    "SamMaskDecoder",
    "build_mask_decoder",
    "register_mask_decoder",
]
