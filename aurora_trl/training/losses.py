"""Losses on masks and on `[SEG]` features: pure functions of tensors."""

import torch
import torch.nn.functional as F

# The dice loss of the published reasoning-segmentation recipes divides what it sums by this, with this smoothing: the
# smoothing then weighs more, and an empty target pulls as hard as a full one.
DICE_SCALE = 1000.0
DICE_EPS = 1e-6


def mask_bce_loss(
    mask_logits: torch.Tensor,
    masks: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    inside: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Binary cross-entropy, mean over the pixels of each mask and then over masks (AURORA, equation 6, L_bce).

    Args:
        mask_logits (`torch.Tensor` of shape `(..., H, W)`): logits.
        masks (`torch.Tensor` of shape `(..., H, W)`): targets in {0, 1}.
        weights (`torch.Tensor` of shape `(...)`, *optional*): weight of each mask in the mean; 0 where all are 0.
        inside (`torch.Tensor` of shape `(..., H, W)`, bool, *optional*): pixels that count; all by default.

    Returns:
        `torch.Tensor`: a scalar.
    """
    loss = F.binary_cross_entropy_with_logits(mask_logits, masks.to(mask_logits.dtype), reduction="none")
    if inside is None:
        return _weighted_mean(loss.mean(dim=(-2, -1)), weights)
    pixels = inside.sum(dim=(-2, -1)).clamp(min=1)
    return _weighted_mean((loss * inside).sum(dim=(-2, -1)) / pixels, weights)


def mask_dice_loss(
    mask_logits: torch.Tensor,
    masks: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    inside: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    One minus the dice coefficient of each mask, mean over masks (AURORA, equation 6, L_dice; as in LISA).

    Args:
        mask_logits (`torch.Tensor` of shape `(..., H, W)`): logits.
        masks (`torch.Tensor` of shape `(..., H, W)`): targets in {0, 1}.
        weights (`torch.Tensor` of shape `(...)`, *optional*): weight of each mask in the mean; 0 where all are 0.
        inside (`torch.Tensor` of shape `(..., H, W)`, bool, *optional*): pixels that count; all by default.

    Returns:
        `torch.Tensor`: a scalar.
    """
    predicted, target = mask_logits.sigmoid() / DICE_SCALE, masks.to(mask_logits.dtype)
    if inside is not None:
        predicted, target = predicted * inside, target * inside
    predicted, target = predicted.flatten(-2), target.flatten(-2)
    intersection = (predicted * target).sum(dim=-1)
    total = predicted.sum(dim=-1) + target.sum(dim=-1) / DICE_SCALE
    return _weighted_mean(1 - (2 * intersection + DICE_EPS) / (total + DICE_EPS), weights)


def pairwise_mask_losses(
    mask_logits: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    `mask_bce_loss` and `mask_dice_loss` of every mask with every target, without a plane for each pair.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., K, T, H, W)`): logits of K predictions.
        masks (`torch.Tensor` of shape `(..., N, T, H, W)`): N targets in {0, 1}.
        inside (`torch.Tensor` of shape `(..., N, T, H, W)`, bool, *optional*): pixels that count; all by default.

    Returns:
        `tuple`: the losses, `(..., K, N, T)` each.
    """
    masks = masks.to(mask_logits.dtype)
    pair = "...kthw,...nthw->...knt"
    counts = torch.ones_like(masks) if inside is None else inside.to(masks.dtype)
    masks = masks * counts
    # With logits x and a target t, the cross-entropy of a pixel is softplus(x) - x * t.
    bce = torch.einsum(pair, F.softplus(mask_logits), counts) - torch.einsum(pair, mask_logits, masks)
    bce = bce / counts.sum(dim=(-2, -1)).clamp(min=1)[..., None, :, :]
    predicted = mask_logits.sigmoid() / DICE_SCALE
    total = torch.einsum(pair, predicted, counts) + masks.sum(dim=(-2, -1))[..., None, :, :] / DICE_SCALE
    dice = 1 - (2 * torch.einsum(pair, predicted, masks) + DICE_EPS) / (total + DICE_EPS)
    return bce, dice


def seg_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, *, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Mean squared distance between `[SEG]` features (AURORA, equation 2). The teacher gets no gradient.

    Args:
        student, teacher (`torch.Tensor` of shape `(B, E)`): projected features.
        weights (`torch.Tensor` of shape `(B,)`, *optional*): weight of each row in the mean; 0 where all are 0.

    Returns:
        `torch.Tensor`: a scalar.
    """
    distance = (student - teacher.detach().to(student.dtype)).square().mean(dim=-1)
    return _weighted_mean(distance, weights)


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if weights is None:
        return values.mean()
    weights = weights.to(values.dtype)
    # The clamp keeps an all-zero batch at 0 and in the graph, as the other ranks of a group expect.
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)
