"""Reward functions, called as TRL calls them. They never raise for what a model wrote."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..data.masks import has_target
from ..evaluation.iou import mask_iou
from ..prompts import ends_with_answer, extract_class, is_null_answer, normalize_class
from .box_rewards import (
    bbox_format_reward,
    bbox_iou_reward,
    bbox_l1_reward,
    no_target_reward,
    point_in_mask_reward,
)
from .completions import completion_text
from .hint_rewards import box_reward, point_reward
from .reward_shelf import (
    boundary_reward,
    consistency_reward,
    length_reward,
    mask_quality_reward,
    synonym_class_reward,
)

# Some TRL leaves out for a row: they give None there.
RewardFunction = Callable[..., list[float] | list[float | None]]

__all__ = [
    "BOX_REWARDS",
    "REWARDS",
    "SEG_REWARDS",
    "bbox_format_reward",
    "bbox_iou_reward",
    "bbox_l1_reward",
    "boundary_reward",
    "box_reward",
    "class_reward",
    "completion_text",
    "consistency_reward",
    "format_or_null_reward",
    "format_reward",
    "get_reward",
    "iou_or_null_reward",
    "iou_reward",
    "length_reward",
    "mask_quality_reward",
    "no_target_reward",
    "point_in_mask_reward",
    "point_reward",
    "synonym_class_reward",
]

# Those of a policy that writes boxes and points.
BOX_REWARDS = ("bbox_format_reward", "bbox_iou_reward", "bbox_l1_reward", "point_in_mask_reward")
# Those that ask for the text of `[SEG]`.
SEG_REWARDS = ("format_reward", "format_or_null_reward")

# The paper's three, the two that also take `Nothing fits.` for an answer, and what is on the shelf.
REWARDS = (
    "format_reward",
    "class_reward",
    "iou_reward",
    "format_or_null_reward",
    "iou_or_null_reward",
    "boundary_reward",
    "consistency_reward",
    "length_reward",
    "synonym_class_reward",
    "mask_quality_reward",
    "box_reward",
    "point_reward",
    *BOX_REWARDS,
    "no_target_reward",
)


def format_reward(
    prompts: Sequence[Any], completions: Sequence[Any], max_objects: Sequence[int] | None = None, **columns: Any
) -> list[float]:
    """
    1 where the final sentence is `It is [SEG]`, else 0 (AURORA, section 3.3).

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        max_objects (`Sequence[int]`, *optional*): how many `[SEG]` the sentence may hold; one by default. The trainer
            gives it where its config allows several.
        **columns: not used.

    Returns:
        `list[float]`: one per completion.
    """
    allowed = max_objects or [1] * len(completions)
    return [float(ends_with_answer(completion_text(c), most)) for c, most in zip(completions, allowed, strict=True)]


def class_reward(
    prompts: Sequence[Any], completions: Sequence[Any], class_name: Sequence[str | None], **columns: Any
) -> list[float | None]:
    """
    1 where the class named by `the target is [the] …` equals the true one, else 0 (AURORA, section 3.3).

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        class_name (`Sequence[str]`): the true class; hyphens and case do not count.
        **columns: not used.

    Returns:
        `list[float]`: one per completion; None where the row names no class, which TRL leaves out.
    """
    return [
        float(extract_class(completion_text(completion), name) == normalize_class(name)) if name else None
        for completion, name in zip(completions, class_name, strict=True)
    ]


def iou_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_masks: Sequence[torch.Tensor | None],
    masks: Sequence[torch.Tensor],
    **columns: Any,
) -> list[float | None]:
    """
    IoU of the decoded masks, mean over annotated frames, in [0, 1]; 0 without `[SEG]` (AURORA, section 3.3).

    Args:
        prompts, completions (`Sequence`): not used.
        pred_masks (`Sequence`): per completion logits `(frames, H, W)`, or None.
        masks (`Sequence[torch.Tensor]`): per completion the target `(frames, H', W')` in {0, 1}, or `NO_TARGET` in a
            whole frame, which then does not count.
        **columns: not used.

    Returns:
        `list[float]`: one per completion. Two empty masks agree; None where no frame is annotated, which TRL leaves
        out.
    """
    rewards: list[float | None] = []
    for predicted, target in zip(pred_masks, masks, strict=True):
        if not bool(has_target(target).any()):
            rewards.append(None)
        else:
            rewards.append(0.0 if predicted is None else float(mask_iou(predicted, target)))
    return rewards


def format_or_null_reward(
    prompts: Sequence[Any], completions: Sequence[Any], max_objects: Sequence[int] | None = None, **columns: Any
) -> list[float]:
    """
    `format_reward` for a model that may also say that nothing matches: 1 where the final sentence is `It is [SEG]`, or
    where there is no `[SEG]` and it is `Nothing fits`. The paper left such answers out.

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        max_objects (`Sequence[int]`, *optional*): as for `format_reward`.
        **columns: not used.

    Returns:
        `list[float]`: one per completion. Whether the answer is true is not the format's business.
    """
    drawn = format_reward(prompts, completions, max_objects)
    null = [float(is_null_answer(completion_text(completion))) for completion in completions]
    return [max(pair) for pair in zip(drawn, null, strict=True)]


def iou_or_null_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    pred_masks: Sequence[torch.Tensor | None],
    masks: Sequence[torch.Tensor],
    **columns: Any,
) -> list[float | None]:
    """
    `iou_reward` for a model that may also say that nothing matches: such an answer is an empty mask, which is right
    where the target is empty. Any other answer without `[SEG]` gets 0. The paper left such answers out.

    Args:
        prompts (`Sequence`): not used.
        completions (`Sequence`): texts or chat messages.
        pred_masks (`Sequence`): per completion logits `(frames, H, W)`, or None.
        masks (`Sequence[torch.Tensor]`): per completion the target `(frames, H', W')` in {0, 1}.
        **columns: not used.

    Returns:
        `list[float]`: one per completion.
    """
    drawn = [
        torch.full(target.shape, -1.0) if mask is None and is_null_answer(completion_text(completion)) else mask
        for mask, target, completion in zip(pred_masks, masks, completions, strict=True)
    ]
    return iou_reward(prompts, completions, drawn, masks)


def require_fitting_rewards(names: Sequence[str], mask_source: str) -> None:
    """
    Raise `ValueError` for a reward that a model with this source of masks can not earn.

    Args:
        names (`Sequence[str]`): of reward functions.
        mask_source (`str`): see [`AuroraConfig`].
    """
    if mask_source == "box" and "mask_quality_reward" in names:
        raise ValueError("masks that are drawn from boxes are not scored: leave `mask_quality_reward` out")
    strange = {"box": SEG_REWARDS, "seg": BOX_REWARDS}.get(mask_source, ())
    name = next((name for name in names if name in strange), None)
    if name is not None:
        other = "asks for [SEG]: use `bbox_format_reward`" if mask_source == "box" else "is about boxes in the answer"
        raise ValueError(f"the model has `mask_source: {mask_source}`, and `{name}` {other}")


def get_reward(name: str) -> RewardFunction:
    """
    A reward function by name.

    Args:
        name (`str`): of this module, such as `format_reward`, or `package.module:function` of one's own.

    Raises:
        `ValueError`: names what was not found.
    """
    module_name, _, function_name = name.rpartition(":")
    if not module_name:
        if function_name not in REWARDS:
            known = ", ".join(REWARDS)
            raise ValueError(
                f"unknown reward function `{name}`; use {known}, or `package.module:function` for your own"
            )
        return globals()[function_name]
    here = os.getcwd()
    try:
        # `accelerate launch` puts the script's folder on the path, and not the one that it is called in.
        with _on_path(here):
            return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reward function `{name}`: {error}; looked in {here} and among the installed packages"
        ) from None


@contextmanager
def _on_path(folder: str) -> Iterator[None]:
    """Inside the block modules are also looked for in a folder, after all others."""
    known = folder in sys.path
    if not known:
        sys.path.append(folder)
    try:
        yield
    finally:
        if not known:
            sys.path.remove(folder)
