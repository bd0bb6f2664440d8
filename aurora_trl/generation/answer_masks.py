"""The masks of answers: what the states at `[SEG]`, or the boxes in their texts, draw in their clips."""

from collections.abc import Sequence

import torch

from ..data.media.loading import taken_frames
from ..models.box_prompts import FrameView
from ..models.modeling_aurora import AuroraModel
from ..models.objects import mean_quality, union_logits
from ..models.processing_aurora import AuroraProcessor
from .answer import Answer
from .box_answers import draw_box_answers, read_places


def draw_from_states(
    model: AuroraModel,
    processor: AuroraProcessor,
    answers: Sequence[Answer],
    sizes: Sequence[tuple[int, int]],
    mask_embeddings: torch.Tensor,
    clip_index: torch.Tensor,
    seg_states: torch.Tensor,
    has_seg: torch.Tensor,
    with_quality: bool = False,
    boxes: torch.Tensor | None = None,
) -> None:
    """
    Put into answers what their `[SEG]`, or the queries behind them, draw.

    Args:
        model, processor: which wrote them.
        answers (`list[Answer]`): B answers.
        sizes (`list[tuple[int, int]]`): height and width of each one's frames.
        mask_embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): of distinct clips.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each answer.
        seg_states (`torch.Tensor` of shape `(B, H)` or `(B, K, H)`), has_seg (`torch.Tensor` of shape `(B,)` or
            `(B, K)`, bool): the states, and which of them there are; of queries, which answers have theirs.
        with_quality (`bool`, *optional*, defaults to `False`): let the decoder score the masks.
        boxes (`torch.Tensor` of shape `(B, T, 6)`, *optional*): what the answers say of places beside their `[SEG]`.
    """
    named = model.decode_objects(seg_states, mask_embeddings, clip_index) if seg_states.dim() == 2 else None
    if named is not None:
        mask_logits = named[0].amax(dim=1)
    elif with_quality:
        mask_logits, quality = model.decode_masks_with_quality(seg_states, mask_embeddings, clip_index, boxes)
        taken = [len(taken_frames(answer.row, processor.num_frames)) for answer in answers]
        for answer, score in zip(answers, mean_quality(quality, has_seg, taken), strict=True):
            answer.quality = score
    else:
        mask_logits = model.decode_masks(seg_states, mask_embeddings, clip_index, boxes)
    there = has_seg if model.seg_existence is None else has_seg & (model.seg_existence(seg_states) >= 0)
    for answer, own in zip(answers, _features_of_answers(model.project(seg_states), there), strict=True):
        answer.seg_features = own
    _put_masks(processor, answers, sizes, mask_logits, has_seg)
    if named is not None:
        for answer, size, logits, kept in zip(answers, sizes, *named, strict=True):
            if answer.mask_logits is not None and kept.sum() > 1:
                answer.object_logits = torch.stack([processor.restore_masks(one.cpu(), size) for one in logits[kept]])


def read_boxes_beside(
    model: AuroraModel, processor: AuroraProcessor, answers: Sequence[Answer], views: Sequence[FrameView]
) -> torch.Tensor | None:
    """What answers of a model with `mask_source: both` say of places `(B, T, 6)`; None of another. Answers keep it."""
    if model.config.mask_source != "both":
        return None
    prompts, places = read_places([answer.completion for answer in answers], views, processor)
    for answer, found in zip(answers, prompts, strict=True):
        answer.prompts = found
    return places.to(next(model.parameters()).device)


def draw_from_boxes(
    model: AuroraModel,
    processor: AuroraProcessor,
    answers: Sequence[Answer],
    views: Sequence[FrameView],
    mask_embeddings: torch.Tensor,
    clip_index: torch.Tensor,
) -> None:
    """
    Put into answers what the boxes and points in their texts draw.

    Args:
        model, processor, answers, mask_embeddings, clip_index: as for `draw_from_states`.
        views (`list[FrameView]`): how the policy speaks of places in each one's clip.
    """
    texts = [answer.completion for answer in answers]
    boxes = draw_box_answers(model, processor, texts, views, mask_embeddings, clip_index)
    for answer, found in zip(answers, boxes.prompts, strict=True):
        answer.prompts = found
    _put_masks(processor, answers, [view.frame_size for view in views], boxes.mask_logits, boxes.drawn)


def _features_of_answers(seg_features: torch.Tensor, there: torch.Tensor) -> list[torch.Tensor | None]:
    """Of features `(B, E)` or `(B, K, E)`, those that are there, `(N, E)`; None for none."""
    each = seg_features.unsqueeze(1) if seg_features.dim() == 2 else seg_features
    kept = there.reshape(len(there), -1).expand(each.shape[:2])  # an answer has all of its queries, or none
    return [features[own].cpu() if bool(own.any()) else None for features, own in zip(each, kept, strict=True)]


def _put_masks(
    processor: AuroraProcessor,
    answers: Sequence[Answer],
    sizes: Sequence[tuple[int, int]],
    mask_logits: torch.Tensor,
    drawn: torch.Tensor,
) -> None:
    """
    `mask_logits`, `object_logits` and `decoded_logits` of answers, from `(B, T, h, w)` or `(B, K, T, h, w)` and which
    of these were drawn.
    """
    object_logits = mask_logits if mask_logits.dim() == 5 else None
    counts = drawn.long()
    if object_logits is not None:
        mask_logits, counts = union_logits(object_logits, drawn), drawn.sum(dim=1)
    # Resized on the CPU, wherever the model is: what is kept of an answer then gives the same bits again.
    decoded = mask_logits.cpu()
    for i, (answer, count, size) in enumerate(zip(answers, counts.tolist(), sizes, strict=True)):
        if object_logits is not None and count > 1:
            each = [processor.restore_masks(one.cpu(), size) for one in object_logits[i, :count]]
            answer.object_logits = torch.stack(each)
        if count:
            answer.mask_logits, answer.decoded_logits = processor.restore_masks(decoded[i], size), decoded[i]
