"""One `[SEG]`, every frame: masks of a whole clip, chunk by chunk."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from ..data.masks import frame_size
from ..data.media.streaming import stream_frames
from ..data.schema import Row
from ..models.modeling_aurora import AuroraModel
from ..models.objects import union_logits
from ..models.processing_aurora import AuroraProcessor

# Of the frames as they are read: a chunk of a large video holds fewer of them.
_CHUNK_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class FrameMasks:
    """
    A frame and what is drawn in it.

    Attributes:
        number (`int`): of the frame in its clip.
        seconds (`float` or `None`): when it is shown; None for images without sound, which have no times.
        frame (`np.ndarray` of shape `(H, W, 3)`, uint8): RGB, upright.
        mask (`np.ndarray` of shape `(H, W)`, uint8): 0 or 1, of all objects together; all 0 where the answer has no
            `[SEG]`.
        masks (`np.ndarray` of shape `(N, H, W)`, uint8): of each object; of one alone the same.
    """

    number: int
    seconds: float | None
    frame: np.ndarray
    mask: np.ndarray
    masks: np.ndarray


def masks_of_frame_size(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Mask logits `(T, h, w)` with the frame's aspect ratio as masks `(T, H, W)` uint8 of its size, on the CPU."""
    planes = F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    return (planes > 0).to(torch.uint8).cpu().numpy()


def require_streamable(model: AuroraModel) -> None:
    """Raise `ValueError` for a model with a spatial prompt or boxes, which a stream of frames does not carry."""
    if model.config.mask_source != "seg":
        raise ValueError("every frame: this model writes boxes for the frames that it reads, and draws in these alone")
    if model.seg_spatial is not None:
        raise ValueError("every frame: this model has a spatial prompt, which is given to its own frames alone")


@torch.no_grad()
def draw_frames(
    model: AuroraModel,
    processor: AuroraProcessor,
    row: Row,
    seg_features: torch.Tensor | None,
    numbers: Sequence[int],
    seconds: Sequence[float] | None,
) -> Iterator[FrameMasks]:
    """
    Draw the objects of an answer in frames of its clip. The same features prompt the decoder in all of them; frames
    are read, encoded and decoded in chunks, so that memory does not grow with their number.

    Args:
        model (`AuroraModel`): in eval mode; see `require_streamable`.
        processor (`AuroraProcessor`): the model's.
        row (`dict`): the clip.
        seg_features (`torch.Tensor` of shape `(N, E)`, *optional*): projected states at the `[SEG]` of the answer, or
            at its queries,
            see [`~aurora_trl.generation.answers.Answer`]; without any all masks are empty.
        numbers (`Sequence[int]`): which frames, in rising order, see `choose_frames`.
        seconds (`Sequence[float]`, *optional*): when each is shown.

    Yields:
        `FrameMasks`: one per frame, in order.

    Raises:
        `DataError`: names the file that can not be read.
    """
    height, width = frame_size(row)
    frames = stream_frames(row, numbers)
    times: Sequence[float | None] = [None] * len(numbers) if seconds is None else seconds
    if seg_features is None:
        for number, moment, frame in zip(numbers, times, frames, strict=True):
            nothing = np.zeros((1, height, width), np.uint8)
            yield FrameMasks(number, moment, frame, nothing[0], nothing)
        return
    size = min(model.mask_decoder.frames_per_chunk(), max(1, _CHUNK_BYTES // (3 * height * width)))
    held: deque[np.ndarray] = deque()

    def encode() -> Iterator[torch.Tensor]:
        while part := list(islice(frames, size)):
            held.append(np.stack(part))
            yield model.encode_masks(processor.process_mask_frames(held[-1])[None])

    def drawn(logits: torch.Tensor) -> np.ndarray:
        return masks_of_frame_size(processor.restore_masks(logits, (height, width)), (height, width))

    prompts = model.prompts_of_objects(seg_features.to(next(model.mask_decoder.parameters()).device))
    place, counts = 0, torch.ones(1, len(prompts), dtype=torch.bool, device=prompts.device)
    for logits in model.mask_decoder.decode_stream(encode(), prompts, len(numbers)):  # (N, t, h, w)
        part = held.popleft()
        masks = np.stack([drawn(each) for each in logits], axis=1)  # (t, N, H, W)
        together = masks[:, 0]
        if len(logits) > 1:
            together = drawn(union_logits(logits[None], counts)[0])
        for frame, mask, each in zip(part, together, masks, strict=True):
            yield FrameMasks(numbers[place], times[place], frame, mask, each)
            place += 1
