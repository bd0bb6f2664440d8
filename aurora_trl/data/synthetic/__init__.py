"""The synthetic world: clips drawn to disk in the official Ref-AVS layout, by something that knows their truth."""

from .annotator import SyntheticAnnotator, world_corpus
from .write import read_world, write_world
from .write_s4 import write_s4_world

__all__ = ["SyntheticAnnotator", "read_world", "world_corpus", "write_s4_world", "write_world"]
