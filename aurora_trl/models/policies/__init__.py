"""The models that this library brings along; importing them registers their classes. `base.py` is the contract."""

from . import qwen, text_encoder, videollama2, videollama3

__all__ = ["qwen", "text_encoder", "videollama2", "videollama3"]
