"""Rewards of rows whose object is marked by a box or by points: called as TRL calls them, None for rows without."""

from collections.abc import Sequence
from typing import Any

import torch

from ..data.masks import NO_TARGET, has_target

Planes = Sequence[torch.Tensor | None]


def box_reward(
    prompts: Sequence[Any], completions: Sequence[Any], pred_masks: Planes, box_masks: Planes = (), **columns: Any
) -> list[float | None]:
    """
    IoU of the box around each mask with the object's, mean over the frames that have one, in [0, 1]; 0 without
    `[SEG]`.

    Args:
        prompts, completions (`Sequence`): not used.
        pred_masks (`Sequence`): per completion logits `(frames, H, W)`, or None.
        box_masks (`Sequence`): per completion filled boxes `(frames, H, W)` in {0, 1}, or `NO_TARGET` in a frame that
            has none; the trainer gives them where a row has `boxes`.
        **columns: not used.

    Returns:
        `list[float]`: one per completion; None where no frame has a box.
    """
    given = box_masks or [None] * len(completions)
    return [_box_iou(drawn, boxes) for drawn, boxes in zip(pred_masks, given, strict=True)]


def _box_iou(drawn: torch.Tensor | None, boxes: torch.Tensor | None) -> float | None:
    if boxes is None or not bool(has_target(boxes).any()):
        return None
    if drawn is None:
        return 0.0
    known = has_target(boxes).to(drawn.device)
    boxes = boxes.to(drawn.device)[known]
    ours = _box_around((drawn[known] > 0) & (boxes != NO_TARGET))
    theirs = boxes == 1
    union = (ours | theirs).sum((1, 2)).clamp(min=1)
    return float(((ours & theirs).sum((1, 2)) / union).mean())


def _box_around(masks: torch.Tensor) -> torch.Tensor:
    """The smallest box around each mask `(N, H, W)`, filled; nothing around an empty one."""

    def between(line: torch.Tensor) -> torch.Tensor:
        """True from the first true entry of a line to the last."""
        return (line.cumsum(-1) > 0) & (line.flip(-1).cumsum(-1).flip(-1) > 0)

    return between(masks.any(dim=2))[:, :, None] & between(masks.any(dim=1))[:, None, :]


def point_reward(
    prompts: Sequence[Any], completions: Sequence[Any], pred_masks: Planes, point_masks: Planes = (), **columns: Any
) -> list[float | None]:
    """
    The share of points that are on the right side of the mask's edge, in [0, 1]; 0 without `[SEG]`.

    Args:
        prompts, completions, pred_masks, **columns: as for `box_reward`.
        point_masks (`Sequence`): per completion `(frames, H, W)`, 1 at a point on the object, 0 at one off it and
            `NO_TARGET` elsewhere; the trainer gives them where a row has `points`.

    Returns:
        `list[float]`: one per completion; None where there is no point.
    """
    rewards: list[float | None] = []
    for drawn, points in zip(pred_masks, point_masks or [None] * len(completions), strict=True):
        if points is None or not bool((points != NO_TARGET).any()):
            rewards.append(None)
        elif drawn is None:
            rewards.append(0.0)
        else:
            points = points.to(drawn.device)
            known = points != NO_TARGET
            rewards.append(float(((drawn > 0) == (points == 1))[known].float().mean()))
    return rewards
