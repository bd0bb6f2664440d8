"""Reasoning text for training: written, mined from a model's mistakes, corrected, and mixed."""

from .annotators import Annotator, get_annotator
from .correction import correct_rows
from .cot import annotate_rows
from .mining import mine_hard_rows
from .reflection import build_reflective_rows

__all__ = [
    "Annotator",
    "annotate_rows",
    "build_reflective_rows",
    "correct_rows",
    "get_annotator",
    "mine_hard_rows",
]
