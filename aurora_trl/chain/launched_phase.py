"""`aurora sft` and `aurora grpo`: a phase through accelerate's launcher, whose failures say no more than the phase."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError
from typing import NoReturn

import torch
from accelerate.commands.config.config_args import default_config_file
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from trl import TrlParser

from ..training.arguments import LoraArguments, RecipeArguments, parse_recipe
from ..training.grpo_config import AuroraGRPOConfig
from ..training.sft_config import AuroraSFTConfig
from .child_process import ending_together
from .recipe_files import recipe_script, recipes_folder

_CONFIGS: dict[str, type] = {"sft": AuroraSFTConfig, "grpo": AuroraGRPOConfig}


def launch_phase(method: str, words: Sequence[str]) -> int:
    """
    Run a phase as `trl sft` and `trl grpo` do: flags of the phase and flags of `accelerate launch`, in any order.

    Args:
        method (`str`): `"sft"` or `"grpo"`.
        words (`Sequence[str]`): what follows the command's name. `--accelerate_config` names a file, or one of ours
            (`zero2`); a flag that both have belongs to the phase.

    Returns:
        `int`: the exit code of the phase, which has said what is wrong where it is not 0.

    Raises:
        `SystemExit`: with code 1 and one line where the phase's own flags or its YAML are wrong. Nothing was started.
        `ValueError`: where the launcher's are.
    """
    phase_words, launch_words = divide_words(method, list(words))
    with _unchanged_environment():
        # This process trains nothing: it must not take a GPU's memory for a look at the settings.
        parse_recipe(_classes(method), [*phase_words, "--use_cpu", "true"])
    parser = launch_command_parser()
    parser.error = _raise  # type: ignore[method-assign]  # it would list all its flags first
    arguments = parser.parse_args([*_with_defaults(launch_words), str(recipe_script(method)), *phase_words])
    # torchrun logs each process that failed; the phase has said why.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with ending_together():
            launch_command(arguments)
    except CalledProcessError as error:
        return _exit_code(error.returncode)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    return 0


def print_help(method: str) -> None:
    """Print all flags of a phase."""
    parser = TrlParser(_classes(method), prog=f"aurora {method}")
    parser.epilog = (
        "It also takes the flags of `accelerate launch`, such as --num_processes 2, and --accelerate_config with a "
        "file or one of " + ", ".join(_accelerate_configs()) + "."
    )
    parser.print_help()


def _classes(method: str) -> tuple[type, ...]:
    return (RecipeArguments, LoraArguments, _CONFIGS[method])


def divide_words(method: str, words: list[str]) -> tuple[list[str], list[str]]:
    """
    The words of a phase and those of the launcher.

    Args:
        method (`str`): `"sft"` or `"grpo"`.
        words (`list[str]`): in any order; what the phase does not know is the launcher's.

    Raises:
        `ValueError`: for a value that no flag of the phase can have.
    """
    parser = TrlParser(_classes(method), prog=f"aurora {method}", allow_abbrev=False)
    parser.error = _raise  # type: ignore[method-assign]
    parser.add_argument("--config")
    for action in parser._actions:
        action.required = False  # the YAML may hold it
    _, others = parser.parse_known_args(words)
    phase_words, left = [], list(others)
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            phase_words.append(word)
    return phase_words, _with_our_config(others)


def _accelerate_configs() -> dict[str, Path]:
    return {path.stem: path for path in sorted((recipes_folder() / "accelerate").glob("*.yaml"))}


def _with_our_config(words: list[str]) -> list[str]:
    """`--accelerate_config NAME` as the launcher's `--config_file FILE`."""
    words = [part for word in words for part in _split_flag(word, "--accelerate_config")]
    if "--accelerate_config" not in words:
        return words
    place = words.index("--accelerate_config")
    name = words[place + 1] if place + 1 < len(words) else ""
    known = _accelerate_configs()
    if name not in known and not Path(name).is_file():
        raise ValueError(f"--accelerate_config {name!r}: no such file; name one, or one of {', '.join(known)}")
    return [*words[:place], "--config_file", str(known.get(name, name)), *words[place + 2 :]]


def _split_flag(word: str, flag: str) -> list[str]:
    return word.split("=", 1) if word.startswith(f"{flag}=") else [word]


def _with_defaults(words: list[str]) -> list[str]:
    """What accelerate would choose, said beforehand: it warns of each value that it had to choose."""
    named = {word.split("=")[0] for word in words}
    if "--config_file" in named or Path(default_config_file).is_file():
        return words
    gpus = torch.cuda.device_count()
    defaults = {"--num_processes": str(max(gpus, 1)), "--num_machines": "1"}
    defaults |= {"--mixed_precision": "no", "--dynamo_backend": "no"}
    if gpus > 1 and not named & {"--num_processes", "--cpu", "--multi_gpu"}:
        words = ["--multi_gpu", *words]
    return [*words, *(part for flag, value in defaults.items() if flag not in named for part in (flag, value))]


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """A config that is made leaves variables that a launch would inherit, and warnings that the phase repeats."""
    before = dict(os.environ)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def _exit_code(code: int) -> int:
    """As a shell has it: 128 and the number of the signal that ended a process."""
    return code if code > 0 else 128 - code


def _raise(message: str) -> NoReturn:
    raise ValueError(message)
