"""VideoLLaMA2.1-AV."""

from .configuration_videollama2 import BeatsConfig, VideoLlama2Config
from .modeling_videollama2 import VideoLlama2ForConditionalGeneration, VideoLlama2Model
from .processing_videollama2 import VideoLlama2Processor

__all__ = [
    "BeatsConfig",
    "VideoLlama2Config",
    "VideoLlama2ForConditionalGeneration",
    "VideoLlama2Model",
    "VideoLlama2Processor",
]
