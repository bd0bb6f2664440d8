"""What the files of the `aurora` command share."""

import argparse
from collections.abc import Callable

AddFlags = Callable[[argparse.ArgumentParser], None]
AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)
