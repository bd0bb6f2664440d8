"""What the loaders of published policies share."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ...errors import DataError
from ..checkpoints.weight_files import build_from_weights, find_checkpoint, read_config


def checked_folder(name_or_folder: str | Path, model_type: str) -> Path:
    """The local folder of a checkpoint, once its config is seen to be of this kind."""
    folder = find_checkpoint(name_or_folder)
    found = read_config(folder)["model_type"]
    if found != model_type:
        raise DataError(f"{folder}/config.json: its model type is {found!r}, not {model_type!r}")
    return folder


def config_fields(config: Any) -> dict[str, Any]:
    """What a published config says, for a config of ours of the same fields."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}


def build_policy(
    cls: type,
    config: Any,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype | str,
    own_dtype: torch.dtype | None,
    folder: Path,
) -> Any:
    """
    The policy with every weight in its place.

    Args:
        cls (`type`), config (`PretrainedConfig`): of the policy.
        weights (`dict[str, torch.Tensor]`): under our names; a head that is tied to the embeddings may be missing.
        dtype (`torch.dtype` or `str`): of the weights; any text leaves them in `own_dtype`.
        own_dtype (`torch.dtype`, *optional*): the checkpoint's; bfloat16 where it says none.
        folder (`Path`): for messages.
    """
    if config.tie_word_embeddings and "model.language_model.embed_tokens.weight" in weights:
        weights.setdefault("lm_head.weight", weights["model.language_model.embed_tokens.weight"])
    if not isinstance(dtype, torch.dtype):
        dtype = own_dtype or torch.bfloat16
    return build_from_weights(cls, config, weights, dtype=dtype, source=folder)


def with_plain_answers(policy: Any, processor: Any) -> tuple[Any, Any]:
    """Without the sampling habits that are published beside the weights."""
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    # A published repetition penalty would make answers differ from what the policy was trained to say.
    policy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return policy, processor
