"""Where `[SEG]` stands in an answer, one or several, and the union of several masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def find_seg_positions(token_ids: torch.Tensor, mask: torch.Tensor, seg_token_id: int) -> torch.Tensor:
    """
    Where the last `[SEG]` of each row stands.

    Args:
        token_ids (`torch.Tensor` of shape `(B, L)`): ids as the model sees them, media tokens expanded.
        mask (`torch.Tensor` of shape `(B, L)`): true where a `[SEG]` counts (the completion).
        seg_token_id (`int`): id of `[SEG]`.

    Returns:
        `torch.Tensor` of shape `(B,)`, long: the position, or -1 where a row has none.
    """
    hits = (token_ids == seg_token_id) & mask.bool()
    index = torch.arange(token_ids.size(1), device=token_ids.device)
    return torch.where(hits, index, -1).amax(dim=1)


def find_object_positions(
    token_ids: torch.Tensor,
    mask: torch.Tensor,
    seg_token_id: int,
    sentence_end_ids: torch.Tensor,
    max_objects: int,
) -> torch.Tensor:
    """
    Where the first `[SEG]` of the final answer stand: the last sentence that holds any.

    Args:
        token_ids (`torch.Tensor` of shape `(B, L)`): ids as the model sees them, media tokens expanded.
        mask (`torch.Tensor` of shape `(B, L)`): true where a `[SEG]` counts (the completion).
        seg_token_id (`int`): id of `[SEG]`.
        sentence_end_ids (`torch.Tensor` of shape `(E,)`): ids of the tokens in which a sentence ends.
        max_objects (`int`): how many count, K.

    Returns:
        `torch.Tensor` of shape `(B, K)`, long: positions in ascending order, then -1 where a row has fewer.
    """
    counts = mask.bool()
    hits = (token_ids == seg_token_id) & counts
    index = torch.arange(token_ids.size(1), device=token_ids.device)
    last = torch.where(hits, index, -1).amax(dim=1, keepdim=True)
    ends = torch.isin(token_ids, sentence_end_ids.to(token_ids.device)) & counts & (index < last)
    begin = torch.where(ends, index, -1).amax(dim=1, keepdim=True)
    nowhere = token_ids.size(1)
    places = torch.where(hits & (index > begin), index, nowhere)
    places = F.pad(places, (0, max_objects), value=nowhere).topk(max_objects, dim=1, largest=False).values
    return places.masked_fill(places == nowhere, -1)


def union_logits(mask_logits: torch.Tensor, has_seg: torch.Tensor) -> torch.Tensor:
    """
    The mask of an answer: at each pixel the highest logit of its objects.

    Args:
        mask_logits (`torch.Tensor` of shape `(B, K, T, h, w)`): of each object.
        has_seg (`torch.Tensor` of shape `(B, K)`, bool): which of them the answer has. Where it has none, the first
            dummy stands for the mask that no loss and no score looks at.

    Returns:
        `torch.Tensor` of shape `(B, T, h, w)`.
    """
    first = torch.arange(has_seg.size(1), device=has_seg.device) == 0
    counts = has_seg | (first & ~has_seg.any(dim=1, keepdim=True))
    lowest = torch.finfo(mask_logits.dtype).min
    return mask_logits.masked_fill(~counts[:, :, None, None, None], lowest).amax(dim=1)


def mean_quality(quality: torch.Tensor, has_seg: torch.Tensor, num_frames: Sequence[int]) -> list[float | None]:
    """
    The score of each answer's masks.

    Args:
        quality (`torch.Tensor` of shape `(B, T)` or `(B, K, T)`): of each frame, or each object's.
        has_seg (`torch.Tensor` of shape `(B,)` or `(B, K)`, bool): which of them the answers have.
        num_frames (`Sequence[int]`): how many frames of each row count, the first ones.

    Returns:
        `list[float]`: the mean over frames and objects; None where an answer has no mask.
    """
    scores: list[float | None] = []
    for own, has, count in zip(quality.float().cpu(), has_seg.cpu(), num_frames, strict=True):
        drawn = own.reshape(-1, own.size(-1))[has.reshape(-1)][:, :count]
        scores.append(drawn.mean().item() if drawn.numel() else None)
    return scores


def along_rows(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Values of rows `(B,)` in a shape that goes with positions `(B,)`, or `(B, K)` where there are several."""
    return values.view(-1, *[1] * (positions.dim() - 1))
