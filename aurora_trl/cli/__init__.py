"""The `aurora` command: one file per trade, each with its sub-commands.

It may import every room, inside the functions that need it: the parser knows no implementation, and answers at once.
"""

from .main import build_parser, main

__all__ = ["build_parser", "main"]
