"""SAM 2.1 with its memory: the frames of a clip in order, each seen in the light of those before it.

The weights are those of the published video checkpoints, which the per-frame decoder reads without their memory. Where
this departs from transformers' `Sam2VideoModel`, which tracks one object at a time in a session:

* All clips of a batch take the same step at once; the loop is over frames alone.
* `[SEG]` prompts every frame by default. It names an object in the clip, not a place in its first frame, where the
  object may still be out of sight; a prompt that stands on the first frame alone could never find it.
* Only the single-mask output is computed, as by the per-frame decoder.
* Whether the object is in a frame is read from the mask that was drawn, not from SAM's score head: that one learned
  from clicks, no loss here teaches it to judge `[SEG]`, and its verdict would cut the mask off from the gradient.
* Memories are not rounded to bfloat16.
* A long clip comes in chunks, and the memory goes on from one to the next: a frame looks back at the clip's first one
  and at the last ones before it, as far as upstream's tables reach, whatever the chunks.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import get_1d_sine_pe

from .sam2 import Drawing, Sam2MaskConfig, Sam2MaskDecoder

PROMPT_FRAMES = ("all", "first")
# What only the memory needs of a published checkpoint.
MEMORY_WEIGHTS = re.compile(
    r"memory_|mask_downsample\.|object_pointer_proj\.|temporal_positional_encoding_projection_layer\."
    r"|no_memory_positional_encoding|no_object_pointer|occlusion_spatial_embedding_parameter"
)
# Upstream's logits of a frame without the object: its memory holds none of the undecided places of a real mask.
_ABSENT_LOGIT = -1024.0


@dataclass(frozen=True)
class ClipMemory:
    """
    How frames of a clip know of each other.

    Args:
        num_memory_frames (`int`, *optional*, defaults to 7): frames that a frame looks back at: the first of its clip,
            and the ones right before it. The published weights know up to 7.
        prompt_frames (`str`, *optional*, defaults to `"all"`): frames that `[SEG]` prompts; with `"first"` the others
            draw what the memory holds, as in tracking.
        memory_gradients (`bool`, *optional*, defaults to `False`): let the loss of a frame reach the frames before it,
            and train what writes the memory. The backward pass then goes through all frames in turn and keeps, for
            each, the memory encoder's maps of the whole image: at 1024 pixels that is more than all the rest of the
            decoder. With `prompt_frames="first"` only this lets later frames teach the prompt. Memories are then of
            soft masks; without gradients those of prompted frames are hard, as in upstream's inference.

    Raises:
        `ValueError`: names the value that is not one of these.
    """

    num_memory_frames: int = 7
    prompt_frames: str = "all"
    memory_gradients: bool = False

    def __post_init__(self) -> None:
        if self.num_memory_frames < 1:
            raise ValueError(
                f"`num_memory_frames` must be at least 1, got {self.num_memory_frames}; "
                "a decoder without memory draws frame by frame"
            )
        if self.prompt_frames not in PROMPT_FRAMES:
            raise ValueError(f"`prompt_frames` must be one of {', '.join(PROMPT_FRAMES)}, got {self.prompt_frames!r}")


class Sam2VideoMaskConfig(Sam2MaskConfig):
    r"""
    A SAM 2 with its memory as a mask decoder.

    Args:
        sam2_config (`Sam2VideoConfig` or `dict`, *optional*): sizes, as transformers holds them.
        num_memory_frames, prompt_frames, memory_gradients: see [`ClipMemory`].
        **kwargs: see [`Sam2MaskConfig`].

    Raises:
        `ValueError`: where the sizes do not go together, or a value is not one that [`ClipMemory`] allows.
    """

    model_type = "aurora_sam2_video"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"sam2_config": Sam2VideoConfig}
    sam_name = "SAM 2"

    def __init__(
        self,
        sam2_config: PretrainedConfig | dict[str, Any] | None = None,
        num_memory_frames: int = 7,
        prompt_frames: str = "all",
        memory_gradients: bool = False,
        **kwargs: Any,
    ):
        ClipMemory(num_memory_frames, prompt_frames, memory_gradients)
        self.num_memory_frames = num_memory_frames
        self.prompt_frames = prompt_frames
        self.memory_gradients = memory_gradients
        super().__init__(sam2_config, **kwargs)
        sam = self.sam_config
        known = sam.num_maskmem
        if num_memory_frames > known:
            raise ValueError(
                f"`num_memory_frames` is at most {known} with this {self.sam_name}, got {num_memory_frames}"
            )
        grid = [self.image_size // sam.prompt_encoder_config.patch_size] * 2
        if list(sam.memory_attention_rope_feat_sizes) != grid:
            raise ValueError(
                f"`memory_attention_rope_feat_sizes` {sam.memory_attention_rope_feat_sizes} is not the grid {grid} of "
                f"an image of {self.image_size} pixels"
            )


@dataclass
class _Memory:
    """What is kept of a frame: features `(B, h * w, M)` and the object's pointer `(B, C)`."""

    features: torch.Tensor
    pointer: torch.Tensor


class _ClipMemories:
    """
    Memories of the frames of clips, by number.

    Args:
        num_frames (`int`): of each clip.
        *reaches (`int`): how far any part of the decoder looks back, in frames; what is older is let go, but for the
            first frame. All are kept without it, as training needs them.
        prompted (`Collection[int]`, *optional*): the frames that are prompted; by default what the config says. The
            first one is in any case.
    """

    def __init__(self, num_frames: int, *reaches: int, prompted: Collection[int] | None = None):
        self.num_frames = num_frames
        self.prompted = prompted
        self.now = 0
        self.memories: dict[int, _Memory] = {}
        self._reach = max(reaches, default=num_frames)

    def add(self, memory: _Memory) -> None:
        """Remember the frame that was drawn; the next one is now."""
        self.memories[self.now] = memory
        self.now += 1
        old = self.now - self._reach - 1
        if old > 0:
            self.memories.pop(old, None)


class Sam2VideoMaskDecoder(Sam2MaskDecoder):
    """
    A SAM 2 model prompted by embeddings, whose frames look back; see the module's docstring.

    An image, or a clip's first frame, is drawn as by [`Sam2MaskDecoder`].

    Args:
        config (`Sam2VideoMaskConfig`): sizes and settings.
        sam (`Sam2VideoModel`, *optional*): a model to take in; a new one by default.
    """

    sam_class: type[PreTrainedModel] = Sam2VideoModel

    def trainable_modules(self) -> dict[str, nn.Module]:
        """As frame by frame, with what reads the memory and, where gradients reach it, what writes it."""
        groups = super().trainable_modules()
        memory = [self.sam.memory_attention, self.sam.temporal_positional_encoding_projection_layer]
        if self.config.memory_gradients:
            memory += [self.sam.memory_encoder, self.sam.object_pointer_proj]
        parts = [*groups["mask_decoder"].children(), *(part for part in memory if list(part.parameters()))]
        return {**groups, "mask_decoder": nn.ModuleList(parts)}

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """As frame by frame, but not yet marked as without memory."""
        return torch.cat(self._features(frames), dim=1)

    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Images: clips of one frame."""
        return self.decode_clips(embeddings[:, None], prompts)[:, 0]

    def decode_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images: clips of one frame."""
        mask_logits, quality = self.decode_clips_with_quality(embeddings[:, None], prompts)
        return mask_logits[:, 0], quality[:, 0]

    def decode_clips(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, T, 4C, h, w)` and prompts `(B, P, C)` to mask logits `(B, T, 4h, 4w)`, frame after frame."""
        return self._draw_clips(embeddings, prompts)[0]

    def decode_clips_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode_clips`, with the IoU that SAM 2 predicts for each frame's mask `(B, T)`."""
        mask_logits, drawn = self._draw_clips(embeddings, prompts)
        return mask_logits, torch.stack([self._quality(each) for each in drawn], dim=1)

    def _draw_clips(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, list[Drawing]]:
        """All frames of clips: mask logits `(B, T, 4h, 4w)`, and what was drawn in each."""
        num_frames = embeddings.size(1)
        # Nothing looks back at an image, but DDP and ZeRO wait for every part that trains.
        run_unseen = num_frames == 1 and torch.is_grad_enabled()
        clip = _ClipMemories(num_frames)
        drawn = self._draw_next(embeddings, prompts, clip, run_unseen)
        masks = torch.stack([each.mask_logits for each in drawn], dim=1)
        if run_unseen:
            coarse = embeddings[:, 0, : self.prompt_dim]
            masks = masks + 0.0 * self._look_back(coarse, clip).mean()
        return masks, drawn

    def decode_placed(
        self, embeddings: torch.Tensor, prompts: torch.Tensor, frames: Sequence[int] | None = None
    ) -> torch.Tensor:
        """
        As of any decoder, but a frame that was not named draws what the memory holds. The clip is gone through from
        the first frame that was named to its end, and from there to its beginning, each way with a memory of its own.
        Where none was named the config says which frames are prompted.
        """
        num_frames = embeddings.size(1)
        begin = min(frames or (0,))
        after = None if frames is None else {named - begin for named in frames}
        drawn = self._draw_next(embeddings[:, begin:], prompts[:, begin:], _ClipMemories(num_frames, prompted=after))
        if begin > 0:
            back = slice(begin + 1)
            clip = _ClipMemories(num_frames, prompted={0})
            before = self._draw_next(embeddings[:, back].flip(1), prompts[:, back].flip(1), clip)
            drawn = [*reversed(before[1:]), *drawn]
        return torch.stack([each.mask_logits for each in drawn], dim=1)

    def decode_stream(
        self, chunks: Iterable[torch.Tensor], prompts: torch.Tensor, num_frames: int
    ) -> Iterator[torch.Tensor]:
        """As of any decoder; of the frames before, only those that a later one looks back at are remembered."""
        clip = _ClipMemories(num_frames, self.config.num_memory_frames, self.sam.config.max_object_pointers_in_encoder)
        for embeddings in chunks:
            repeated = embeddings.expand(len(prompts), -1, -1, -1, -1)
            drawn = self._draw_next(repeated, prompts.to(embeddings.dtype), clip)
            yield torch.stack([each.mask_logits for each in drawn], dim=1)

    def _draw_next(
        self, embeddings: torch.Tensor, prompts: torch.Tensor, clip: _ClipMemories, keep_last: bool = False
    ) -> list[Drawing]:
        """
        What is drawn in each of the next frames of clips `(B, t, 4C, h, w)`; `clip` remembers them. The prompts are
        those of all frames `(B, P, C)`, or of each `(B, t, P, C)`.
        """
        coarse, fine = embeddings.split([self.prompt_dim, 3 * self.prompt_dim], dim=2)
        # Upstream's prompt of a tracked frame: two tokens for points that are not there.
        no_prompt = self.sam.prompt_encoder.not_a_point_embed.weight.expand(len(prompts), 2, -1)
        drawn: list[Drawing] = []
        for i in range(embeddings.size(1)):
            features, first = coarse[:, i], clip.now == 0
            prompted = first or self._is_prompted(clip)
            given = prompts if prompts.dim() == 3 else prompts[:, i]
            seen = self._without_memory(features) if first else self._look_back(features, clip)
            now = self._draw(seen, fine[:, i], given if prompted else no_prompt.to(prompts.dtype))
            drawn.append(now)
            if keep_last or clip.now < clip.num_frames - 1:
                clip.add(self._memorise(features, now.mask_logits, now.token, prompted))
        return drawn

    def _is_prompted(self, clip: _ClipMemories) -> bool:
        return self.config.prompt_frames == "all" if clip.prompted is None else clip.now in clip.prompted

    def _memorise(
        self, features: torch.Tensor, mask_logits: torch.Tensor, token: torch.Tensor, prompted: bool
    ) -> _Memory:
        """
        What later frames look back at.

        Args:
            features (`torch.Tensor` of shape `(B, C, h, w)`): the frame's, without memory.
            mask_logits (`torch.Tensor` of shape `(B, 4h, 4w)`), token (`torch.Tensor` of shape `(B, C)`): what was
                drawn, and the token that drew it.
            prompted (`bool`): `[SEG]` prompted the frame.
        """
        sam, gradients = self.sam, self.config.memory_gradients
        with torch.set_grad_enabled(torch.is_grad_enabled() and gradients):
            present = (mask_logits > 0).flatten(1).any(dim=1)  # (B,)
            mask_logits = torch.where(present[:, None, None], mask_logits, _ABSENT_LOGIT).float()
            mask_logits = mask_logits[:, None]
            # By way of the image's size, which is not the memory encoder's where patches are not of 16 pixels.
            for side in dict.fromkeys(
                (self.config.image_size, features.size(-1) * sam.config.mask_downsampler_total_stride)
            ):
                mask_logits = F.interpolate(mask_logits, (side, side), mode="bilinear", align_corners=False)
            # A hard mask has no gradient; one rule for training and use, unlike upstream, so that both draw the same.
            masks = (mask_logits > 0).float() if prompted and not gradients else mask_logits.sigmoid()
            masks = masks * sam.config.sigmoid_scale_for_mem_enc + sam.config.sigmoid_bias_for_mem_enc
            memory, _ = sam.memory_encoder(features, masks.to(features.dtype))  # (B, M, h, w)
            if sam.occlusion_spatial_embedding_parameter is not None:
                absent = sam.occlusion_spatial_embedding_parameter.reshape(1, -1, 1, 1)
                memory = memory + (~present)[:, None, None, None] * absent
            pointer = torch.where(present[:, None], sam.object_pointer_proj(token), sam.no_object_pointer)
            return _Memory(memory.flatten(2).transpose(1, 2), pointer)

    def _look_back(self, features: torch.Tensor, clip: _ClipMemories) -> torch.Tensor:
        """
        A frame's features in the light of the first frame, the ones right before it and the pointers of some more.

        Args:
            features (`torch.Tensor` of shape `(B, C, h, w)`): the frame's, without memory.
            clip (`_ClipMemories`): of the frames before it.

        Returns:
            `torch.Tensor` of shape `(B, C, h, w)`.
        """
        sam, now, memories = self.sam, clip.now, clip.memories
        height, width = features.shape[-2:]
        where = {"device": features.device, "dtype": features.dtype}
        width_of_memory = memories[0].features.size(-1)
        grid = sam.memory_encoder.position_encoding(torch.Size((1, width_of_memory, height, width)), **where)
        grid = grid.flatten(2).transpose(1, 2)  # (1, h * w, M)
        # Row k - 1 of the table is for k frames ago, the last row for the frame that began the clip.
        table = sam.memory_temporal_positional_encoding[:, 0, 0]  # (num_maskmem, M)
        frames = [0, *range(max(1, now - self.config.num_memory_frames + 1), now)]
        keys = [memories[i].features for i in frames]
        positions = [grid + table[now - i - 1 if i else -1] for i in frames]
        pointers, pointer_positions = self._pointers(clip)
        frame_positions = sam.vision_encoder.neck.position_encoding(features[:1].shape, **where)
        # Positional arguments: upstream misspells the name of the fourth (transformers 5.24).
        seen = sam.memory_attention(
            features.flatten(2).permute(2, 0, 1),
            torch.cat([*keys, pointers], dim=1).transpose(0, 1),
            frame_positions.flatten(2).permute(2, 0, 1),
            torch.cat([*positions, pointer_positions], dim=1).transpose(0, 1),
            pointers.size(1),
        )
        return seen.reshape(-1, height * width, features.size(1)).transpose(1, 2).reshape(features.shape)

    def _pointers(self, clip: _ClipMemories) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(B, L, M)` of the object's pointers in earlier frames, and their positions in time `(1, L, M)`."""
        sam, now, memories = self.sam, clip.now, clip.memories
        limit = min(clip.num_frames, sam.config.max_object_pointers_in_encoder)
        frames = [0, *range(now - 1, max(0, now - limit), -1)]
        pointers = torch.stack([memories[i].pointer for i in frames], dim=1)  # (B, frames, C)
        batch_size, _, channels = pointers.shape
        width = memories[0].features.size(-1)
        if sam.config.enable_temporal_pos_encoding_for_object_pointers:
            ago = torch.tensor([now - i for i in frames], device=pointers.device, dtype=torch.float32)
            waves = get_1d_sine_pe(ago / max(limit - 1, 1), dim=channels).to(pointers.dtype)
            positions = sam.temporal_positional_encoding_projection_layer(waves)  # (frames, M)
        else:
            positions = pointers.new_zeros(len(frames), width)
        # A pointer wider than a memory is as many tokens as it takes.
        tokens = pointers.reshape(batch_size, -1, width)
        return tokens, positions.repeat_interleave(channels // width, dim=0)[None]


AutoConfig.register(Sam2VideoMaskConfig.model_type, Sam2VideoMaskConfig)
