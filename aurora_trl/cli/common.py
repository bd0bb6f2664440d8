"""What the files of the `aurora` command share."""

import argparse
from collections.abc import Callable
from pathlib import Path

LIMIT_HELP = "longest answer in tokens (default: a quarter more than the model was trained to write)"
AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)


def require_new(folder: Path) -> None:
    """Raise `ValueError` where a folder holds anything: nothing is written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; name a new folder or remove it")


def add_format(command: argparse.ArgumentParser) -> None:
    """Add the flags of a dataset's format."""
    command.add_argument(
        "--format",
        help="refavs, avsbench, reasonseg, json, or parquet, which is also for a Hub repository (default: what the "
        "files show)",
    )
    command.add_argument("--subset", help="of AVSBench: s4, ms3, avss")


def add_generation(command: argparse.ArgumentParser) -> None:
    """Add the flags of generation."""
    command.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    command.add_argument("--max-new-tokens", type=int, help=LIMIT_HELP)
