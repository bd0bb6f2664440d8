"""The composite model and its processor: a policy, a projector, a mask decoder; and their checkpoints.

Importing this package registers them with the Auto classes of transformers. It may import `data`.
"""

from . import policies
from .checkpoints.from_parts import load_published
from .configuration_aurora import AuroraConfig, SamConfig
from .mask_decoders import (
    ClipMemory,
    ConceptPrompts,
    Sam2MaskConfig,
    Sam2MaskDecoder,
    Sam2VideoMaskConfig,
    Sam2VideoMaskDecoder,
    Sam3ConceptConfig,
    Sam3ConceptMaskDecoder,
    Sam3MaskConfig,
    Sam3MaskDecoder,
    Sam3VideoMaskConfig,
    Sam3VideoMaskDecoder,
    SamMaskDecoder,
)
from .modeling_aurora import AuroraModel
from .processing_aurora import AuroraProcessor

__all__ = [
    "AuroraConfig",
    "AuroraModel",
    "AuroraProcessor",
    "ClipMemory",
    "ConceptPrompts",
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
    "SamConfig",
    "SamMaskDecoder",
    "load_published",
    "policies",
]
