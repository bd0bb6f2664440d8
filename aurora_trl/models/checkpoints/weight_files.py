"""Files of published checkpoints: found, read as tensors and nothing else, and checked key by key."""

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...errors import DataError

Model = TypeVar("Model", bound=PreTrainedModel)

# What a checkpoint's folder may hold that is worth a download: no pictures, no copies of the weights in other formats.
CHECKPOINT_PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors", "*.bin")
REPOSITORY_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_checkpoint(name_or_path: str | Path, patterns: Iterable[str] = CHECKPOINT_PATTERNS) -> Path:
    """
    The local folder of a checkpoint.

    Args:
        name_or_path (`str` or `Path`): a folder, or the name of a Hub repository, which is downloaded once.
        patterns (`Iterable[str]`): the repository's files that are needed.

    Returns:
        `Path`: the folder.

    Raises:
        `DataError`: where there is neither a folder nor a repository of that name.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    if not REPOSITORY_ID.fullmatch(str(name_or_path)) or folder.exists():
        raise DataError(f"{name_or_path}: no such checkpoint folder; name a folder or a Hub repository (org/name)")
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # all of the Hub client's errors are of these two
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name_or_path}: neither a folder here nor a Hub repository that can be downloaded: {reason}"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """
    A checkpoint's `config.json`.

    Raises:
        `DataError`: where it is missing, is not JSON, or does not say what model it belongs to.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise DataError(f"{file}: no such file; {folder} is not the folder of a published checkpoint")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not valid JSON: {error}; download it again") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise DataError(f"{file}: it has no `model_type`; this is not the config of a model")
    return config


def read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    """
    All tensors of a checkpoint: of one file, or of the shards that its index lists.

    Raises:
        `DataError`: names the shard that is missing, cut short, or lacks a tensor that the index promises.
    """
    index_file = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index_file.is_file():
        return _read_safetensors_file(folder / SAFE_WEIGHTS_NAME)
    try:
        weight_map: dict[str, str] = json.loads(index_file.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise DataError(f"{index_file}: not an index of shards; download it again") from None
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(set(weight_map.values())):
        weights.update(_read_safetensors_file(folder / name))
    for key, name in weight_map.items():
        if key not in weights:
            raise DataError(f"{folder / name}: the index promises {key}, which is not there; download the shard again")
    return weights


def _read_safetensors_file(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise DataError(f"{file}: no such file; the checkpoint is not whole, download it again")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118, it is not a mapping
    except SafetensorError as error:
        raise DataError(
            f"{file}: cut short, or not a safetensors file ({file.stat().st_size} bytes): {error}; download it again"
        ) from None


def read_torch_file(file: Path) -> dict[str, torch.Tensor]:
    """
    A `.bin` or `.pth` file with a dictionary of tensors. Nothing else in it is ever unpickled.

    Raises:
        `DataError`: where it is missing, cut short, or holds anything but tensors by name.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{file}: cut short, or not a file of tensors alone: {reason}") from None
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(v) for v in content.values()):
        raise DataError(f"{file}: not a dictionary of tensors by name")
    return content


def _is_zip(file: Path) -> bool:
    """torch's format since 1.6, which can be mapped into memory; SAM's published files are of that kind."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def count_modules(weights: Mapping[str, torch.Tensor], pattern: str) -> int:
    """
    How many numbered modules of a kind there are.

    Args:
        weights (`Mapping[str, torch.Tensor]`): by name.
        pattern (`str`): a regular expression for the beginning of their names, with one group for the number.
    """
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})


def check_keys(
    source: str | Path, weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size | torch.Tensor]
) -> None:
    """
    See to it that each weight has its place and each place its weight.

    Args:
        source (`str` or `Path`): the checkpoint's name, for the message.
        weights (`Mapping[str, torch.Tensor]`): what was read, under the model's names.
        expected (`Mapping`): the model's tensors or their shapes, by name.

    Raises:
        `DataError`: lists the keys that are missing, unexpected, or of another shape.
    """
    shapes = {key: tuple(getattr(value, "shape", value)) for key, value in expected.items()}
    missing = [key for key in shapes if key not in weights]
    unexpected = [key for key in weights if key not in shapes]
    wrong = [
        f"{key} {tuple(weights[key].shape)} in place of {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
    problems = [f"{len(keys)} {kind}: {', '.join(sorted(keys))}" for kind, keys in found if keys]
    if problems:
        raise DataError(f"{source}: its weights do not fit the model that its config describes; {'; '.join(problems)}")


def build_from_weights(
    model_class: type[Model], config: Any, weights: dict[str, torch.Tensor], *, dtype: torch.dtype, source: str | Path
) -> Model:
    """
    A model that holds exactly these weights, built without drawing random ones first.

    Args:
        model_class (`type`): the model's class.
        config (`PretrainedConfig`): its sizes.
        weights (`dict[str, torch.Tensor]`): by the model's own names.
        dtype (`torch.dtype`): of the built model.
        source (`str` or `Path`): the checkpoint's name, for messages.

    Returns:
        `PreTrainedModel`: in eval mode.

    Raises:
        `DataError`: lists the keys that are missing, unexpected, or of another shape.
    """
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    check_keys(source, weights, expected)
    return model_class.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
