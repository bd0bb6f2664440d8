"""Float32 master weights of what trains, whatever precision a checkpoint is stored in."""

from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from transformers import PreTrainedModel

from .lora import unwrap_aurora

logger = get_logger(__name__)


def keep_master_weights(model: PreTrainedModel | PeftModel, *, bf16: bool, deepspeed: bool) -> dict[str, torch.dtype]:
    """
    Let what trains be float32: a step of 1e-5 is lost in the 8 bits of bfloat16.

    With `bf16` autocast computes in bfloat16, and what is frozen stays as it is stored. Without it nothing casts
    between the two, and the whole model becomes float32. DeepSpeed's engine in bfloat16 keeps master weights itself.

    Args:
        model (`PreTrainedModel` or `PeftModel`): an AuroraModel, or one with an adapter; what is frozen is frozen.
        bf16 (`bool`): whether the trainer computes in bfloat16.
        deepspeed (`bool`): whether a DeepSpeed engine holds the weights.

    Returns:
        `dict[str, torch.dtype]`: the dtype in which each weight that changed is stored, by its name in the model.

    Raises:
        `ValueError`: where ZeRO-3 has split weights that would have to change.
    """
    if bf16 and deepspeed:
        return {}
    low = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dtype in (torch.bfloat16, torch.float16) and (parameter.requires_grad or not bf16)
    }
    if not low:
        return {}
    if any(hasattr(parameter, "ds_id") for parameter in low.values()):
        raise ValueError("the checkpoint is bfloat16 and ZeRO-3 has split it: set `bf16: true` to train it")
    if not bf16:
        logger.info("`bf16` is off: the weights of the bfloat16 checkpoint are trained, and run, in float32")
    stored = {name: parameter.dtype for name, parameter in low.items()}
    # The checkpoint's own, which a save writes into its config and the next phase loads in.
    unwrap_aurora(model).stored_dtype = unwrap_aurora(model).dtype
    for parameter in low.values():
        parameter.data = parameter.data.float()
    return stored


def as_stored(weights: dict[str, Any], stored: dict[str, torch.dtype]) -> dict[str, Any]:
    """Weights with each in the dtype that its checkpoint had; what is not in `stored` stays as it is."""
    return {name: value.to(stored[name]) if name in stored else value for name, value in weights.items()}
