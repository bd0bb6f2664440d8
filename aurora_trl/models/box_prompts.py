"""Boxes and points that a policy wrote, as prompts of a mask decoder: the way from text to masks without `[SEG]`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..box_text import WrittenBox, WrittenObject
from .mask_decoders.base import MaskDecoderBase
from .mask_geometry import MaskGeometry
from .policies.base import RELATIVE_SIZE


@dataclass(frozen=True)
class FrameView:
    """
    How a policy speaks of places in a clip's frames.

    Attributes:
        frame_size (`tuple[int, int]`): height and width of the frames, in pixels.
        coordinate_size (`tuple[int, int]`): height and width of a frame in the policy's own coordinates.
    """

    frame_size: tuple[int, int]
    coordinate_size: tuple[int, int] = RELATIVE_SIZE

    def to_coordinates(self, entry: WrittenBox) -> WrittenBox:
        """An entry in pixels of the frame in the policy's coordinates."""
        (height, width), (rows, columns) = self.frame_size, self.coordinate_size
        across, down = columns / width, rows / height
        box, point = entry.box, entry.point
        return WrittenBox(
            None if box is None else (box[0] * across, box[1] * down, box[2] * across, box[3] * down),
            None if point is None else (point[0] * across, point[1] * down),
            entry.label,
            entry.frame,
        )


@dataclass(frozen=True)
class ObjectPrompt:
    """
    Where an object of an answer is said to be, in shares of the frame's width and height.

    Attributes:
        boxes (`torch.Tensor` of shape `(T, 4)`, *optional*): left, top, right, bottom; NaN in a frame that was not
            named. None where only points were written.
        points (`torch.Tensor` of shape `(T, 2)`, *optional*): x and y, likewise.
        frames (`tuple[int, ...]`, *optional*): the frames that were named; None where an entry was about all.
    """

    boxes: torch.Tensor | None
    points: torch.Tensor | None
    frames: tuple[int, ...] | None = None


def object_prompt(written: WrittenObject, view: FrameView, num_frames: int) -> ObjectPrompt:
    """
    What was written about an object, at its places in a clip; what lies outside the frame is moved to its edge.

    Args:
        written (`tuple[WrittenBox, ...]`): see [`~aurora_trl.box_text.read_boxes`].
        view (`FrameView`): of the clip.
        num_frames (`int`): frames that the model takes of it, T.
    """
    height, width = view.coordinate_size
    frames = None if written[0].frame is None else tuple(sorted(entry.frame or 0 for entry in written))

    def placed(values: Sequence[tuple[float, ...] | None]) -> torch.Tensor | None:
        given = [value for value in values if value is not None]
        if not given:
            return None
        shares = torch.tensor(given, dtype=torch.float32) / torch.tensor([width, height] * (len(given[0]) // 2))
        named = slice(None) if frames is None else [entry.frame or 0 for entry in written]
        planes = torch.full((num_frames, len(given[0])), torch.nan)
        planes[named] = shares.clamp(0.0, 1.0)
        return planes

    return ObjectPrompt(placed([entry.box for entry in written]), placed([entry.point for entry in written]), frames)


def stack_prompts(
    prompts: Sequence[ObjectPrompt] | None, num_frames: int
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """
    What was written about N objects, in two tensors.

    Args:
        prompts (`list[ObjectPrompt]`, *optional*): of an answer; None where nothing could be read.
        num_frames (`int`): T.

    Returns:
        `tuple`: boxes `(N, T, 4)` and points `(N, T, 2)` in shares of the frame, NaN where none was written; None each
        where nothing could be read.
    """
    if prompts is None:
        return None, None
    boxes = [torch.full((num_frames, 4), torch.nan) if one.boxes is None else one.boxes for one in prompts]
    points = [torch.full((num_frames, 2), torch.nan) if one.points is None else one.points for one in prompts]
    return torch.stack(boxes), torch.stack(points)


@torch.no_grad()
def draw_objects(
    decoder: MaskDecoderBase,
    geometry: MaskGeometry,
    embeddings: torch.Tensor,
    prompts: Sequence[ObjectPrompt],
    clip_index: torch.Tensor,
    frame_sizes: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """
    Draw objects in all frames of their clips. A prompt that names no frames is given in each; of one that names some,
    the decoder decides what the other frames get, see [`MaskDecoderBase.decode_placed`].

    Args:
        decoder (`MaskDecoderBase`): one with a prompt encoder.
        geometry (`MaskGeometry`): where frames lie in its square.
        embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): of distinct clips, from `encode_clips`.
        prompts (`list[ObjectPrompt]`): N objects, at least one.
        clip_index (`torch.Tensor` of shape `(N,)`): the clip of each.
        frame_sizes (`list[tuple[int, int]]`): height and width of its frames, in pixels.

    Returns:
        `torch.Tensor` of shape `(N, T, 4h, 4w)`: mask logits over the square frames.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        kind = (prompt.boxes is None, prompt.points is None, prompt.frames)
        groups.setdefault(kind, []).append(number)
    size = max(1, decoder.frames_per_chunk() // embeddings.size(1))
    drawn: dict[int, torch.Tensor] = {}
    for (_, _, frames), members in groups.items():
        for start in range(0, len(members), size):
            part = members[start : start + size]
            shown = embeddings[clip_index[part]]
            tokens = _embed(decoder, geometry, [prompts[i] for i in part], [frame_sizes[i] for i in part], shown)
            drawn.update(zip(part, decoder.decode_placed(shown, tokens, frames), strict=True))  # type: ignore[arg-type]
    return torch.stack([drawn[number] for number in range(len(prompts))])


def _embed(
    decoder: MaskDecoderBase,
    geometry: MaskGeometry,
    prompts: Sequence[ObjectPrompt],
    frame_sizes: Sequence[tuple[int, int]],
    embeddings: torch.Tensor,
) -> torch.Tensor:
    """What the decoder's prompt encoder makes of objects of one kind, `(N, T, P, C)`."""

    def placed(name: str) -> torch.Tensor | None:
        planes = [getattr(prompt, name) for prompt in prompts]
        if planes[0] is None:
            return None
        scaled = [
            geometry.place(each.unflatten(1, (-1, 2)), size).flatten(1)
            for each, size in zip(planes, frame_sizes, strict=True)
        ]
        return torch.stack(scaled).flatten(0, 1).to(embeddings.device)

    tokens = decoder.embed_prompts(placed("boxes"), placed("points"))
    return tokens.unflatten(0, (len(prompts), -1)).to(embeddings.dtype)


def place_boxes(
    prompts: Sequence[Sequence[ObjectPrompt] | None],
    geometry: MaskGeometry,
    frame_sizes: Sequence[tuple[int, int]],
    num_frames: int,
) -> torch.Tensor:
    """
    What answers with one object say of its places, in all frames: a frame that was not named has those of the nearest
    that was, of two the earlier.

    Args:
        prompts (`list`): per answer its object; None where nothing could be read.
        geometry (`MaskGeometry`): where frames lie in the decoder's square.
        frame_sizes (`list[tuple[int, int]]`): height and width of each answer's frames, in pixels.
        num_frames (`int`): T.

    Returns:
        `torch.Tensor` of shape `(B, T, 6)`: left, top, right, bottom, x and y in pixels of the square; NaN where none
        was written.
    """
    places = torch.full((len(prompts), num_frames, 6), torch.nan)
    for own, objects, size in zip(places, prompts, frame_sizes, strict=True):
        if objects is None:
            continue
        named = objects[0].frames
        frames = range(num_frames)
        nearest = frames if named is None else [min(named, key=lambda other: abs(other - frame)) for frame in frames]
        for columns, shares in ((slice(0, 4), objects[0].boxes), (slice(4, 6), objects[0].points)):
            if shares is not None:
                own[:, columns] = geometry.place(shares[list(nearest)].unflatten(1, (-1, 2)), size).flatten(1)
    return places


def embed_boxes(decoder: MaskDecoderBase, places: torch.Tensor) -> torch.Tensor:
    """
    What the decoder's prompt encoder makes of places: always the same number of tokens, those of what was not written
    being the decoder's own for a prompt that is not there.

    Args:
        decoder (`MaskDecoderBase`): one with a prompt encoder.
        places (`torch.Tensor` of shape `(B, T, 6)`): from `place_boxes`.

    Returns:
        `torch.Tensor` of shape `(B, T, P, C)`: float32.
    """
    tables = decoder.prompt_tables()
    known, flat = ~places.isnan(), places.nan_to_num().flatten(0, 1)
    tokens = decoder.embed_prompts(flat[:, :4], flat[:, 4:]).unflatten(0, places.shape[:2])
    # Two corners, the point, and what pads them, which stays.
    there = torch.stack([known[..., 0], known[..., 0], known[..., 4]], dim=-1)
    there = F.pad(there, (0, tokens.size(2) - there.size(-1)), value=True)
    assert tables is not None  # `embed_prompts` says so
    return torch.where(there[..., None], tokens, tables.nothing.float().to(tokens.device))
