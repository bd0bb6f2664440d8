"""Segmentation scores, by the rules of each benchmark that uses them."""

from .frames import boundary_f, f_curves, f_score, jaccard
from .protocols import PROTOCOLS, Protocol, get_protocol
from .segmentation import SegmentationMetrics
from .semantic import SemanticMetrics

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "SegmentationMetrics",
    "SemanticMetrics",
    "boundary_f",
    "f_curves",
    "f_score",
    "get_protocol",
    "jaccard",
]
