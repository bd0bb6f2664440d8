"""Models. Importing this package registers them with the Auto classes of transformers."""

from . import policies
from .configuration_aurora import AuroraConfig, SamConfig
from .loading import load_published
from .mask_decoders import Sam2MaskConfig, Sam2MaskDecoder, SamMaskDecoder
from .modeling_aurora import AuroraModel
from .processing_aurora import AuroraProcessor

__all__ = [
    "AuroraConfig",
    "AuroraModel",
    "AuroraProcessor",
    "Sam2MaskConfig",
    "Sam2MaskDecoder",
    "SamConfig",
    "SamMaskDecoder",
    "load_published",
    "policies",
]
