"""The models that this library brings along; importing them registers their classes. `base.py` is the contract."""

from . import qwen, videollama2

__all__ = ["qwen", "videollama2"]
