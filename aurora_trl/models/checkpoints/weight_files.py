"""Files of published checkpoints: found, read as tensors and nothing else, and checked key by key."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ...errors import DataError
from ...text_files import read_json
from .own_files import CONFIG_FILE, HTTPError, find_weight_files, one_line, read_header, require_repository

Model = TypeVar("Model", bound=PreTrainedModel)

# What a checkpoint's folder may hold that is worth a download: no pictures, no copies of the weights in other formats.
CHECKPOINT_PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors", "*.bin")
# Under what training scripts save a model beside its optimizer.
_WRAPPERS = ("model", "state_dict", "model_state_dict")


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
    require_repository(str(name_or_path))
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=list(patterns)))
    except (OSError, ValueError, HTTPError) as error:
        raise DataError(f"{name_or_path}: the download from the Hub failed: {one_line(error)}; try again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """
    A checkpoint's `config.json`.

    Raises:
        `DataError`: where it is missing, is not JSON, or does not say what model it belongs to.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        alone = next((path for pattern in ("*.pth", "*.pt") for path in sorted(folder.glob(pattern))), None)
        hint = "" if alone is None else f"; {alone.name} is there, which is named as a file"
        raise DataError(f"{file}: no such file; {folder} is not the folder of a published checkpoint{hint}")
    config = read_json(file)
    if "model_type" not in config:
        raise DataError(f"{file}: it has no `model_type`; this is not the config of a model")
    return config


def read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    """
    All tensors of a checkpoint: of one file, or of the shards that its index lists.

    Raises:
        `DataError`: names the shard that is missing, cut short, or lacks a tensor that the index promises.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in find_weight_files(str(folder)):
        read_header(file)  # says what is wrong with a file that is none
        weights.update(load_file(file))
    return weights


def read_torch_file(file: Path) -> dict[str, torch.Tensor]:
    """
    A `.bin` or `.pth` file with a dictionary of tensors, also as a training has saved it: beside its optimizer, with
    the names of a model that several processes trained. Nothing else in it is ever unpickled.

    Raises:
        `DataError`: where it is missing, cut short, or holds anything but tensors by name.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:  # whatever a broken file leads to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: cut short, or not a file of tensors alone: {reason}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(v) for v in content.values()):
        raise DataError(f"{file}: not a dictionary of tensors by name")
    if all(str(name).startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
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
