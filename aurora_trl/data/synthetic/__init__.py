"""The synthetic world: clips drawn to disk in the official Ref-AVS layout, by something that knows the truth of each."""

from .write import read_world, write_world

__all__ = ["read_world", "write_world"]
