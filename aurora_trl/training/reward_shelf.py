"""
Rewards beyond the paper's three: outlines, steadiness, length, other names of a class, quality of masks. They are
called as TRL calls them, and never raise for what a model wrote. Where a row lacks what one compares with it gives
None, which TRL leaves out.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..data.masks import NO_TARGET, has_target
from ..evaluation.class_synonyms import index_synonyms
from ..evaluation.iou import mask_iou
from ..prompts import extract_class, normalize_class
from .completions import completion_text

# The official tolerance of an outline: this share of the frame's diagonal (Perazzi et al., 2016).
_BOUNDARY_TOLERANCE = 0.008
# From this IoU on a question counts as answered.
_SOLVED_IOU = 0.5
_SYNONYMS = index_synonyms()

Masks = Sequence[torch.Tensor | None]


def boundary_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_masks: Masks,
    masks: Sequence[torch.Tensor],
    **columns: Any,
) -> list[float | None]:
    """
    F of the outlines, mean over annotated frames, in [0, 1]; 0 without `[SEG]` (Perazzi et al., 2016).

    An outline's pixel is found where the other outline passes within 0.008 of the frame's diagonal.

    Args:
        prompts, completions (`Sequence`): not used.
        pred_masks (`Sequence`): per completion logits `(frames, H, W)`, or None.
        masks (`Sequence[torch.Tensor]`): per completion the target `(frames, H', W')` in {0, 1}, or `NO_TARGET` in a
            whole frame, which then does not count.
        **columns: not used.

    Returns:
        `list[float]`: one per completion. Two masks without an outline agree; None where no frame is annotated.
    """
    return [_over_frames(_boundary_f, *pair) for pair in zip(pred_masks, masks, strict=True)]


def consistency_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_masks: Masks,
    masks: Sequence[torch.Tensor],
    **columns: Any,
) -> list[float | None]:
    """
    How steady the masks are from frame to frame, measured by how steady the object is: one minus the mean difference
    between the IoU of two successive masks and that of their targets; 0 without `[SEG]`.

    DAVIS measures the same by how far outlines must be bent from frame to frame (Perazzi et al., 2016);
    overlaps need no matching of points. Where a mask is, this does not see: it belongs beside `iou_reward`.

    Args:
        prompts, completions, pred_masks, masks, **columns: as for `boundary_reward`.

    Returns:
        `list[float]`: one per completion; None where no two successive frames are annotated.
    """
    rewards: list[float | None] = []
    for drawn, target in zip(pred_masks, masks, strict=True):
        known = has_target(target)
        pairs = known[:-1] & known[1:]
        if not bool(pairs.any()):
            rewards.append(None)
        elif drawn is None:
            rewards.append(0.0)
        else:
            ours, theirs = _planes(drawn, target)
            difference = (_iou(ours[:-1], ours[1:]) - _iou(theirs[:-1], theirs[1:])).abs()
            rewards.append(float(1 - difference[pairs.to(difference.device)].mean()))
    return rewards


def length_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    pred_masks: Masks,
    masks: Sequence[torch.Tensor],
    **columns: Any,
) -> list[float | None]:
    """
    A price on length that adapts to the difficulty of a question: minus the share of its answers that are right,
    times the answer's length over that of the longest one (ALP, Xiang et al., 2025). Where all are right
    the shortest is best; where few are, thinking costs little.

    An answer is right where its masks reach an IoU of 0.5. The answers of a question are those of one process.

    Args:
        prompts (`Sequence`), completions (`Sequence`): equal prompts about one clip are one question.
        completion_ids (`Sequence[Sequence[int]]`): tokens of each.
        pred_masks, masks: as for `boundary_reward`.
        **columns: `id`, `frames` and `video` tell the questions apart, where the rows have them.

    Returns:
        `list[float]`: one per completion, in [-1, 0]; None where no frame is annotated.
    """
    asked = [columns[name] for name in ("id", "frames", "video") if columns.get(name) is not None]
    names = [repr(parts) for parts in zip(prompts, *asked, strict=True)]
    right = [
        drawn is not None and float(mask_iou(drawn, target)) >= _SOLVED_IOU
        for drawn, target in zip(pred_masks, masks, strict=True)
    ]
    questions: dict[Any, list[int]] = {}
    for number, name in enumerate(names):
        questions.setdefault(name, []).append(number)
    rewards: list[float | None] = [None] * len(completions)
    for numbers in questions.values():
        if not bool(has_target(masks[numbers[0]]).any()):
            continue
        # As many as one right answer, where there is none: length is never free (ALP).
        rate = max(sum(right[i] for i in numbers), 1) / len(numbers)
        longest = max(len(completion_ids[i]) for i in numbers)
        for i in numbers:
            rewards[i] = -rate * len(completion_ids[i]) / max(longest, 1)
    return rewards


def synonym_class_reward(
    prompts: Sequence[Any], completions: Sequence[Any], class_name: Sequence[str | None], **columns: Any
) -> list[float | None]:
    """
    `class_reward` that takes another name of the same thing, too, by the table of `evaluation/class_synonyms.py`,
    which the report names.

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        class_name (`Sequence[str]`): the true class; hyphens and case do not count.
        **columns: not used.

    Returns:
        `list[float]`: one per completion, 1 or 0; None where the row names no class.
    """

    return [
        float(same_thing(extract_class(completion_text(completion), name), normalize_class(name))) if name else None
        for completion, name in zip(completions, class_name, strict=True)
    ]


def mask_quality_reward(
    prompts: Sequence[Any], completions: Sequence[Any], mask_quality: Sequence[float | None], **columns: Any
) -> list[float]:
    """
    How well the mask decoder believes to have drawn: the IoU that its own head predicts (Segment Anything, Kirillov et
    al., 2023), in [0, 1]; 0 without `[SEG]`.

    It knows of no target, so that any clip will do, and it can be had by masks that look good around a wrong object:
    it belongs beside a reward that knows the object, with less weight.

    Args:
        prompts, completions (`Sequence`): not used.
        mask_quality (`Sequence[float]`): per completion, which the trainer gives where the mask decoder has it; None
            without `[SEG]`.
        **columns: not used.

    Returns:
        `list[float]`: one per completion.
    """
    return [0.0 if score is None else min(max(score, 0.0), 1.0) for score in mask_quality]


def same_thing(named: str | None, true: str) -> bool:
    """Whether two classes in their normal form are equal, or names of one thing in the table of synonyms."""
    return named is not None and (named == true or _SYNONYMS.get(named, -1) == _SYNONYMS.get(true, -2))


def _over_frames(measure: Any, drawn: torch.Tensor | None, target: torch.Tensor) -> float | None:
    """The mean of what a measure says about annotated frames."""
    known = has_target(target)
    if not bool(known.any()):
        return None
    if drawn is None:
        return 0.0
    ours, theirs = _planes(drawn, target)
    return float(measure(ours[known], theirs[known]).mean())


def _planes(drawn: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and target as masks `(frames, H, W)`, bool, at the target's size and on the logits' device."""
    target = target.to(drawn.device)
    logits = drawn.float()
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits[:, None], target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    inside = target != NO_TARGET
    return (logits > 0) & inside, (target != 0) & inside


def _iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of masks `(N, H, W)`, each with its partner; two empty ones agree."""
    union = (first | second).sum((1, 2)).float()
    return torch.where(union > 0, (first & second).sum((1, 2)) / union.clamp(min=1), 1.0)


def _boundary_f(drawn: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """F of the outlines of masks `(N, H, W)`, as [`~aurora_trl.evaluation.metrics.frames.boundary_f`], all at once."""
    radius = math.ceil(_BOUNDARY_TOLERANCE * math.hypot(*drawn.shape[-2:]))
    ours, theirs = _outlines(drawn), _outlines(target)
    counts = [outline.sum((1, 2)).float() for outline in (ours, theirs)]
    found = [(one & _near(other, radius)).sum((1, 2)) for one, other in ((ours, theirs), (theirs, ours))]
    precision, recall = (part / count.clamp(min=1) for part, count in zip(found, counts, strict=True))
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((counts[0] == 0) & (counts[1] == 0), 1.0, f)


def _outlines(masks: torch.Tensor) -> torch.Tensor:
    """The pixels that differ from their neighbour to the right, below, or both."""
    padded = F.pad(masks.float()[:, None], (0, 1, 0, 1), mode="replicate")[:, 0].bool()
    here = padded[:, :-1, :-1]
    return (here != padded[:, :-1, 1:]) | (here != padded[:, 1:, :-1]) | (here != padded[:, 1:, 1:])


def _near(outlines: torch.Tensor, radius: int) -> torch.Tensor:
    """Pixels that are within a radius of an outline's."""
    steps = torch.arange(-radius, radius + 1, device=outlines.device, dtype=torch.float32)
    disk = (steps[:, None].square() + steps.square() <= radius**2).float()
    return F.conv2d(outlines.float()[:, None], disk[None, None], padding=radius)[:, 0] > 0.5
