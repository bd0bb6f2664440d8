"""The audio-visual language models that this library brings along; importing them registers their classes."""

from . import videollama2

__all__ = ["videollama2"]
