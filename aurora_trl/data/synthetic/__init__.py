"""The synthetic world: clips drawn to disk in the official Ref-AVS layout, by something that knows their truth."""

from .annotator import SyntheticAnnotator, world_corpus
from .write import read_world, write_world

__all__ = ["SyntheticAnnotator", "read_world", "world_corpus", "write_world"]
