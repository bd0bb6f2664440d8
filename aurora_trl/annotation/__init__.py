"""Reasoning text for training: written, mined from a model's mistakes, corrected, and mixed.

It may import `evaluation`, and what stands below; no trainer.
"""

from .annotators import Annotator, ChatAnnotator, WorldAnnotator, get_annotator
from .correction import correct_file, correct_rows
from .cot import annotate_file, annotate_rows
from .engine import Annotation
from .limits import RunLimits
from .mining import mine_file, mine_rows
from .reflection import build_reflective_rows

__all__ = [
    "Annotation",
    "Annotator",
    "ChatAnnotator",
    "RunLimits",
    "WorldAnnotator",
    "annotate_file",
    "annotate_rows",
    "build_reflective_rows",
    "correct_file",
    "correct_rows",
    "get_annotator",
    "mine_file",
    "mine_rows",
]
