"""The adapter of the authors' recipe, and the model inside one."""

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from ..models.modeling_aurora import AuroraModel
from .arguments import LoraArguments


def unwrap_aurora(model: PreTrainedModel | PeftModel) -> AuroraModel:
    """The AuroraModel inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_config(model: AuroraModel, arguments: LoraArguments, groups: set[str]) -> LoraConfig | None:
    """
    The adapter of the authors' recipe: LoRA on the language model's attention, `[SEG]`'s rows and whatever else
    trains in full.

    Args:
        model (`AuroraModel`): says which of its layers are the language model's.
        arguments (`LoraArguments`): rank, scale, dropout.
        groups (`set[str]`): the groups of `AuroraModel.trainable_modules()` that train.

    Returns:
        `LoraConfig` or `None` where `use_lora` is off.

    Raises:
        `ValueError`: where the language model is frozen.
    """
    if not arguments.use_lora:
        return None
    if "language_model" not in groups:
        raise ValueError("`use_lora` adapts the language model: leave `freeze_language_model` off")
    names = {id(module): name for name, module in model.named_modules()}
    parts: list[nn.Module] = []
    for group, module in model.trainable_modules().items():
        if group in groups - {"language_model"}:
            # A group is a module of the model, or a list of some.
            parts += [module] if id(module) in names else list(module.children())
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        # A plain list of names would also hit the towers and the mask decoder.
        target_modules=model.policy.lora_target_modules,
        modules_to_save=["lm_head", "embed_tokens", *(names[id(part)] for part in parts)],
        task_type="CAUSAL_LM",
    )
