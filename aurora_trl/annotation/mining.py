"""Hard samples: what a model gets wrong on its own training data (AURORA, section 3.2)."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..data.collator import ClipLoader
from ..inference import Answer, answer_rows
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import extract_class, normalize_class
from ..training.rewards import iou_reward

MAX_IOU = 0.6


def mine_hard_rows(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[dict[str, Any]],
    *,
    max_iou: float = MAX_IOU,
    batch_size: int = 16,
    max_new_tokens: int = 256,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """
    Let a model answer its training rows and find those whose mask **and** reasoning are wrong: IoU below 0.6, and
    another class than the target's.

    Args:
        model, processor: from [`~aurora_trl.inference.load`].
        rows (`Sequence[dict]`): dataset rows with masks.
        max_iou (`float`, *optional*, defaults to 0.6): the paper's.
        batch_size (`int`, *optional*, defaults to 16): rows per forward.
        max_new_tokens (`int`, *optional*, defaults to 256): longest answer, in tokens.

    Yields:
        `tuple[dict, bool]`: each row with what the model wrote as `target`, and whether it is hard.
    """
    loader = ClipLoader(processor, cache_clips=2 * batch_size)
    answers = answer_rows(model, processor, rows, batch_size=batch_size, max_new_tokens=max_new_tokens, loader=loader)
    for answer in answers:
        yield {**answer.row, "target": answer.completion}, is_hard(answer, loader, max_iou)


def is_hard(answer: Answer, loader: ClipLoader, max_iou: float = MAX_IOU) -> bool:
    """Whether mask and class of an answer are both wrong."""
    if extract_class(answer.completion) == normalize_class(answer.row["class_name"]):
        return False
    logits = answer.mask_logits
    if logits is not None:
        # Into the geometry of the target: the decoder's square, which the frame fills from the top left.
        side = max(logits.shape[-2:])
        logits = _pad_square(logits, side)
    return iou_reward([None], [answer.completion], [logits], [loader.masks(answer.row)])[0] < max_iou


def _pad_square(logits: Any, side: int) -> Any:
    height, width = logits.shape[-2:]
    square = logits.new_full((logits.shape[0], side, side), -1.0)
    square[:, :height, :width] = logits
    return square
