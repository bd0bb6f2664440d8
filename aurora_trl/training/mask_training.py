"""What both trainers do to a model before, and with its masks after, a forward."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.logging import get_logger
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from ..data.media.masks import has_target
from ..models.modeling_aurora import AuroraModel
from ..models.shared_prefix import allow_shared_prefix
from .arguments import LoraArguments
from .losses import mask_bce_loss, mask_dice_loss
from .mask_config import MaskTrainingArguments

logger = get_logger(__name__)


def unwrap_aurora(model: PreTrainedModel | PeftModel) -> AuroraModel:
    """The AuroraModel inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def shares_prefix(models: Sequence[AuroraModel], args: MaskTrainingArguments) -> bool:
    """Let models read what rows begin with once, where the config and all of them allow it; a warning says why not."""
    if not args.shared_prefix:
        return False
    obstacles = [reason for model in models if (reason := allow_shared_prefix(model.policy)) is not None]
    if obstacles:
        logger.warning(f"`shared_prefix` is of no use here, every row is read from its beginning: {obstacles[0]}")
    return not obstacles


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


def draw_mask_frames(args: MaskTrainingArguments, seed: int, step: int, num_frames: int) -> torch.Tensor | None:
    """
    The frames that a step's mask losses are about: the same on all ranks, and again after a resume.

    Args:
        args (`MaskTrainingArguments`): says how many, in `mask_frames_per_step`.
        seed (`int`), step (`int`): the run's seed and the optimizer step.
        num_frames (`int`): frames of a clip.

    Returns:
        `torch.Tensor` or `None`: indices in ascending order; None where it is all of them.
    """
    count = args.mask_frames_per_step
    if count is None or count >= num_frames:
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randperm(num_frames, generator=generator)[:count].sort().values


def mask_losses(
    mask_logits: torch.Tensor, masks: torch.Tensor, has_seg: torch.Tensor, args: MaskTrainingArguments
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    The weighted sum of the mask losses (AURORA, equations 6-8): the mean over all annotated frames, to which a row
    without `[SEG]` adds nothing. Where all rows have as many annotated frames, the value does not depend on how they
    are spread over ranks and micro-batches.

    Args:
        mask_logits (`torch.Tensor` of shape `(B, T, h, w)`): from the decoder.
        masks (`torch.Tensor` of shape `(B, T, M, M)`): targets in {0, 1}, or `NO_TARGET` in a whole frame.
        has_seg (`torch.Tensor` of shape `(B,)`, bool): rows that count.
        args (`MaskTrainingArguments`): the weights.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    logits = F.interpolate(mask_logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    annotated = has_target(masks)
    masks = masks.masked_fill(~annotated[..., None, None], 0)
    weights = (has_seg[:, None] & annotated).to(logits.dtype)  # (B, T)
    return weighted_mask_losses(logits, masks, weights, annotated.sum(), args)


def weighted_mask_losses(
    logits: torch.Tensor,
    masks: torch.Tensor,
    weights: torch.Tensor,
    num_frames: torch.Tensor,
    args: MaskTrainingArguments,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    The weighted sum of the mask losses, in the mean over annotated frames.

    Args:
        logits, masks (`torch.Tensor` of shape `(..., M, M)`): predictions, and targets in {0, 1}.
        weights (`torch.Tensor` of shape `(...)`): of each mask; they sum up to at most `num_frames`.
        num_frames (`torch.Tensor`): annotated frames of the batch, a scalar.
        args (`MaskTrainingArguments`): the weights of the losses.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    share = weights.sum() / num_frames.clamp(min=1)
    bce = mask_bce_loss(logits, masks, weights=weights) * share
    dice = mask_dice_loss(logits, masks, weights=weights) * share
    loss = args.mask_bce_loss_weight * bce + args.mask_dice_loss_weight * dice
    return loss, {"mask_bce_loss": bce.detach(), "mask_dice_loss": dice.detach()}


@torch.no_grad()
def mask_iou(mask_logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """
    IoU of each row, mean over its annotated frames; two empty masks agree.

    Args:
        mask_logits (`torch.Tensor` of shape `(B, T, h, w)`), masks (`torch.Tensor` of shape `(B, T, M, M)`): the
            target in {0, 1}, or `NO_TARGET` in a whole frame.

    Returns:
        `torch.Tensor` of shape `(B,)`.
    """
    logits = F.interpolate(mask_logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    predicted, target = logits > 0, masks.bool()
    union = (predicted | target).sum((-1, -2)).float()
    intersection = (predicted & target).sum((-1, -2)).float()
    iou = torch.where(union > 0, intersection / union.clamp(min=1), 1.0)
    annotated = has_target(masks)
    return (iou * annotated).sum(dim=1) / annotated.sum(dim=1).clamp(min=1)


@contextmanager
def capture_outputs(model: nn.Module) -> Iterator[list[Any]]:
    """Collect what each forward of `model`, wrapped or not, returns in the block: TRL keeps its outputs to itself."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
