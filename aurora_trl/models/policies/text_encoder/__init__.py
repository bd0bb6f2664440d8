"""A text encoder in the policy's place: what the reference alone is worth (AURORA, table 2, without MLLM)."""

from .modeling_text_encoder import TextEncoderConfig, TextEncoderForConditionalGeneration, TextEncoderModel
from .processing_text_encoder import TextEncoderProcessor, chat_template

__all__ = [
    "TextEncoderConfig",
    "TextEncoderForConditionalGeneration",
    "TextEncoderModel",
    "TextEncoderProcessor",
    "chat_template",
]
