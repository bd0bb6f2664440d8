"""A mask decoder that draws from boxes and points before the first phase, as a published SAM does.

The demo's SAM starts from random numbers and learns from `[SEG]`, whose gradient reaches it. A policy that writes
boxes sends it none: what draws has to know how beforehand. Here it learns from the masks of a synthetic world, with
boxes and points that are a little off, as a policy's are.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import get_cosine_schedule_with_warmup

from ..data import load_refavs
from ..data.masks import NO_TARGET
from ..generation.clip_loader import ClipLoader
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..progress import Progress

_MOST_CLIPS = 400
_JITTER = 0.1  # of a box's sides


@dataclass(frozen=True)
class DrawnFrames:
    """
    Frames with an object in each.

    Args:
        frames (`torch.Tensor` of shape `(C, T, 3, S, S)`): of distinct clips, normalised.
        masks (`torch.Tensor` of shape `(N, M, M)`, uint8): of an object in a frame, 0 in the padding.
        places (`torch.Tensor` of shape `(N, 2)`): the clip and the frame of each.
        boxes (`torch.Tensor` of shape `(N, 4)`): around it, in pixels of the square frame.
    """

    frames: torch.Tensor
    masks: torch.Tensor
    places: torch.Tensor
    boxes: torch.Tensor


def load_drawn_frames(processor: AuroraProcessor, world: str | Path, split: str, max_clips: int) -> DrawnFrames:
    """
    Read frames of a synthetic world in which the object of a reference is.

    Args:
        processor (`AuroraProcessor`): makes the inputs.
        world (`str` or `Path`): its folder.
        split (`str`): name of the split.
        max_clips (`int`): how many of its clips at most.

    Raises:
        `DataError`: where the folder is no such world, or media are missing or broken.
    """
    loader = ClipLoader(processor)
    clips: dict[tuple[str, ...], int] = {}
    frames, masks = list[torch.Tensor](), list[torch.Tensor]()
    places: list[tuple[int, int]] = []
    for row in load_refavs(world, split):
        key = tuple(row["frames"])
        if row["is_null"] or (key not in clips and len(clips) == max_clips):
            continue
        if key not in clips:
            clips[key] = len(frames)
            frames.append(loader.clip(row)["mask_frames"])
        drawn = loader.masks(row)
        drawn[drawn == NO_TARGET] = 0
        shown = drawn.flatten(1).any(dim=1).nonzero()[:, 0]
        masks.append(drawn[shown])
        places += [(clips[key], int(number)) for number in shown]
    planes = torch.cat(masks)
    scale = processor.mask_image_size / processor.mask_target_size
    return DrawnFrames(torch.stack(frames), planes, torch.tensor(places), scale * _boxes(planes))


def _boxes(masks: torch.Tensor) -> torch.Tensor:
    """Around masks `(N, M, M)`, in their pixels."""
    edges = []
    for line in (masks.any(dim=1), masks.any(dim=2)):
        inside, size = line.float(), line.size(1)
        edges.append((inside.argmax(dim=1), size - inside.flip(1).argmax(dim=1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).float()


def train_box_drawing(
    model: AuroraModel,
    processor: AuroraProcessor,
    world: str | Path,
    *,
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """
    Teach the mask decoder of a tiny model, its image encoder and its prompt encoder to draw from boxes and points.

    Args:
        model (`AuroraModel`): from `tiny_config`, changed in place.
        processor (`AuroraProcessor`): of the same.
        world (`str` or `Path`): folder of a synthetic world, whose train split teaches.
        steps, batch_size (`int`), learning_rate (`float`): of AdamW with a cosine.
        seed (`int`): of the order and of how far prompts are off.

    Returns:
        `float`: mean IoU on the val split from boxes that are not off.

    Raises:
        `DataError`: where the folder is no synthetic world, or media are missing or broken.
    """
    decoder = model.mask_decoder
    train = load_drawn_frames(processor, world, "train", _MOST_CLIPS)
    parameters = list(decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(20, steps // 10), steps)
    generator = torch.Generator().manual_seed(seed)

    def draw(drawn: DrawnFrames, chosen: torch.Tensor, boxes: torch.Tensor | None, points: torch.Tensor | None):  # type: ignore[no-untyped-def]
        clip, frame = drawn.places[chosen].T
        embeddings = decoder.encode(drawn.frames[clip, frame])
        logits = decoder.decode(embeddings, decoder.embed_prompts(boxes, points))
        return F.interpolate(logits[:, None], drawn.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    decoder.train()
    progress = Progress(steps, unit="steps")
    for step in range(steps):
        chosen = torch.randint(len(train.masks), (batch_size,), generator=generator)
        truth, boxes = train.masks[chosen].float(), train.boxes[chosen]
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = boxes + _JITTER * sides * torch.randn(boxes.shape, generator=generator)
        inside = torch.multinomial(truth.flatten(1), 1, generator=generator)[:, 0]
        scale = processor.mask_image_size / truth.size(-1)
        points = scale * torch.stack([inside % truth.size(-1), inside // truth.size(-1)], dim=1)
        kind = step % 3  # a box, a point, both
        logits = draw(train, chosen, None if kind == 1 else boxes, None if kind == 0 else points)
        probabilities = logits.sigmoid()
        both, either = (probabilities * truth).sum((1, 2)), (probabilities + truth).sum((1, 2))
        loss = 2.0 * F.binary_cross_entropy_with_logits(logits, truth) + (1 - (2 * both + 1) / (either + 1)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.step(f"drawing from boxes, loss {loss.item():.2f}")
    decoder.eval()
    val = load_drawn_frames(processor, world, "val", _MOST_CLIPS // 8)
    with torch.no_grad():
        drawn = draw(val, torch.arange(len(val.masks)), val.boxes, None) > 0
    truth = val.masks == 1
    iou = ((drawn & truth).sum((1, 2)) / (drawn | truth).sum((1, 2))).mean().item()
    sys.stderr.write(f"    drawing from boxes, IoU on val: {iou:.2f}\n")
    return iou
