"""What frames score: overlap, F over thresholds, F of outlines. Pure functions."""

import logging
import math
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree

logger = logging.getLogger(__name__)

NUM_THRESHOLDS = 255
_BETA_SQUARED = 0.3
# The official tolerance of an outline: this share of the frame's diagonal (Perazzi et al., 2016).
_BOUNDARY_TOLERANCE = 0.008


def require_comparable(mask_logits: torch.Tensor, masks: torch.Tensor) -> None:
    """
    Raise `ValueError` where predictions and targets of videos can not be compared; a warning where the predictions
    look like probabilities.

    Args:
        mask_logits (`torch.Tensor` of shape `(videos, frames, H, W)`): logits.
        masks (`torch.Tensor` of shape `(videos, frames, H, W)`): targets, 0 and one other value.
    """
    shape = tuple(mask_logits.shape)
    if mask_logits.dim() != 4 or shape != tuple(masks.shape) or 0 in shape[1:]:
        raise ValueError(
            f"mask_logits {shape} and masks {tuple(masks.shape)} must both be (videos, frames, H, W), with frames"
        )
    if not mask_logits.is_floating_point():
        raise ValueError(f"mask_logits are {mask_logits.dtype}: give logits, and no masks that are drawn already")
    if torch.isnan(mask_logits).any():
        raise ValueError("mask_logits hold NaN: a prediction that is not a number has no score")
    if not masks.numel() or not masks.any():
        return
    most = masks.max()
    low, high = torch.where(masks != 0, masks, most).min().item(), most.item()
    if low != high:
        raise ValueError(
            f"masks hold values from {low:g} to {high:g} beside 0: give 1 where the object is and 0 elsewhere, and "
            "leave frames, and what lies outside of them, out where nothing is compared"
        )
    lowest, highest = mask_logits.min().item(), mask_logits.max().item()
    if 0 <= lowest < highest <= 1:
        _warn_of_probabilities()


@lru_cache(maxsize=1)
def _warn_of_probabilities() -> None:
    logger.warning(
        "all mask logits are from 0 to 1, as probabilities and masks are, of which most protocols take every pixel as "
        "drawn: give logits"
    )


def draw(mask_logits: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """The pixels whose probability is above a threshold, or whose logit is above 0 where it is None; bool."""
    return mask_logits > 0 if threshold is None else torch.sigmoid(mask_logits) > threshold


def frame_jaccard(
    intersection: torch.Tensor, union: torch.Tensor, target_pixels: torch.Tensor, num_pixels: int
) -> torch.Tensor:
    """
    The official J from pixel counts: intersection over union; where the target is empty, the share of empty pixels.

    Args:
        intersection, union, target_pixels (`torch.Tensor` of shape `(N,)`): pixels of each frame.
        num_pixels (`int`): pixels of a frame, drawn or not.

    Returns:
        `torch.Tensor` of shape `(N,)`, float32.
    """
    empty = target_pixels == 0
    # Without a target the union is what was drawn.
    intersection = torch.where(empty, num_pixels - union, intersection).float()
    union = torch.where(empty, num_pixels, union).float()
    return intersection / (union + 1e-7)


def jaccard(mask_logits: torch.Tensor, masks: torch.Tensor, threshold: float = 0.4) -> torch.Tensor:
    """
    The official J of each frame.

    Args:
        mask_logits (`torch.Tensor` of shape `(N, H, W)`): logits.
        masks (`torch.Tensor` of shape `(N, H, W)`): targets in {0, 1}.
        threshold (`float`, *optional*, defaults to 0.4): a pixel is drawn where its probability is above it.

    Returns:
        `torch.Tensor` of shape `(N,)`: intersection over union; the share of empty pixels where the target is empty.
    """
    drawn, target = draw(mask_logits, threshold), masks.bool()
    counts = [plane.sum((1, 2)) for plane in (drawn & target, drawn | target, target)]
    return frame_jaccard(counts[0], counts[1], counts[2], target[0].numel())


def f_curves(values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """
    F of each frame at each of 255 thresholds in [0, 1), with beta squared 0.3.

    Each pixel is put into the bin between two thresholds once and counted there, which gives the same floats as
    comparing all pixels with every threshold.

    Args:
        values (`torch.Tensor` of shape `(N, H, W)`): probabilities; or logits, where a protocol compares these.
        masks (`torch.Tensor` of shape `(N, H, W)`): targets in {0, 1}.

    Returns:
        `torch.Tensor` of shape `(N, 255)`, float32; 0 where a target is empty.
    """
    # Made on the CPU, as the official scripts do: a GPU's differ in the last bit.
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS).to(values.device)
    # A frame at a time: its planes then stay in the processor's cache.
    frames = zip(values.flatten(1), masks.bool().flatten(1), strict=True)
    counts = torch.stack([_count_by_bin(plane, target, thresholds) for plane, target in frames])  # (N, 2, 256)
    reached = counts.flip(2).cumsum(2).flip(2)[..., 1:].float()  # pixels at or above each threshold, (N, 2, 255)
    background, true_positive = reached.unbind(1)
    target_pixels = counts[:, 1].sum(1, keepdim=True).float()
    precision = true_positive / (background + true_positive + 1e-20)
    recall = true_positive / (target_pixels + 1e-20)
    scores = (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)
    return torch.nan_to_num(scores, nan=0.0)


def _count_by_bin(values: torch.Tensor, target: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """How many pixels of the background and of the target reach 0, 1, ..., 255 thresholds: `(2, 256)`."""
    # The thresholds stand evenly: one comparison with the nearest says how many a pixel reaches.
    last = NUM_THRESHOLDS - 1
    nearest = (values * last + 0.5).clamp_(0, last).int()
    reached = nearest + (values >= thresholds.index_select(0, nearest))
    bins = torch.add(reached, target, alpha=NUM_THRESHOLDS + 1)
    return torch.bincount(bins, minlength=2 * (NUM_THRESHOLDS + 1)).view(2, -1)


def highest_f(curves: torch.Tensor, has_target: torch.Tensor) -> float:
    """
    The official F of some frames: the mean curve of those with a target, at its highest point.

    Args:
        curves (`torch.Tensor` of shape `(N, 255)`): from `f_curves`.
        has_target (`torch.Tensor` of shape `(N,)`, bool): frames that count.

    Returns:
        `float`: in [0, 1]; 0 where no frame counts.
    """
    kept = curves[has_target]
    if not len(kept):
        return 0.0
    # One after the other, as the official loop adds them: the floats are the same.
    total = kept[0].clone()
    for curve in kept[1:]:
        total += curve
    return float((total / len(kept)).max())


def f_score(mask_logits: torch.Tensor, masks: torch.Tensor) -> float:
    """
    The official F of a batch: the frames' mean curve over 255 thresholds, at its highest point.

    Args:
        mask_logits (`torch.Tensor` of shape `(N, H, W)`): logits.
        masks (`torch.Tensor` of shape `(N, H, W)`): targets in {0, 1}; frames with an empty one are left out.

    Returns:
        `float`: in [0, 1]; 0 where every target is empty.
    """
    target = masks.bool()
    return highest_f(f_curves(torch.sigmoid(mask_logits), target), target.flatten(1).any(dim=1))


def boundary_f(drawn: np.ndarray, target: np.ndarray) -> float:
    """
    F of the outlines of two masks (Perazzi et al., 2016): an outline's pixel is found where the other outline passes
    within 0.008 of the frame's diagonal.

    Args:
        drawn, target (`np.ndarray` of shape `(H, W)`): bool.

    Returns:
        `float`: in [0, 1]; two masks without an outline agree.
    """
    tolerance = math.ceil(_BOUNDARY_TOLERANCE * math.hypot(*drawn.shape))
    ours, theirs = np.argwhere(_outline(drawn)), np.argwhere(_outline(target))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    precision = np.mean(cKDTree(theirs).query(ours, distance_upper_bound=tolerance + 1)[0] <= tolerance)
    recall = np.mean(cKDTree(ours).query(theirs, distance_upper_bound=tolerance + 1)[0] <= tolerance)
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from their neighbour to the right, below, or both."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])
