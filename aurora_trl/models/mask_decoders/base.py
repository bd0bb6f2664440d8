"""What a mask decoder is to the rest of the library."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

FRAMES_AT_ONCE = 10
# Of every pixel where the object is said not to be there: a probability of 2e-9, also in bfloat16.
ABSENT_LOGIT = -20.0


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
        """The parts that a recipe may train: `mask_encoder`, which `encode` runs, and `mask_decoder`."""

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

    def decode_clips(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """
        Draw one object in all frames of clips: frame by frame with the same prompt, unless a subclass looks back.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)`): P prompt embeddings per clip, which ask for one
                object.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`: mask logits over the square frames.
        """
        num_clips, num_frames = embeddings.shape[:2]
        mask_logits = self.decode(embeddings.flatten(0, 1), prompts.repeat_interleave(num_frames, dim=0))
        return mask_logits.unflatten(0, (num_clips, num_frames))

    def decode_objects(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """
        What one prompt names, as separate objects; None where a decoder draws one object per prompt.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)`): P prompt embeddings per clip.

        Returns:
            `tuple` or `None`: mask logits `(B, K, T, 4h, 4w)`, whose union is what `decode_clips` draws, and which of
            the K objects there are `(B, K)`.
        """
        return None

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

        def encode(part: torch.Tensor) -> torch.Tensor:
            # One memory layout in and out: a clip's features are then the same to the bit whoever asks for them.
            return self.encode(part.to(weight).contiguous()).contiguous()

        embeddings = _in_parts(encode, frames.flatten(0, 1), size=self.frames_per_chunk())
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
            prompts (`torch.Tensor` of shape `(B, P, prompt_dim)`): of rows.
            clip_index (`torch.Tensor` of shape `(B,)`, *optional*): the clip of each row; None: row i shows clip i.
            mark (`Callable`, *optional*): adds to the embeddings of rows what their prompts say about each place, see
                [`~aurora_trl.models.seg_parts.SpatialPrompt`]; the first `prompt_dim` channels meet the prompts.

        Returns:
            `torch.Tensor` of shape `(B, T, 4h, 4w)`: mask logits over the square frames.
        """

        def decode(prompts: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
            shown = clips if clip_index is None else embeddings[clips]
            return self.decode_clips(shown if mark is None else mark(shown, prompts), prompts)

        size = max(1, self.frames_per_chunk() // embeddings.size(1))
        return _in_parts(decode, prompts, embeddings if clip_index is None else clip_index, size=size)

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


def _in_parts(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, size: int) -> torch.Tensor:
    """A function of rows that do not know of each other, called with at most so many where no gradient is wanted."""
    if torch.is_grad_enabled() or len(inputs[0]) <= size:
        return function(*inputs)
    return torch.cat([function(*parts) for parts in zip(*(value.split(size) for value in inputs), strict=True)])


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
