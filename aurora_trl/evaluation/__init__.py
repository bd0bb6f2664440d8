"""Official scores, what a model listens to, and the report of a chain.

It may import `generation`, and what stands below; the trainers and mining take their IoU from here.
"""

from .metrics import SegmentationMetrics

__all__ = ["SegmentationMetrics"]
