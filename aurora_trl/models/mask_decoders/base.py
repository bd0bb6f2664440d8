"""What a mask decoder is to the rest of the library."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FRAMES_AT_ONCE = 10
# Of every pixel where the object is said not to be there: a probability of 2e-9, also in bfloat16.
ABSENT_LOGIT = -20.0


@dataclass(frozen=True)
class PromptTables:
    """
    What a SAM's prompt encoder knows: the published weights.

    Attributes:
        frequencies (`torch.Tensor` of shape `(2, C / 2)`): random ones, for x and for y.
        kinds (`torch.Tensor` of shape `(4, C)`): a point off the object, one on it, a box's first corner, its second.
        nothing (`torch.Tensor` of shape `(1, C)`): no point.
        pads_boxes (`bool`): that token comes behind a box, too, and not only behind a point alone.
    """

    frequencies: torch.Tensor
    kinds: torch.Tensor
    nothing: torch.Tensor
    pads_boxes: bool


class MaskDecoderBase(nn.Module, ABC):
    """
    A segmentation model prompted by embeddings.

    A subclass has an `image_encoder`, whose parameters are those that `encode` trains. Its config is a
    `PretrainedConfig` with `image_size` in pixels, `pixel_mean` and `pixel_std` per channel for pixels in [0, 255],
    and `keep_aspect_ratio`: whether frames are padded to a square or stretched to one.

    Args:
        config (`PretrainedConfig`): sizes.

    Attributes:
        frames_at_once (`float`): how many frames of 1,024 pixels are encoded and drawn in at a time, where nothing is
            learnt from them; of smaller ones as many more. What a rollout needs of memory grows with this, and not
            with its clips.
    """

    image_encoder: nn.Module
    # Whether it scores its masks: whoever says so has `decode_with_quality`.
    gives_quality = False
    # Whether one prompt may name several objects: whoever says so has `decode_objects`.
    finds_objects = False

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.frames_at_once = FRAMES_AT_ONCE

    @property
    @abstractmethod
    def prompt_dim(self) -> int:
        """Width of a prompt."""

    @abstractmethod
    def trainable_modules(self) -> dict[str, nn.Module]:
        """
        The parts that a recipe may train: `mask_encoder`, which `encode` runs, `mask_decoder`, and `mask_quality`, the
        head that scores masks, where there is one.
        """

    @abstractmethod
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """
        All that `decode` needs of frames, in one tensor: it is kept, repeated and indexed by clip.

        Args:
            frames (`torch.Tensor` of shape `(N, 3, S, S)`): RGB, normalised with the config's mean and std.

        Returns:
            `torch.Tensor` of shape `(N, E, h, w)`.
        """

    @abstractmethod
    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """
        Draw in images, each on its own.

        Args:
            embeddings (`torch.Tensor` of shape `(N, E, h, w)`): from `encode`.
            prompts (`torch.Tensor` of shape `(N, P, prompt_dim)`): P prompt embeddings per image, which ask for one
                mask.

        Returns:
            `torch.Tensor` of shape `(N, 4h, 4w)`: mask logits over the square image.
        """

    def decode_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        As `decode`, with the decoder's own score of each mask: the IoU that it believes to have reached.

        Returns:
            `tuple`: mask logits `(N, 4h, 4w)`, and their scores `(N,)`, about in [0, 1].

        Raises:
            `ValueError`: where it has no such score.
        """
        raise ValueError(f"{type(self).__name__} does not score its masks; SAM 1, SAM 2 and SAM 3's tracker do")

    def decode_clips(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """
        Draw one object in all frames of clips: frame by frame with the same prompt, unless a subclass looks back.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)`): P prompt embeddings per clip, which ask for one
                object; or `(B, T, P, prompt_dim)`, those of each frame.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`: mask logits over the square frames.
        """
        num_clips, num_frames = embeddings.shape[:2]
        mask_logits = self.decode(embeddings.flatten(0, 1), _of_frames(prompts, num_frames))
        return mask_logits.unflatten(0, (num_clips, num_frames))

    def decode_clips_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode_clips`, with a score for each frame's mask `(B, T)`, see `decode_with_quality`."""
        num_clips, num_frames = embeddings.shape[:2]
        mask_logits, quality = self.decode_with_quality(embeddings.flatten(0, 1), _of_frames(prompts, num_frames))
        return mask_logits.unflatten(0, (num_clips, num_frames)), quality.unflatten(0, (num_clips, num_frames))

    def prompt_tables(self) -> PromptTables | None:
        """What turns boxes and points into prompts; None: this decoder takes none."""
        return None

    def embed_prompts(self, boxes: torch.Tensor | None, points: torch.Tensor | None) -> torch.Tensor:
        """
        What the decoder's own prompt encoder makes of boxes and points, in float32 whatever the weights are in.

        Args:
            boxes (`torch.Tensor` of shape `(N, 4)`, *optional*): left, top, right, bottom, in pixels of the square
                image.
            points (`torch.Tensor` of shape `(N, 2)`, *optional*): x and y of a place on the object; one of the two.

        Returns:
            `torch.Tensor` of shape `(N, P, prompt_dim)`: prompts that ask for one mask.

        Raises:
            `ValueError`: where the decoder takes none.
        """
        tables = self.prompt_tables()
        if tables is None:
            raise ValueError(f"{type(self).__name__} has no prompt encoder, and can not draw from boxes or points")
        places, kinds = [], list[int]()
        if boxes is not None:
            places.append(boxes.unflatten(1, (2, 2)))
            kinds += [2, 3]
        if points is not None:
            places.append(points[:, None])
            kinds.append(1)
        # A prompt is at the middle of its pixel.
        shares = (torch.cat(places, dim=1).float() + 0.5) / self.config.image_size
        encoded = encode_places(tables.frequencies, shares)
        encoded = encoded + tables.kinds[kinds].float()
        if boxes is None or tables.pads_boxes:
            encoded = torch.cat([encoded, tables.nothing.float().expand(len(encoded), -1, -1)], dim=1)
        return encoded

    def decode_placed(
        self, embeddings: torch.Tensor, prompts: torch.Tensor, frames: Sequence[int] | None = None
    ) -> torch.Tensor:
        """
        Draw one object in all frames of clips, each of which has prompts of its own: frame by frame, unless a subclass
        looks back.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, T, P, prompt_dim)`): of each frame.
            frames (`Sequence[int]`, *optional*): those that were named; None: all. Of the others the prompts mean
                nothing, and here such a frame gets those of the nearest that was named, of two the earlier.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`: mask logits over the square frames.
        """
        if frames is not None:
            total = embeddings.size(1)
            prompts = prompts[:, [min(frames, key=lambda named: abs(named - t)) for t in range(total)]]
        return self.decode(embeddings.flatten(0, 1), prompts.flatten(0, 1)).unflatten(0, embeddings.shape[:2])

    def decode_objects(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What one prompt names, as separate objects.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)`): P prompt embeddings per clip.

        Returns:
            `tuple`: mask logits `(B, K, T, 4h, 4w)`, whose union is what `decode_clips` draws, and which of the K
            objects there are `(B, K)`.
        """
        raise NotImplementedError(f"{type(self).__name__} draws one object per prompt")

    def decode_stream(
        self, chunks: Iterable[torch.Tensor], prompts: torch.Tensor, num_frames: int
    ) -> Iterator[torch.Tensor]:
        """
        Draw objects in all frames of a long clip, whose features come and go in chunks: frame by frame, unless a
        subclass looks back, which then carries what it needs from one chunk to the next.

        Args:
            chunks (`Iterable[torch.Tensor]`): features `(1, t, E, h, w)` from `encode_clips`, in order.
            prompts (`torch.Tensor` of shape `(N, P, prompt_dim)`): of N objects.
            num_frames (`int`): of all chunks together.

        Yields:
            `torch.Tensor` of shape `(N, t, 4h, 4w)`: mask logits of a chunk.
        """
        clip_index = torch.zeros(len(prompts), dtype=torch.long, device=prompts.device)
        for embeddings in chunks:
            yield self.decode_rows(embeddings, prompts.to(embeddings.dtype), clip_index)

    def encode_clips(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Encode the frames of clips, without gradients `frames_at_once`.

        Args:
            frames (`torch.Tensor` of shape `(C, T, 3, S, S)`): on any device, from which they come as they are needed.

        Returns:
            `torch.Tensor` of shape `(C, T, E, h, w)`.
        """
        weight = next(self.image_encoder.parameters())

        def encode(part: torch.Tensor) -> tuple[torch.Tensor]:
            # One memory layout in and out: a clip's features are then the same to the bit whoever asks for them.
            return (self.encode(part.to(weight).contiguous()).contiguous(),)

        (embeddings,) = _in_parts(encode, frames.flatten(0, 1), size=self.frames_per_chunk())
        return embeddings.unflatten(0, frames.shape[:2])

    def decode_rows(
        self,
        embeddings: torch.Tensor,
        prompts: torch.Tensor,
        clip_index: torch.Tensor | None,
        mark: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Draw in all frames of the clips that rows show, without gradients `frames_at_once`.

        Args:
            embeddings (`torch.Tensor` of shape `(C, T, E, h, w)`): of distinct clips.
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)` or `(B, T, P, prompt_dim)`): of rows.
            clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row; None: row i shows clip i.
            mark (`Callable`, *optional*): adds to the embeddings of rows what their prompts say about each place, see
                [`~aurora_trl.models.seg_parts.SpatialPrompt`]; the first `prompt_dim` channels meet the prompts.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`: mask logits over the square frames.
        """

        def decode(shown: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.decode_clips(shown, prompts),)

        (mask_logits,) = self._decode_in_parts(decode, embeddings, prompts, clip_index, mark)
        return mask_logits

    def decode_rows_with_quality(
        self,
        embeddings: torch.Tensor,
        prompts: torch.Tensor,
        clip_index: torch.Tensor | None,
        mark: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode_rows`, with a score for each frame's mask `(B, T)`, see `decode_with_quality`."""
        mask_logits, quality = self._decode_in_parts(
            self.decode_clips_with_quality, embeddings, prompts, clip_index, mark
        )
        return mask_logits, quality

    def _decode_in_parts(
        self,
        decode: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]],
        embeddings: torch.Tensor,
        prompts: torch.Tensor,
        clip_index: torch.Tensor | None,
        mark: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    ) -> tuple[torch.Tensor, ...]:
        def decode_part(prompts: torch.Tensor, clips: torch.Tensor) -> tuple[torch.Tensor, ...]:
            shown = clips if clip_index is None else embeddings[clips]
            return decode(shown if mark is None else mark(shown, prompts), prompts)

        size = max(1, self.frames_per_chunk() // embeddings.size(1))
        return _in_parts(decode_part, prompts, embeddings if clip_index is None else clip_index, size=size)

    def frames_per_chunk(self) -> int:
        """`frames_at_once` in the model's size: how many frames are encoded and drawn in at a time."""
        return max(1, int(self.frames_at_once * 1024**2 / self.config.image_size**2))


class ExactPositions(nn.Module):
    """
    Mixed into a decoder: a cast leaves alone the buffers that no checkpoint holds, from which positions are computed.

    DeepSpeed casts all of a model to bfloat16, in which a frequency, or a third of a patch, is another number.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        exact = [
            (module, name, module._buffers[name])
            for module in self.modules()
            for name in module._non_persistent_buffers_set
        ]
        super()._apply(fn, recurse)
        for module, name, before in exact:
            after = module._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                module._buffers[name] = before.to(after.device)
        return self


def _of_frames(prompts: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Prompts of clips `(B, P, C)`, or of each frame `(B, T, P, C)`, as those of frames `(B T, P, C)`."""
    return prompts.flatten(0, 1) if prompts.dim() == 4 else prompts.repeat_interleave(num_frames, dim=0)


def _in_parts(
    function: Callable[..., tuple[torch.Tensor, ...]], *inputs: torch.Tensor, size: int
) -> tuple[torch.Tensor, ...]:
    """A function of rows that do not know of each other, called with at most so many where no gradient is wanted."""
    if torch.is_grad_enabled() or len(inputs[0]) <= size:
        return function(*inputs)
    outputs = [function(*parts) for parts in zip(*(value.split(size) for value in inputs), strict=True)]
    return tuple(torch.cat(values) for values in zip(*outputs, strict=True))


def encode_places(frequencies: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """
    SAM's encoding of places by random frequencies, in float32 whatever the weights are in.

    Args:
        frequencies (`torch.Tensor` of shape `(2, C / 2)`): for x and for y.
        places (`torch.Tensor` of shape `(..., 2)`): x and y, in shares of the square image.

    Returns:
        `torch.Tensor` of shape `(..., C)`.
    """
    along_x, along_y = frequencies.float()  # (C / 2,) each
    phase = 2 * math.pi * (along_x * (2 * places[..., :1] - 1) + along_y * (2 * places[..., 1:] - 1))
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def position_encoding(frequencies: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    SAM's encoding of a grid by random frequencies, in float32 whatever the weights are in.

    Upstream multiplies matrices here, which fails on half-precision weights and is rounded under autocast.

    Args:
        frequencies (`torch.Tensor` of shape `(2, C / 2)`): for x and for y.
        height, width (`int`): of the grid.

    Returns:
        `torch.Tensor` of shape `(1, C, height, width)`.
    """
    along_x, along_y = frequencies.float()[..., None, None]  # (C / 2, 1, 1) each
    x = (torch.arange(width, device=frequencies.device) + 0.5) / width
    y = (torch.arange(height, device=frequencies.device) + 0.5) / height
    phase = 2 * math.pi * (along_x * (2 * x - 1)[None, None, :] + along_y * (2 * y - 1)[None, :, None])
    return torch.cat([phase.sin(), phase.cos()])[None]
