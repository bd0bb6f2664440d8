"""Models. Importing this package registers them with the Auto classes of transformers."""

from . import policies
from .configuration_aurora import AuroraConfig, SamConfig
from .mask_decoders import SamMaskDecoder
from .modeling_aurora import AuroraModel
from .processing_aurora import AuroraProcessor

__all__ = ["AuroraConfig", "AuroraModel", "AuroraProcessor", "SamConfig", "SamMaskDecoder", "policies"]
