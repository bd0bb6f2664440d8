"""The mask losses of both trainers, over the annotated frames that a step looks at."""

import torch
import torch.nn.functional as F
from accelerate.logging import get_logger

from ..data.masks import NO_TARGET, has_target
from .losses import mask_bce_loss, mask_dice_loss
from .mask_config import MaskTrainingArguments

logger = get_logger(__name__)


def draw_mask_frames(
    args: MaskTrainingArguments, seed: int, step: int, annotated: torch.Tensor
) -> torch.Tensor | None:
    """
    The frames that a step's mask losses are about: as many on all ranks, and the same again after a resume.

    Args:
        args (`MaskTrainingArguments`): says how many, in `mask_frames_per_step`.
        seed (`int`), step (`int`): the run's seed and the optimizer step.
        annotated (`torch.Tensor` of shape `(T,)`, bool): frames that are annotated in any row of the batch: they come
            before those that are not, from which nothing is learnt.

    Returns:
        `torch.Tensor` or `None`: indices in ascending order; None where it is all of them.
    """
    count = args.mask_frames_per_step
    if count is None or count >= len(annotated):
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    order = torch.randperm(len(annotated), generator=generator)
    first = (~annotated.cpu()[order]).long().argsort(stable=True)
    return order[first][:count].sort().values


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
