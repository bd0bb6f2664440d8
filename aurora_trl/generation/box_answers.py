"""Masks of answers that end with boxes and points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..box_text import read_boxes
from ..models.box_prompts import FrameView, ObjectPrompt, draw_objects, object_prompt, place_boxes
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import without_seg_answer


@dataclass
class BoxAnswers:
    """
    What answers drew, in the form in which answers with `[SEG]` have it.

    Attributes:
        mask_logits (`torch.Tensor` of shape `(B, T, 4h, 4w)`): from the decoder; where answers may have several
            objects `(B, K, T, 4h, 4w)`, those of an answer first.
        drawn (`torch.Tensor` of shape `(B,)` or `(B, K)`, bool): where there is a mask. The others hold no meaning.
        prompts (`list`): per answer its objects, see [`ObjectPrompt`]; None where no list could be read.
    """

    mask_logits: torch.Tensor
    drawn: torch.Tensor
    prompts: list[list[ObjectPrompt] | None]


def read_prompts(
    texts: Sequence[str], views: Sequence[FrameView], num_frames: int, max_objects: int = 1
) -> list[list[ObjectPrompt] | None]:
    """
    The objects of answers; None where no list could be read.

    Args:
        texts (`list[str]`): B answers. Those of a model that asks with `[SEG]`, too, are read without that sentence.
        views (`list[FrameView]`): of the clip of each.
        num_frames (`int`), max_objects (`int`, *optional*, defaults to 1): of the model.
    """
    written = [read_boxes(without_seg_answer(text), num_frames, max_objects) for text in texts]
    return [
        None if objects is None else [object_prompt(one, view, num_frames) for one in objects]
        for objects, view in zip(written, views, strict=True)
    ]


def read_places(
    texts: Sequence[str], views: Sequence[FrameView], processor: AuroraProcessor
) -> tuple[list[list[ObjectPrompt] | None], torch.Tensor]:
    """What answers say of places beside their `[SEG]`: as `read_prompts` has it, and as `place_boxes`."""
    prompts = read_prompts(texts, views, processor.num_frames)
    sizes = [view.frame_size for view in views]
    return prompts, place_boxes(prompts, processor.geometry, sizes, processor.num_frames)


@torch.no_grad()
def draw_box_answers(
    model: AuroraModel,
    processor: AuroraProcessor,
    texts: Sequence[str],
    views: Sequence[FrameView],
    mask_embeddings: torch.Tensor,
    clip_index: torch.Tensor,
) -> BoxAnswers:
    """
    Read the boxes of answers, and let the model's mask decoder draw from them. All are drawn in a few calls, whatever
    the number of answers.

    Args:
        model (`AuroraModel`), processor (`AuroraProcessor`): of a policy that writes boxes.
        texts (`list[str]`): B answers.
        views (`list[FrameView]`): of the clip of each.
        mask_embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): of distinct clips, from `encode_masks`.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each answer.
    """
    num_frames, most = mask_embeddings.size(1), processor.max_objects
    prompts = read_prompts(texts, views, num_frames, most)
    places = [(row, number) for row, objects in enumerate(prompts) for number in range(len(objects or ()))]
    height, width = (4 * side for side in mask_embeddings.shape[-2:])
    mask_logits = torch.zeros(len(texts), most, num_frames, height, width, device=mask_embeddings.device)
    drawn = torch.zeros(len(texts), most, dtype=torch.bool, device=mask_embeddings.device)
    if places:
        rows = [row for row, _ in places]
        logits = draw_objects(
            model.mask_decoder,
            processor.geometry,
            mask_embeddings,
            [one for objects in prompts for one in objects or ()],
            clip_index[rows],
            [views[row].frame_size for row in rows],
        )
        numbers = [number for _, number in places]
        mask_logits[rows, numbers] = logits.to(mask_logits.dtype)
        drawn[rows, numbers] = True
    if most == 1:
        mask_logits, drawn = mask_logits[:, 0], drawn[:, 0]
    return BoxAnswers(mask_logits, drawn, prompts)
