"""The IoU of masks: what rewards, mining and the trainers' logs compare by."""

import torch
import torch.nn.functional as F

from ..data.masks import NO_TARGET, has_target


@torch.no_grad()
def frame_iou(mask_logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """
    IoU of each frame inside its extent; two empty masks agree.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., T, h, w)`): from the decoder.
        masks (`torch.Tensor` of shape `(..., T, M, M)`): the target in {0, 1}, or `NO_TARGET` outside the frame.

    Returns:
        `torch.Tensor` of shape `(..., T)`, float32; what it says of a frame that is not annotated means nothing.
    """
    masks = masks.to(mask_logits.device)
    logits = mask_logits.float()
    if logits.shape[-2:] != masks.shape[-2:]:
        planes = logits.flatten(0, -3)[:, None]
        planes = F.interpolate(planes, masks.shape[-2:], mode="bilinear", align_corners=False)
        logits = planes[:, 0].unflatten(0, logits.shape[:-2])
    inside = masks != NO_TARGET
    predicted, target = (logits > 0) & inside, masks.bool() & inside
    union = (predicted | target).sum((-1, -2)).float()
    intersection = (predicted & target).sum((-1, -2)).float()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


@torch.no_grad()
def mask_iou(mask_logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """
    IoU of each clip inside its frame, mean over its annotated frames; two empty masks agree.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., T, h, w)`): from the decoder.
        masks (`torch.Tensor` of shape `(..., T, M, M)`): the target in {0, 1}, or `NO_TARGET` outside the
            frame, and in all of one that is not annotated.

    Returns:
        `torch.Tensor` of shape `(...)`, float32.
    """
    annotated = has_target(masks).to(mask_logits.device)
    iou = frame_iou(mask_logits, masks)
    return (iou * annotated).sum(dim=-1) / annotated.sum(dim=-1).clamp(min=1)
