"""
Rewards of what a policy writes that gives boxes and points in place of `[SEG]`: called as TRL calls them. The mask
that was drawn from them has its own, such as `iou_reward`.

Places are in shares of the frame's width and height. An answer that names frames is compared in these, any other in
all frames; only frames that are annotated and hold the object count. Of several objects the box around all of them is
compared with the box around the target. A row whose object is in no such frame gets None, which TRL leaves out.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..data.masks import has_target
from ..prompts import is_null_answer, says_nothing_fits
from .completions import completion_text

Tensors = Sequence[torch.Tensor | None]

# Seg-Zero (Liu et al., 2025, section 3.3) gives 1 below 10 of 840 pixels, else 0. Here the reward falls off evenly, so
# that a policy that is far off has something to follow too.
_FARTHEST = 0.1


def bbox_format_reward(
    prompts: Sequence[Any], completions: Sequence[Any], pred_boxes: Tensors, **columns: Any
) -> list[float]:
    """
    1 where the answer ends with a list of boxes or points that can be read, or says that nothing fits; else 0.

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        pred_boxes (`Sequence`): per completion boxes `(N, T, 4)`, NaN where none was written, or None where no list
            could be read; the trainer gives them.
        **columns: not used.

    Returns:
        `list[float]`: one per completion.
    """
    return [
        float(boxes is not None or is_null_answer(completion_text(completion)))
        for boxes, completion in zip(pred_boxes, completions, strict=True)
    ]


def bbox_iou_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_boxes: Tensors,
    masks: Sequence[torch.Tensor],
    box_masks: Tensors = (),
    **columns: Any,
) -> list[float | None]:
    """
    IoU of the written box with the one around the target, mean over frames, in [0, 1]; 0 without a box.

    Args:
        prompts, completions (`Sequence`): not used.
        pred_boxes (`Sequence`): as for `bbox_format_reward`.
        masks (`Sequence[torch.Tensor]`): per completion the target `(T, H, W)` in {0, 1}, or `NO_TARGET` in a whole
            frame.
        box_masks (`Sequence`, *optional*): per completion filled boxes `(T, H, W)`, for a row without masks.
        **columns: not used.

    Returns:
        `list[float]`: one per completion, or None.
    """

    def score(written: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        corners = torch.minimum(written[:, 2:], target[:, 2:]) - torch.maximum(written[:, :2], target[:, :2])
        both = corners.clamp(min=0).prod(dim=1)
        areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (written, target)]
        return both / (areas[0] + areas[1] - both).clamp(min=1e-9)

    return _compare_boxes(pred_boxes, _targets(masks, box_masks), score)


def bbox_l1_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_boxes: Tensors,
    masks: Sequence[torch.Tensor],
    box_masks: Tensors = (),
    **columns: Any,
) -> list[float | None]:
    """
    1 where the edges of the written box are those of the one around the target, 0 where they are a tenth of the frame
    away in the mean, and evenly between; mean over frames. After the L1 reward of Seg-Zero (Liu et al., 2025).

    Args:
        prompts, completions, pred_boxes, masks, box_masks, **columns: as for `bbox_iou_reward`.

    Returns:
        `list[float]`: one per completion, or None.
    """

    def score(written: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (1.0 - (written - target).abs().mean(dim=1) / _FARTHEST).clamp(min=0.0)

    return _compare_boxes(pred_boxes, _targets(masks, box_masks), score)


def point_in_mask_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_points: Tensors,
    masks: Sequence[torch.Tensor],
    box_masks: Tensors = (),
    **columns: Any,
) -> list[float | None]:
    """
    The share of written points that lie on the target, over objects and frames, in [0, 1]; 0 without a point.

    Args:
        prompts, completions, masks, box_masks, **columns: as for `bbox_iou_reward`.
        pred_points (`Sequence`): per completion points `(N, T, 2)`, NaN where none was written, or None.

    Returns:
        `list[float]`: one per completion, or None.
    """
    rewards: list[float | None] = []
    for points, target in zip(pred_points, _targets(masks, box_masks), strict=True):
        present = (target == 1).flatten(1).any(dim=1)  # (T,)
        if not bool(present.any()):
            rewards.append(None)
            continue
        given = None if points is None else present.cpu() & ~points.isnan().any(dim=2)  # (N, T)
        if points is None or given is None or not bool(given.any()):
            rewards.append(0.0)
            continue
        height, width = target.shape[1:]
        columns_, rows = (
            (points[..., axis][given] * side).long().clamp(max=side - 1) for axis, side in ((0, width), (1, height))
        )
        frames = given.nonzero()[:, 1]
        rewards.append(float((target.cpu()[frames, rows, columns_] == 1).float().mean()))
    return rewards


def no_target_reward(
    prompts: Sequence[Any], completions: Sequence[Any], is_null: Sequence[bool | None], **columns: Any
) -> list[float]:
    """
    1 where the answer says that nothing fits and the reference matches nothing, or neither; else 0.

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        is_null (`Sequence[bool]`): whether the reference matches nothing.
        **columns: not used.

    Returns:
        `list[float]`: one per completion.
    """
    return [
        float(says_nothing_fits(completion_text(completion)) == bool(null))
        for completion, null in zip(completions, is_null, strict=True)
    ]


def _targets(masks: Sequence[torch.Tensor], box_masks: Tensors) -> list[torch.Tensor]:
    """What is compared in each frame `(T, H, W)`: the mask, and where nobody has drawn one, the filled box."""
    targets = []
    for own, boxes in zip(masks, box_masks or [None] * len(masks), strict=True):
        known = has_target(own)[:, None, None]
        targets.append(own if boxes is None else torch.where(known, own, boxes))
    return targets


def _compare_boxes(pred_boxes: Tensors, targets: Sequence[torch.Tensor], score: Any) -> list[float | None]:
    rewards: list[float | None] = []
    for boxes, target in zip(pred_boxes, targets, strict=True):
        present = (target == 1).flatten(1).any(dim=1).cpu()  # (T,)
        if not bool(present.any()):
            rewards.append(None)
            continue
        given = None if boxes is None else present & ~boxes.isnan().all(dim=2).all(dim=0)  # (T,)
        if boxes is None or given is None or not bool(given.any()):
            rewards.append(0.0)
            continue
        rewards.append(float(score(_around(boxes[:, given]), _boxes_of(target.cpu()[given])).mean()))
    return rewards


def _around(boxes: torch.Tensor) -> torch.Tensor:
    """The box around several `(N, T, 4)`, of which some are NaN, `(T, 4)`."""
    first, last = boxes[..., :2].nan_to_num(2.0).amin(dim=0), boxes[..., 2:].nan_to_num(-1.0).amax(dim=0)
    return torch.cat([first, last], dim=1)


def _boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """The boxes around masks `(T, H, W)` that are not empty, in shares of the frame, `(T, 4)`."""
    drawn = masks == 1
    edges = []
    for line in (drawn.any(dim=1), drawn.any(dim=2)):  # along x, along y
        size, inside = line.size(1), line.float()
        edges.append((inside.argmax(dim=1) / size, (size - inside.flip(1).argmax(dim=1)) / size))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1)
