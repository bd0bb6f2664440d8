"""Official segmentation scores."""

from collections import defaultdict

import torch

PROTOCOLS = ("refavs",)

_J_THRESHOLD = 0.4
_S_THRESHOLD = 0.5
_VIDEOS_PER_BATCH = 4
_NUM_THRESHOLDS = 255
_BETA_SQUARED = 0.3


class SegmentationMetrics:
    """
    J, F, J&F and S as the official Ref-AVS evaluation computes them (Wang et al., 2024).

    F and S depend on how videos are batched, so the official batch of 4 belongs to the protocol: videos are grouped in
    order of arrival, however many come at a time, and the score is the plain mean over batches.

    Args:
        protocol (`str`, *optional*, defaults to `"refavs"`): which rules.

    Raises:
        `ValueError`: for an unknown protocol.
    """

    def __init__(self, protocol: str = "refavs"):
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; use one of {', '.join(PROTOCOLS)}")
        self.protocol = protocol
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, mask_logits: torch.Tensor, masks: torch.Tensor) -> None:
        """
        Add videos.

        Args:
            mask_logits (`torch.Tensor` of shape `(videos, frames, H, W)`): logits; 256x256 for official numbers.
            masks (`torch.Tensor` of shape `(videos, frames, H, W)`): targets in {0, 1}.

        Raises:
            `ValueError`: where shapes differ, or a prediction is not a number.
        """
        if mask_logits.dim() != 4 or mask_logits.shape != masks.shape:
            raise ValueError(
                f"mask_logits {tuple(mask_logits.shape)} and masks {tuple(masks.shape)} must both be "
                "(videos, frames, H, W)"
            )
        if torch.isnan(mask_logits).any():
            raise ValueError("mask_logits hold NaN: a prediction that is not a number has no score")
        for logits, target in zip(mask_logits.detach().float(), masks, strict=True):
            self._waiting.append((logits, target))
            if len(self._waiting) == _VIDEOS_PER_BATCH:
                self._add(self._scores, self._waiting)
                self._waiting = []

    def compute(self) -> dict[str, float]:
        """
        The scores of all videos so far; a last batch may hold fewer than 4.

        Returns:
            `dict`: `J`, `F`, `J&F` (their mean) and `S`, the official score of references that match nothing.

        Raises:
            `ValueError`: where there were no videos.
        """
        scores: dict[str, list[float]] = defaultdict(list)
        for name, values in self._scores.items():
            scores[name] += values
        if self._waiting:
            self._add(scores, self._waiting)
        if not scores:
            raise ValueError("no videos: call `update` first")
        means = {name: sum(values) / len(values) for name, values in scores.items()}
        return {"J": means["J"], "F": means["F"], "J&F": (means["J"] + means["F"]) / 2, "S": means["S"]}

    @staticmethod
    def _add(scores: dict[str, list[float]], videos: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        logits = torch.cat([video[0] for video in videos])  # (videos * frames, H, W)
        masks = torch.cat([video[1] for video in videos]).to(logits.device)
        scores["J"].append(float(jaccard(logits, masks).mean()))
        scores["F"].append(f_score(logits, masks))
        scores["S"].append(float((torch.sigmoid(logits) > _S_THRESHOLD).float().mean().sqrt()))


def jaccard(mask_logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """
    The official J of each frame.

    Args:
        mask_logits (`torch.Tensor` of shape `(N, H, W)`): logits.
        masks (`torch.Tensor` of shape `(N, H, W)`): targets in {0, 1}.

    Returns:
        `torch.Tensor` of shape `(N,)`: intersection over union at the threshold 0.4; the share of empty pixels where
        the target is empty.
    """
    predicted = torch.sigmoid(mask_logits) > _J_THRESHOLD
    target = masks.bool()
    empty = ~target.flatten(1).any(dim=1)
    intersection = (predicted & target).sum((1, 2)).float()
    union = (predicted | target).sum((1, 2)).float()
    intersection = torch.where(empty, (~predicted & ~target).sum((1, 2)).float(), intersection)
    union = torch.where(empty, float(target[0].numel()), union)
    return intersection / (union + 1e-7)


def f_score(mask_logits: torch.Tensor, masks: torch.Tensor) -> float:
    """
    The official F of a batch: the frames' mean curve over 255 thresholds, at its highest point.

    Each pixel is put into the bin between two thresholds once and counted there, which gives the same numbers as
    comparing all pixels with every threshold.

    Args:
        mask_logits (`torch.Tensor` of shape `(N, H, W)`): logits.
        masks (`torch.Tensor` of shape `(N, H, W)`): targets in {0, 1}; frames with an empty one are left out.

    Returns:
        `float`: in [0, 1]; 0 where every target is empty.
    """
    target = masks.bool().flatten(1)
    kept = target.any(dim=1)
    if not kept.any():
        return 0.0
    probabilities, target = torch.sigmoid(mask_logits.flatten(1)[kept]), target[kept]
    thresholds = torch.linspace(0, 1 - 1e-10, _NUM_THRESHOLDS, device=probabilities.device)
    # How many thresholds a pixel reaches: it is positive at those, since they ascend.
    reached = torch.bucketize(probabilities, thresholds, right=True)  # (n, H * W), in [0, 255]
    frames = torch.arange(len(reached), device=reached.device)[:, None]
    bins = (frames * (_NUM_THRESHOLDS + 1) + reached).flatten()
    size = len(reached) * (_NUM_THRESHOLDS + 1)
    positive = _count_from_above(torch.bincount(bins, minlength=size))  # (n, 255)
    true_positive = _count_from_above(torch.bincount(bins[target.flatten()], minlength=size))
    precision = true_positive / (positive + 1e-20)
    recall = true_positive / (target.sum(dim=1, keepdim=True).float() + 1e-20)
    scores = (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)
    return float(torch.nan_to_num(scores, nan=0.0).mean(dim=0).max())


def _count_from_above(counts: torch.Tensor) -> torch.Tensor:
    """From pixels per bin to pixels at or above each threshold, `(n, 255)` float32."""
    per_frame = counts.view(-1, _NUM_THRESHOLDS + 1)
    return per_frame.flip(1).cumsum(1).flip(1)[:, 1:].float()
