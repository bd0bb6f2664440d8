"""VideoLLaMA3: images and silent clips, with fewer places where little moves."""

from .configuration_videollama3 import VideoLlama3PolicyConfig
from .modeling_videollama3 import VideoLlama3Backbone, VideoLlama3Policy
from .processing_videollama3 import VideoLlama3PolicyProcessor

__all__ = ["VideoLlama3Backbone", "VideoLlama3Policy", "VideoLlama3PolicyConfig", "VideoLlama3PolicyProcessor"]
