"""What the files of the `aurora` command share."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..disk import naming
from ..locks import LOCK_FILE, hold

if TYPE_CHECKING:
    from ..generation.choosing import Choosing

LIMIT_HELP = "longest answer in tokens (default: a quarter more than the model was trained to write)"


class AddCommand(Protocol):
    """Adds a sub-command by name, function and text; settings of its parser by name."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], text: str, **settings: Any
    ) -> argparse.ArgumentParser: ...


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)


class OneLineParser(argparse.ArgumentParser):
    """argparse, whose errors come without the list of all flags before them."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.prog}: {message}; `{self.prog} --help` says what it takes\n")


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """The type of a flag that takes whole numbers in a range, both ends included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < lowest or (highest is not None and value > highest):
            most = "" if highest is None else f" and at most {highest}"
            raise argparse.ArgumentTypeError(f"must be at least {lowest}{most}, got {text}")
        return value

    return parse


def number(lowest: float, highest: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """The type of a flag that takes numbers in a range: both ends included, or above the lowest alone."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        # What is no number (nan) is in no range.
        if not lowest <= value <= highest or not math.isfinite(value) or (above and value == lowest):
            most = "" if highest == math.inf else f" and at most {highest:g}"
            raise argparse.ArgumentTypeError(
                f"must be {'above' if above else 'at least'} {lowest:g}{most}, got {text}"
            )
        return value

    return parse


# What torch and numpy both take.
seed = whole(0, 2**32 - 1)


def claim(folder: Path) -> None:
    """`require_new`, for this command alone until it ends; `DataError` where another run is writing the folder."""
    require_new(folder)
    with naming(folder):
        hold(folder / LOCK_FILE)
    require_new(folder)  # another may have ended just now


def require_new(folder: Path) -> None:
    """Raise `ValueError` where a folder holds anything, or can not be made: what takes hours is written at its end."""
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK_FILE for path in folder.iterdir())):
        raise ValueError(f"{folder}: exists already; name a new folder or remove it")
    require_place(folder)


def require_place(path: Path) -> None:
    """Raise `ValueError` where nothing can be written at a path, which need not exist."""
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists() and folder != path)
    if not parent.is_dir():
        raise ValueError(f"{path}: {parent} is a file, and no folder; name another --output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: the folder {parent} can not be written to; name another --output")


def require_file_place(path: Path) -> None:
    """Raise `ValueError` where no file can be written at a path, which need not exist."""
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name a file, such as {path / 'rows.jsonl'}")
    require_place(path)


def add_format(command: argparse.ArgumentParser) -> None:
    """Add the flags of a dataset's format."""
    command.add_argument(
        "--format",
        help="refavs, r2avsbench, avsbench, omniavs, refytvos, refdavis, mevis, revos, refcoco, reasonseg, json, or "
        "parquet, which is also for a Hub repository (default: what the files show)",
    )
    command.add_argument(
        "--subset", help="of AVSBench s4, ms3, avss; of RefCOCO unc, google, umd; of OmniAVS such as text"
    )
    command.add_argument(
        "--objects",
        default="together",
        help="of MeViS, ReVOS and OmniAVS: several objects of a reference together (default), or apart",
    )


def add_generation(command: argparse.ArgumentParser) -> None:
    """Add the flags of generation."""
    command.add_argument("--batch-size", type=whole(1), default=16, help="(default: 16)")
    command.add_argument("--max-new-tokens", type=whole(1), help=LIMIT_HELP)
    add_engine(command)


def add_engine(command: argparse.ArgumentParser) -> None:
    """Add the flag of what samples."""
    command.add_argument(
        "--engine",
        choices=("auto", "eager", "compiled"),
        default="auto",
        help="what samples: transformers' loop, or one compiled step per token (default: the latter on a GPU)",
    )


# Flags of a choice, and the one that each of them goes with.
_CHOICE_FLAGS = {"choose": "num_answers", "check": "retries", "threshold": "retries"}


def add_choosing(command: argparse.ArgumentParser) -> None:
    """Add the flags by which an answer is chosen out of several; `read_choosing` reads them."""
    command.add_argument(
        "--num-answers", type=whole(1), default=1, help="sample so many answers and keep one (default: 1, not sampled)"
    )
    command.add_argument(
        "--choose",
        choices=("quality", "vote"),
        help="of several answers: the one whose masks the mask decoder scores highest (default), or what most of "
        "them draw",
    )
    command.add_argument(
        "--retries", type=whole(0), default=0, help="check the answer, and sample another one at most so often"
    )
    command.add_argument(
        "--check",
        choices=("policy", "quality"),
        help="of --retries: show the model its mask and ask whether it fits (default), or take the decoder's score",
    )
    command.add_argument(
        "--threshold", type=number(0, 1), help="of --retries: a score below it is a no (default: 0.5)"
    )
    command.add_argument("--temperature", type=number(0, above=True), help="of what is sampled (default: 1)")
    command.add_argument("--seed", type=seed, help="of what is sampled (default: 0)")


def read_choosing(arguments: argparse.Namespace) -> "Choosing | None":
    """
    What the flags of `add_choosing` ask for; None for one answer that is not sampled.

    Raises:
        `ValueError`: for a flag without effect, and for both ways at once.
    """
    from ..generation.choosing import Choosing

    given = {name: getattr(arguments, name) for name in (*_CHOICE_FLAGS, "temperature", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    on = {"num_answers": arguments.num_answers > 1, "retries": arguments.retries > 0}
    if all(on.values()):
        raise ValueError("--num-answers samples several answers at once, --retries one after the other: name one")
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        if name in _CHOICE_FLAGS and not on[_CHOICE_FLAGS[name]]:
            partner = "--num-answers above 1" if _CHOICE_FLAGS[name] == "num_answers" else "--retries"
            raise ValueError(f"{flag} goes with {partner}")
        if not any(on.values()):
            raise ValueError(f"{flag} is about answers that are sampled: add --num-answers above 1, or --retries")
    if not any(on.values()):
        return None
    by = {"by": given.pop("choose")} if "choose" in given else {}
    return Choosing(num_answers=arguments.num_answers, retries=arguments.retries, **by, **given)
