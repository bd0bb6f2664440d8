"""The mask losses of answers with several `[SEG]`: each is compared with the object that it fits best."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from ..data.masks import NO_TARGET, has_target
from ..models.objects import union_logits
from .losses import pairwise_mask_losses
from .mask_config import MaskTrainingArguments
from .mask_losses import weighted_mask_losses


@torch.no_grad()
def match_objects(
    mask_logits: torch.Tensor, object_masks: torch.Tensor, has_seg: torch.Tensor, args: MaskTrainingArguments
) -> torch.Tensor:
    """
    Give each prediction of an answer at most one object and each object at most one prediction, so that the weighted
    mask losses of the pairs are least (the Hungarian method).

    Args:
        mask_logits (`torch.Tensor` of shape `(B, K, T, H, W)`): logits at the size of the masks.
        object_masks (`torch.Tensor` of shape `(B, N, T, H, W)`): in {0, 1}, or `NO_TARGET` in a whole frame that is
            not annotated, and in all frames where there is no such object.
        has_seg (`torch.Tensor` of shape `(B, K)`, bool): predictions that count.
        args (`MaskTrainingArguments`): the weights.

    Returns:
        `torch.Tensor` of shape `(B, K)`, long: the object of each prediction, -1 where it has none.
    """
    annotated = has_target(object_masks)  # (B, N, T)
    inside = object_masks != NO_TARGET
    bce, dice = pairwise_mask_losses(mask_logits, object_masks * inside, inside)
    losses = args.mask_bce_loss_weight * bce + args.mask_dice_loss_weight * dice  # (B, K, N, T)
    frames = annotated[:, None].to(losses.dtype)
    costs = ((losses * frames).sum(dim=-1) / frames.sum(dim=-1).clamp(min=1)).cpu().numpy()
    counts, given = has_seg.cpu().numpy(), annotated.any(dim=-1).cpu().numpy()
    matched = np.full(counts.shape, -1)
    for row, (predictions, objects) in enumerate(zip(counts, given, strict=True)):
        slots, numbers = predictions.nonzero()[0], objects.nonzero()[0]
        first, second = linear_sum_assignment(costs[row][np.ix_(slots, numbers)])
        matched[row, slots[first]] = numbers[second]
    return torch.from_numpy(matched).to(mask_logits.device)


def object_losses(
    mask_logits: torch.Tensor,
    masks: torch.Tensor,
    object_masks: torch.Tensor,
    has_seg: torch.Tensor,
    args: MaskTrainingArguments,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    [`mask_losses`] for answers that may have several `[SEG]`. The paper has one; what is added here follows DETR
    (Carion et al., 2020, equation 1).

    Where a row's objects have masks of their own, each `[SEG]` is compared with the object that `match_objects` gives
    it, or with an empty mask where none is left; the row's loss is the mean over its `[SEG]`. An object without a
    `[SEG]` is the text loss's business. Where the objects' masks are one, the union of the predictions is compared
    with it.

    Args:
        mask_logits (`torch.Tensor` of shape `(B, K, T, h, w)`): from the decoder.
        masks (`torch.Tensor` of shape `(B, T, M, M)`): all objects together, in {0, 1}, or `NO_TARGET` in a whole
            frame.
        object_masks (`torch.Tensor` of shape `(B, N, T, M, M)`): each apart, see `match_objects`.
        has_seg (`torch.Tensor` of shape `(B, K)`, bool): predictions that count.
        args (`MaskTrainingArguments`): the weights.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    batch_size = mask_logits.size(0)
    union = union_logits(mask_logits, has_seg)  # (B, T, h, w)
    planes = torch.cat([union[:, None], mask_logits], dim=1).float()
    logits = F.interpolate(planes.flatten(0, 1), masks.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits.unflatten(0, (batch_size, -1))  # (B, 1 + K, T, M, M)

    annotated = has_target(masks)  # (B, T)
    matched = match_objects(logits[:, 1:], object_masks, has_seg, args)
    rows = torch.arange(batch_size, device=masks.device)[:, None]
    objects = object_masks[rows, matched.clamp(min=0)]  # (B, K, T, M, M)
    objects = objects.masked_fill((matched < 0)[:, :, None, None, None], 0)
    planes = torch.cat([masks[:, None], objects], dim=1)
    planes = planes.masked_fill((masks == NO_TARGET)[:, None], NO_TARGET)

    apart = has_target(object_masks).any(dim=(1, 2))  # (B,)
    together = has_seg.any(dim=1) & ~apart
    share = has_seg / has_seg.sum(dim=1, keepdim=True).clamp(min=1) * apart[:, None]  # (B, K)
    weights = torch.cat([together[:, None].to(share.dtype), share], dim=1)[..., None] * annotated[:, None]
    return weighted_mask_losses(logits, planes, weights, annotated.sum(), args)
