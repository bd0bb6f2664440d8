"""What a command that starts processes will run: the words that follow `torchrun` or `accelerate launch`."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from .launch import LaunchConfig, read_launch
from .several_machines import MACHINE_MODULE


@dataclass(frozen=True)
class Launched:
    """
    What a launcher starts.

    Attributes:
        words (`list[str]`): `aurora` or a script, and its arguments.
        launch (`LaunchConfig`): on how many processes, and how.
    """

    words: list[str]
    launch: LaunchConfig


def read_launcher(words: list[str]) -> Launched | None:
    """
    Read a command by the launcher's own parser.

    Args:
        words (`list[str]`): the command.

    Returns:
        `Launched` or `None`: None where it is no launcher's.

    Raises:
        `DataError`: for a flag that the launcher does not know, a script or an accelerate config that is not there.
    """
    if MACHINE_MODULE in words:  # what each of several machines is told
        words = words[words.index(MACHINE_MODULE) + 1 :]
    name = Path(words[0]).name
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        arguments = _parse(name, get_args_parser, words[1:])
        count = str(arguments.nproc_per_node)
        machines = str(arguments.nnodes)
        per_machine = int(count) if count.isdecimal() else 1  # `gpu`, `auto`: known on the machine alone
        launch = LaunchConfig(num_processes=per_machine * (int(machines) if machines.isdecimal() else 1))
        no_python = arguments.no_python
    elif name == "accelerate" and words[1:2] == ["launch"]:
        from accelerate.commands.launch import launch_command_parser

        arguments = _parse("accelerate launch", launch_command_parser, words[2:])
        launch = _read_config(arguments.config_file)
        if arguments.num_processes is not None:
            launch = replace(launch, num_processes=arguments.num_processes)
        no_python = arguments.no_python
    else:
        return None
    script, rest = arguments.training_script, list(arguments.training_script_args)
    if (arguments.module and script == "aurora_trl.cli") or (no_python and Path(script).name == "aurora"):
        return Launched(["aurora", *rest], launch)
    if not arguments.module and not no_python and not Path(script).is_file():
        raise DataError(f"{script}: no such script")
    return Launched([script, *rest], launch)


def _read_config(file: str | None) -> LaunchConfig:
    try:
        return LaunchConfig() if file is None else read_launch(file)
    except DataError as error:
        raise DataError(f"accelerate config: {error}") from None


def _parse(name: str, make_parser: Callable[[], Any], words: list[str]) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return make_parser().parse_args(words)
    except SystemExit:
        message = (said.getvalue().strip().splitlines() or ["it can not be read"])[-1].partition("error: ")
        raise DataError(f"{name}: {message[2] or message[0]}") from None
