"""The `aurora` command. Heavy imports stand inside the sub-commands, so that `aurora --help` answers at once."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..disk import NEW_FOLDER, naming
from ..environment import installed_versions
from ..foreign_warnings import leave_out_foreign_warnings
from ..locks import LOCK_FILE, release
from ..shell_paths import expand_home
from ..version import __version__
from .annotation import add_annotation_commands
from .app import add_app_commands
from .chain import add_chain_commands
from .common import OneLineParser, say
from .data import add_data_commands
from .inference import add_inference_commands
from .models import add_model_commands


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a sub-command.

    Args:
        argv (`Sequence[str]`, *optional*): arguments; those of the process by default.

    Returns:
        `int`: the exit code: 0, or 1 after one line on stderr that says what is wrong.

    Raises:
        `SystemExit`: with code 2 and such a line for a flag that is wrong, with 0 after `--help`.
    """
    leave_out_foreign_warnings()
    # A shell leaves `--output=~/there` as it is.
    words = [expand_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    arguments = build_parser().parse_args(words)
    output = getattr(arguments, "output", None)
    try:
        # Commands that write a file say by themselves how they continue.
        with naming(output, NEW_FOLDER) if output else nullcontext():
            arguments.run(arguments)
    except (ValueError, OSError) as error:  # `DataError` is a `ValueError`
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command continues\n")
        return 130
    finally:
        if output is not None:
            release(Path(output, LOCK_FILE))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser with all sub-commands."""
    parser = OneLineParser(prog="aurora", description="Train models to reason about a clip and segment it.")
    parser.add_argument("--version", action="version", version=f"aurora_trl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], None], text: str, **settings: Any
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, **settings)
        command.set_defaults(run=run, parser=parser)  # a dry run reads the commands of a chain with it
        return command

    add("env", _env, "Print the versions that a bug report needs.")
    for add_commands in (
        add_model_commands,
        add_chain_commands,
        add_inference_commands,
        add_data_commands,
        add_annotation_commands,
        add_app_commands,
    ):
        add_commands(add)
    return parser


def _env(arguments: argparse.Namespace) -> None:
    say(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    for name, version in installed_versions().items():
        say(f"{name} {version or 'is not installed'}")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    say(f"GPUs: {', '.join(devices) or 'none'}")
