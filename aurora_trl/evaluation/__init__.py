"""Official scores, what a model listens to, and the report of a chain."""

from .metrics import SegmentationMetrics

__all__ = ["SegmentationMetrics"]
