"""Frames and sound of a row: reading them, and checking files by their headers.

It may import the row's schema, and no dataset's format.
"""

from .loading import load_audio, load_frames

__all__ = ["load_audio", "load_frames"]
