"""Which published checkpoints can be a policy, by the `model_type` of their `config.json`."""

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, ProcessorMixin

from ...data.schema import DataError
from ..checkpoints import find_checkpoint, read_config
from .videollama2 import published as videollama2


class PolicyLoader(Protocol):
    """Reads a published checkpoint: the policy with rows for its new tokens, and the processor that belongs to it."""

    def __call__(
        self, name_or_path: str | Path, dtype: torch.dtype | None = None, **processor_settings: Any
    ) -> tuple[PreTrainedModel, ProcessorMixin]: ...


_LOADERS: dict[str, PolicyLoader] = {"videollama2_qwen2": videollama2.load}


def register_policy_loader(model_type: str, loader: PolicyLoader) -> None:
    """
    Let [`AuroraModel.from_policy`] read another kind of checkpoint.

    Args:
        model_type (`str`): what the checkpoint's `config.json` names.
        loader (`PolicyLoader`): reads it.
    """
    _LOADERS[model_type] = loader


def load_policy(
    name_or_path: str | Path, dtype: torch.dtype | None = None, **processor_settings: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A policy and its processor from a published checkpoint, by the loader of its `model_type`.

    Args:
        name_or_path (`str` or `Path`): a folder or a Hub repository.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.
        **processor_settings: for the policy's processor, such as `audio_seconds`.

    Raises:
        `DataError`: where there is no such checkpoint, it is not whole, or nothing reads its kind.
    """
    folder = find_checkpoint(name_or_path)
    model_type = read_config(folder)["model_type"]
    if model_type not in _LOADERS:
        raise DataError(
            f"{name_or_path}: no policy is known for the model type {model_type!r}; there are loaders for "
            f"{', '.join(sorted(_LOADERS))}, and `register_policy_loader` adds one"
        )
    return _LOADERS[model_type](folder, dtype, **processor_settings)
