"""All that a step learns at `[SEG]` beside the text and the teacher: what both trainers add to TRL's loss."""

from typing import Any

import torch
import torch.nn.functional as F

from ..data.masks import NO_TARGET, has_target
from ..evaluation.iou import frame_iou
from ..models.objects import union_logits
from .losses import box_projection_loss, existence_loss, mask_bce_loss, mask_quality_loss, seg_alignment_loss
from .mask_config import MaskTrainingArguments
from .mask_losses import mask_losses
from .mask_targets import MaskTargets
from .object_losses import object_losses

Losses = tuple[torch.Tensor, dict[str, torch.Tensor]]


def seg_losses(
    output: Any,
    targets: MaskTargets,
    has_seg: torch.Tensor,
    args: MaskTrainingArguments,
    *,
    present: tuple[torch.Tensor, torch.Tensor],
) -> Losses:
    """
    The weighted sum of the masks' losses (AURORA, equations 6-8), and of those of boxes and points, the existence
    output, the alignment and the score of masks where there are such. A row without `[SEG]` adds nothing.

    Args:
        output (`ModelOutput`): with `mask_logits` `(B, T, h, w)`, `seg_features` `(B, E)` and, where the model has
            them, `existence_logits` `(B,)` and `mask_quality` `(B, T)`; each `(B, K, ...)` where answers may have
            several `[SEG]`.
        targets (`MaskTargets`): of the frames that were drawn.
        has_seg (`torch.Tensor` of shape `(B,)` or `(B, K)`, bool): which answers, or places in them, have a `[SEG]`.
        args (`MaskTrainingArguments`): the weights.
        present (`tuple`): from `MaskTargets.find_present`, of all frames.

    Returns:
        `tuple`: the loss, and its parts by metric name.
    """
    mask_logits = output["mask_logits"]
    if targets.object_masks is None:
        loss, metrics = mask_losses(mask_logits, targets.masks, has_seg, args)
    else:
        loss, metrics = object_losses(mask_logits, targets.masks, targets.object_masks, has_seg, args)
        mask_logits = union_logits(mask_logits, has_seg)
    drawn = has_seg if has_seg.dim() == 1 else has_seg.any(dim=1)
    parts = [_hint_losses(mask_logits, targets, drawn, args), _existence_losses(output, has_seg, args, present)]
    if args.alignment_loss_weight > 0 and targets.relations is not None:
        parts.append(_alignment_losses(output["seg_features"], targets.relations, has_seg, args))
    if args.mask_quality_loss_weight > 0:
        parts.append(_quality_losses(output["mask_quality"], mask_logits, targets, has_seg, args))
    for term, named in parts:
        loss = loss + term
        metrics.update(named)
    return loss, metrics


def _hint_losses(
    mask_logits: torch.Tensor, targets: MaskTargets, drawn: torch.Tensor, args: MaskTrainingArguments
) -> Losses:
    """Of boxes and points, in the mean over the frames that have them, to which rows without `[SEG]` add nothing."""
    loss, metrics = mask_logits.new_zeros(()), dict[str, torch.Tensor]()
    if targets.box_masks is None and targets.point_masks is None:
        return loss, metrics
    size = targets.masks.shape[-2:]
    logits = F.interpolate(mask_logits.float(), size, mode="bilinear", align_corners=False)
    if targets.box_masks is not None:
        known = has_target(targets.box_masks)
        inside = targets.box_masks != NO_TARGET
        weights = (drawn[:, None] & known).to(logits.dtype)
        term = box_projection_loss(logits, targets.box_masks * inside, weights=weights, inside=inside)
        term = term * weights.sum() / known.sum().clamp(min=1)
        loss, metrics["box_loss"] = loss + args.box_loss_weight * term, term.detach()
    if targets.point_masks is not None:
        inside = targets.point_masks != NO_TARGET
        known = inside.flatten(2).any(dim=2)
        weights = (drawn[:, None] & known).to(logits.dtype)
        term = mask_bce_loss(logits, targets.point_masks * inside, weights=weights, inside=inside)
        term = term * weights.sum() / known.sum().clamp(min=1)
        loss, metrics["point_loss"] = loss + args.point_loss_weight * term, term.detach()
    return loss, metrics


def _existence_losses(
    output: Any, has_seg: torch.Tensor, args: MaskTrainingArguments, present: tuple[torch.Tensor, torch.Tensor]
) -> Losses:
    existence = output.get("existence_logits")
    if existence is None:
        return has_seg.new_zeros((), dtype=torch.float32), {}
    exists, known = (along.view(-1, *[1] * (has_seg.dim() - 1)).expand_as(has_seg) for along in present)
    counts = has_seg & known
    # In the mean over rows, as the masks' are over frames.
    term = existence_loss(existence, exists, weights=counts) * counts.sum() / counts.numel()
    right = ((existence >= 0) == exists) & counts
    metrics = {"existence_loss": term.detach(), "existence_accuracy": right.sum() / counts.sum().clamp(min=1)}
    return args.existence_loss_weight * term, metrics


def _quality_losses(
    quality: torch.Tensor,
    mask_logits: torch.Tensor,
    targets: MaskTargets,
    has_seg: torch.Tensor,
    args: MaskTrainingArguments,
) -> Losses:
    """Of what the mask decoder believes of its masks, in the mean over annotated frames as the masks' own losses."""
    if quality.dim() == 3:  # an answer that draws several objects has a score for each, and one mask that is compared
        quality, has_seg = quality[:, 0], has_seg.sum(dim=1) == 1
    annotated = has_target(targets.masks)
    iou = frame_iou(mask_logits, targets.masks)
    weights = (has_seg[:, None] & annotated).to(torch.float32)
    term = mask_quality_loss(quality, iou, weights=weights) * weights.sum() / annotated.sum().clamp(min=1)
    return args.mask_quality_loss_weight * term, {"mask_quality_loss": term.detach()}


def _alignment_losses(
    features: torch.Tensor, relations: torch.Tensor, has_seg: torch.Tensor, args: MaskTrainingArguments
) -> Losses:
    if features.dim() == 3:  # an answer that draws several objects is about none of them alone
        features, has_seg = features[:, 0], has_seg.sum(dim=1) == 1
    term = seg_alignment_loss(features, relations, has_seg=has_seg, temperature=args.alignment_temperature)
    return args.alignment_loss_weight * term, {"alignment_loss": term.detach()}
