"""Which published checkpoints can be a policy, by the `model_type` of their `config.json`."""

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, ProcessorMixin

from ...errors import DataError
from ..checkpoints.weight_files import find_checkpoint, read_config
from .qwen.published import load_qwen3_omni, load_qwen3_vl, load_qwen_omni, load_qwen_vl
from .text_encoder.published import load_text_encoder
from .tokens import add_tokens, init_token_rows, require_chat_tokenizer
from .videollama2.published import load_videollama2
from .videollama3.published import load_videollama3


class PolicyLoader(Protocol):
    """Reads a published checkpoint: the policy and the processor that belongs to it, which may lack `[SEG]` yet."""

    def __call__(
        self, name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
    ) -> tuple[PreTrainedModel, ProcessorMixin]: ...


_LOADERS: dict[str, PolicyLoader] = {
    "videollama2_qwen2": load_videollama2,
    "qwen2_5_omni": load_qwen_omni,
    "qwen3_omni_moe": load_qwen3_omni,
    "qwen2_5_vl": load_qwen_vl,
    "qwen3_vl": load_qwen3_vl,
    "video_llama_3": load_videollama3,
    "clip": load_text_encoder,
}

# Checkpoints in the layout of their authors' own code, where transformers has another.
_ELSEWHERE = {
    "videollama3_qwen2": "it needs its authors' own code; take the same weights in transformers' layout, such as "
    "lkhl/VideoLLaMA3-7B-Image-HF"
}


def register_policy_loader(model_type: str, loader: PolicyLoader) -> None:
    """
    Let [`AuroraModel.from_policy`] read another kind of checkpoint.

    Args:
        model_type (`str`): what the checkpoint's `config.json` names.
        loader (`PolicyLoader`): reads it.
    """
    _LOADERS[model_type] = loader


def load_policy(
    name_or_path: str | Path, dtype: torch.dtype | str = "auto", **processor_settings: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A policy and its processor from a published checkpoint, by the loader of its `model_type`, with `[SEG]`.

    Args:
        name_or_path (`str` or `Path`): a folder or a Hub repository.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.
        **processor_settings: what the policy's processor has under these names is set to these values.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: where there is no such checkpoint, it is not whole, or nothing reads its kind.
        `ValueError`: for a setting that the processor does not have.
    """
    folder = find_checkpoint(name_or_path)
    model_type = read_config(folder)["model_type"]
    if model_type in _ELSEWHERE:
        raise DataError(f"{name_or_path}: {_ELSEWHERE[model_type]}")
    if model_type not in _LOADERS:
        raise DataError(
            f"{name_or_path}: no policy is known for the model type {model_type!r}; there are loaders for "
            f"{', '.join(sorted(_LOADERS))}, and `register_policy_loader` adds one"
        )
    policy, processor = _LOADERS[model_type](folder, dtype)
    for name, value in processor_settings.items():
        if not hasattr(processor, name):
            raise ValueError(f"{name_or_path}: {type(processor).__name__} has no setting `{name}`")
        setattr(processor, name, value)
    tokenizer: Any = processor.tokenizer
    require_chat_tokenizer(tokenizer, str(folder))
    init_token_rows(policy, tokenizer, add_tokens(tokenizer))
    return policy.eval(), processor
