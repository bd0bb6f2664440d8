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


def seg_alignment_loss(
    features: torch.Tensor, relations: torch.Tensor, *, has_seg: torch.Tensor, temperature: float
) -> torch.Tensor:
    """
    Pull the `[SEG]` features of references to the same object together, and away from those to others: the supervised
    contrastive loss (Khosla et al., 2020, equation 2), in the mean over the references that have a partner.

    SimToken and ALS3P pull them together by a loss of this form, whose partners come from earlier steps, and which
    looks at no other object.

    Args:
        features (`torch.Tensor` of shape `(B, E)`): projected features.
        relations (`torch.Tensor` of shape `(B, B)`): above 0 for the same object, below 0 for another, 0 where two
            rows are not compared, see [`~aurora_trl.data.relations.relate_objects`].
        has_seg (`torch.Tensor` of shape `(B,)`, bool): rows that have a feature.
        temperature (`float`): divides the cosines.

    Returns:
        `torch.Tensor`: a scalar; 0 where no row has a partner.
    """
    both = has_seg[:, None] & has_seg
    partners, compared = (relations > 0) & both, (relations != 0) & both
    unit = F.normalize(features.float(), dim=-1)
    cosines = unit @ unit.T / temperature
    # A finite number: what is never chosen must not make a gradient of nothing.
    total = cosines.masked_fill(~compared, -1e4).logsumexp(dim=1, keepdim=True)
    counts = partners.sum(dim=1)
    of_rows = ((total - cosines) * partners).sum(dim=1) / counts.clamp(min=1)
    return _weighted_mean(of_rows, counts > 0)


def box_projection_loss(
    mask_logits: torch.Tensor, box_masks: torch.Tensor, *, weights: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """
    How a mask's extent along each axis differs from its box's: the projection term of BoxInst (Tian et al., 2021),
    the dice loss of the highest probability in each column and in each row.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., H, W)`): logits.
        box_masks (`torch.Tensor` of shape `(..., H, W)`): filled boxes in {0, 1}.
        weights (`torch.Tensor` of shape `(...)`): weight of each mask in the mean; 0 where all are 0.
        inside (`torch.Tensor` of shape `(..., H, W)`, bool): pixels that count.

    Returns:
        `torch.Tensor`: a scalar.
    """
    predicted, boxes = mask_logits.sigmoid() * inside, box_masks.to(mask_logits.dtype)
    loss = torch.zeros_like(weights, dtype=mask_logits.dtype)
    for axis in (-2, -1):
        ours, theirs = predicted.amax(dim=axis), boxes.amax(dim=axis)
        total = (ours.square() + theirs.square()).sum(dim=-1)
        loss = loss + 1 - 2 * (ours * theirs).sum(dim=-1) / total.clamp(min=DICE_EPS)
    return _weighted_mean(loss, weights)


def existence_loss(existence_logits: torch.Tensor, exists: torch.Tensor, *, weights: torch.Tensor) -> torch.Tensor:
    """
    Binary cross-entropy of whether the object is there (as the no-target output of GRES, Liu et al., 2023).

    Args:
        existence_logits (`torch.Tensor` of shape `(...)`): logits.
        exists (`torch.Tensor` of shape `(...)`, bool): whether it is.
        weights (`torch.Tensor` of shape `(...)`): of each in the mean; 0 where all are 0.

    Returns:
        `torch.Tensor`: a scalar.
    """
    logits = existence_logits.float()
    return _weighted_mean(F.binary_cross_entropy_with_logits(logits, exists.float(), reduction="none"), weights)


def mask_quality_loss(quality: torch.Tensor, iou: torch.Tensor, *, weights: torch.Tensor) -> torch.Tensor:
    """
    Mean squared error of the IoU that a mask decoder believes to have reached (Segment Anything, Kirillov et al.,
    2023, appendix A).

    Args:
        quality (`torch.Tensor` of shape `(...)`): what it believes.
        iou (`torch.Tensor` of shape `(...)`): what it reached. It gets no gradient.
        weights (`torch.Tensor` of shape `(...)`): of each in the mean; 0 where all are 0.

    Returns:
        `torch.Tensor`: a scalar.
    """
    return _weighted_mean((quality.float() - iou.detach().float()).square(), weights)


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if weights is None:
        return values.mean()
    weights = weights.to(values.dtype)
    # The clamp keeps an all-zero batch at 0 and in the graph, as the other ranks of a group expect.
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)
