"""The flags that a recipe is started with, and the names that it knows."""

import argparse
import difflib
from collections.abc import Collection


def given_flags(argv: list[str], names: Collection[str]) -> list[str]:
    """
    The options that flags set: `--no_X` and `--no-X` set `X`, as argparse has it.

    Args:
        argv (`list[str]`): of a recipe.
        names (`Collection[str]`): of its options.

    Returns:
        `list[str]`: names of options; of a flag that is none of them what it is called.
    """
    given = [word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")]
    return [name[3:] if name.startswith("no_") and name not in names and name[3:] in names else name for name in given]


def require_known_flags(argv: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise `ValueError` for the first flag that a parser does not have, and name one that is close."""
    known = {flag for action in parser._actions for flag in action.option_strings} | {"--config"}
    unknown = next(
        (word.split("=")[0] for word in argv if word.startswith("--") and word.split("=")[0] not in known), ""
    )
    if unknown:
        hint = did_you_mean(unknown, known) or "; --help lists what there is"
        raise ValueError(f"unknown flag `{unknown}`{hint}")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """What to say behind an unknown name: the one that is close to it, if there is one."""
    longer = sorted(other for other in known if other.startswith(name))
    close = longer[:1] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
