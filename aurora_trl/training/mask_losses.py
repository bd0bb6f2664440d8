"""The mask losses of both trainers, over the annotated frames that a step looks at."""

import torch
import torch.nn.functional as F
from accelerate.logging import get_logger

from ..data.media.masks import NO_TARGET, has_target
from .losses import mask_bce_loss, mask_dice_loss
from .mask_config import MaskTrainingArguments

logger = get_logger(__name__)


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
        masks (`torch.Tensor` of shape `(B, T, M, M)`): targets in {0, 1}, or `NO_TARGET` outside the frame and in
            all of one that is not annotated.
        has_seg (`torch.Tensor` of shape `(B,)`, bool): rows that count.
        args (`MaskTrainingArguments`): the weights.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    logits = F.interpolate(mask_logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
    annotated = has_target(masks)
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
        logits, masks (`torch.Tensor` of shape `(..., M, M)`): predictions, and targets in {0, 1}, or `NO_TARGET`
            where nothing is compared.
        weights (`torch.Tensor` of shape `(...)`): of each mask; they sum up to at most `num_frames`.
        num_frames (`torch.Tensor`): annotated frames of the batch, a scalar.
        args (`MaskTrainingArguments`): the weights of the losses.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    share = weights.sum() / num_frames.clamp(min=1)
    inside = masks != NO_TARGET
    masks = masks * inside
    bce = mask_bce_loss(logits, masks, weights=weights, inside=inside) * share
    dice = mask_dice_loss(logits, masks, weights=weights, inside=inside) * share
    loss = args.mask_bce_loss_weight * bce + args.mask_dice_loss_weight * dice
    return loss, {"mask_bce_loss": bce.detach(), "mask_dice_loss": dice.detach()}
