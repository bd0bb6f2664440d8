"""How a step of a chain is started on a number of processes, and how they share what it works on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .launch import read_launch
from .step_files import option

# The commands whose processes share the rows.
SHARED_COMMANDS = ("evaluate", "mine", "annotate")


def step_processes(where: str, entry: Mapping[str, Any], num_processes: int | None) -> int | None:
    """
    On how many processes a step runs.

    Args:
        where (`str`): the file and step, for errors.
        entry (`Mapping[str, Any]`): the step's keys; `most_processes` is the most that it can use.
        num_processes (`int` or `None`): processes that there are.

    Returns:
        `int` or `None`: None where its accelerate config says.

    Raises:
        `DataError`: for a `most_processes` that is no number.
    """
    most = entry.get("most_processes")
    if most is None:
        return num_processes
    most = _count(where, entry, "most_processes", 1)
    return None if num_processes is None else min(num_processes, most)


def feature_folder(file: Path, content: Mapping[str, Any], used: Mapping[str, Any]) -> str | None:
    """The chain's `feature_cache` with `{output_dir}` filled in; None where it has none, `DataError` for no folder."""
    folder = content.get("feature_cache")
    if folder is None:
        return None
    try:
        if not isinstance(folder, str) or not folder:
            raise ValueError("no text")
        return folder.format(**used)
    except (ValueError, LookupError):
        raise DataError(
            f"{file}: `feature_cache` must name a folder, in which {{output_dir}} may stand, got {folder!r}"
        ) from None


def share_command(where: str, words: list[str], accelerate: str, num_processes: int | None) -> list[str]:
    """
    A data step's command on several processes.

    Args:
        where (`str`): the file and step, for errors.
        words (`list[str]`): `aurora` and its arguments.
        accelerate (`str`): the accelerate config that says on how many.
        num_processes (`int` or `None`): in place of the config's.

    Returns:
        `list[str]`: the command, under torch's launcher, which works on GPUs and on CPUs.

    Raises:
        `DataError`: for a command that one process runs.
    """
    if words[0] != "aurora" or words[1:2] == [] or words[1] not in SHARED_COMMANDS:
        names = ", ".join(f"`aurora {name}`" for name in SHARED_COMMANDS)
        raise DataError(f"{where}: `accelerate` starts {names} on several processes; leave it out for {words[0]!r}")
    count = num_processes or read_launch(accelerate).num_processes
    if words[1] == "annotate":
        if option(words, "--serve") is not None:
            return [*words, "--replicas", str(count)]
        if not (option(words, "--annotator") or "").startswith("qwen-omni:"):
            raise DataError(
                f"{where}: `accelerate` is for an annotator that each process holds, `--annotator qwen-omni:` or "
                "`--serve`; leave it out for others"
            )
    if count == 1:
        return words
    return ["torchrun", "--standalone", "--nproc_per_node", str(count), "-m", "aurora_trl.cli", *words[1:]]


def share_samples(where: str, settings: Mapping[str, Any], accelerate: str, num_processes: int) -> list[str]:
    """
    The flags by which a training step sees as many samples on another number of processes.

    What a process holds at a time stays, or shrinks where it has to; more of it is accumulated.

    Args:
        where (`str`): the file and step, for errors.
        settings (`Mapping[str, Any]`): the step's YAML.
        accelerate (`str`): the accelerate config that the YAML is written for.
        num_processes (`int`): processes to be started.

    Returns:
        `list[str]`: flags that follow the script.

    Raises:
        `DataError`: where a step's samples can not be shared out evenly; says which numbers can. Where the config
            starts one process only.
    """
    batch = _count(where, settings, "per_device_train_batch_size", 8)
    accumulated = _count(where, settings, "gradient_accumulation_steps", 1)
    launch = read_launch(accelerate)
    written_for = launch.num_processes
    if launch.one_process and num_processes > 1:
        raise DataError(
            f"{where} is to run on {num_processes} processes, and accelerate starts one with {accelerate}; name "
            "recipes/accelerate/zero2.yaml, or ddp.yaml"
        )
    samples = batch * written_for * accumulated
    for own in range(batch, 0, -1):
        if num_processes < 1 or samples % (own * num_processes):
            continue
        rollout = _share_rollout(where, settings, batch * written_for, own * num_processes)
        if rollout is None:
            continue
        flags = ["--gradient_accumulation_steps", str(samples // (own * num_processes)), *rollout]
        return flags if own == batch else ["--per_device_train_batch_size", str(own), *flags]
    able = [str(count) for count in range(1, samples + 1) if samples % count == 0]
    raise DataError(
        f"{where} takes {samples} samples per step ({batch} at a time on {written_for} processes, {accumulated} "
        f"times), which {num_processes} processes can not share evenly; {', '.join(able)} can"
    )


def _share_rollout(where: str, settings: Mapping[str, Any], before: int, now: int) -> list[str] | None:
    """GRPO's own counts of micro-batches; None where they do not come out even."""
    whole = settings.get("generation_batch_size")
    if isinstance(whole, int) and whole % now:
        return None
    if settings.get("steps_per_generation") is None:
        return []
    samples = before * _count(where, settings, "steps_per_generation", 1)
    return None if samples % now else ["--steps_per_generation", str(samples // now)]


def _count(where: str, settings: Mapping[str, Any], key: str, default: int) -> int:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{where}: `{key}` must be a whole number of at least 1, got {value!r}")
    return value
