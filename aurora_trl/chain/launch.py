"""What an accelerate config says about a launch: processes, ZeRO stage, offloading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..text_files import read_yaml


@dataclass(frozen=True)
class LaunchConfig:
    """
    How a training step is started.

    Attributes:
        num_processes (`int`): GPUs.
        zero_stage (`int` or `None`): of DeepSpeed; None without it.
        offload_optimizer (`bool`): the optimizer is in the host's memory.
        one_process (`bool`): accelerate starts one process, whatever number is asked for.
    """

    num_processes: int = 1
    zero_stage: int | None = None
    offload_optimizer: bool = False
    one_process: bool = False


def read_launch(path: str | Path) -> LaunchConfig:
    """
    Read an accelerate config.

    Args:
        path (`str` or `Path`): its YAML.

    Raises:
        `DataError`: names the file, and the key whose value accelerate could not use.
    """
    content = read_yaml(path)
    settings = content.get("deepspeed_config") or {}
    if not isinstance(settings, dict):
        raise DataError(f"{path}: `deepspeed_config` is a mapping of keys to values, got {settings!r}")
    processes = _whole_number(path, "num_processes", content.get("num_processes", 1), least=1)
    stage = settings.get("zero_stage")
    return LaunchConfig(
        num_processes=processes,
        zero_stage=None if stage is None else _whole_number(path, "zero_stage", stage, least=0),
        offload_optimizer=settings.get("offload_optimizer_device", "none") == "cpu",
        one_process=content.get("distributed_type") in ("NO", False),  # YAML reads a bare NO as false
    )


def _whole_number(path: str | Path, key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{path}: `{key}` must be a whole number of at least {least}, got {value!r}")
    return value
