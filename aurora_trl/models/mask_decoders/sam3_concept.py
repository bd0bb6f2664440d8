"""SAM 3's detector from transformers, to which `[SEG]` names a concept, behind the interface of a mask decoder.

The projected `[SEG]` takes the place of the text encoder's output. In each frame the detector says whether what was
named is there at all (presence), finds its instances, scores them and draws each. All instances above a threshold are
the mask of that `[SEG]`; where none is, or what was named is not there, the mask is empty.

The choice has no gradient, and what is not found would never be. So the mask is the hard one, in training as in use,
and its gradient is that of a soft one: a pixel belongs to the object where any of the best instances is one (its score
times presence) and covers it, `1 - prod(1 - score * presence * mask)`. By it a missed object raises the scores of the
instances that cover it, and what should not be there lowers them.

What this departs in from transformers' `Sam3Model`:

* Masks are drawn of the best instances alone, not of all 200.
* There are neither boxes nor a text encoder among the prompts; the semantic head, which draws all instances in one
  mask without scores, is not run.
* No dropout.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from transformers import AutoConfig, PretrainedConfig, Sam3Config
from transformers.models.sam3.modeling_sam3 import (
    Sam3DetrDecoder,
    Sam3DetrEncoder,
    Sam3DotProductScoring,
    Sam3MaskDecoder,
    Sam3PreTrainedModel,
    Sam3VisionModel,
)

from .base import ABSENT_LOGIT, ExactPositions, MaskDecoderBase
from .sam3 import PIXEL_MEAN, PIXEL_STD, keep_used_levels

# Overlap from which SAM 3 takes a detection for the object of an earlier frame (`assoc_iou_thresh` of facebook/sam3).
_SAME_OBJECT_IOU = 0.1


@dataclass(frozen=True)
class ConceptPrompts:
    """
    How `[SEG]` names a concept to SAM 3's detector.

    Args:
        max_objects (`int`, *optional*, defaults to 1): how many instances of what was named are drawn in a frame, the
            best first.
        score_threshold (`float`, *optional*, defaults to 0.5): score, times presence, that an instance needs to be
            drawn; `score_threshold_detection` of facebook/sam3.
        presence_threshold (`float`, *optional*, defaults to 0.5): probability below which what was named is not in the
            frame.

    Raises:
        `ValueError`: names the value that can not be.
    """

    max_objects: int = 1
    score_threshold: float = 0.5
    presence_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.max_objects < 1:
            raise ValueError(f"`max_objects` of concept prompts must be at least 1, got {self.max_objects}")
        for name in ("score_threshold", "presence_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}")


class Sam3ConceptConfig(PretrainedConfig):
    r"""
    SAM 3's detector as a mask decoder.

    Args:
        sam3_config (`Sam3Config` or `dict`, *optional*): sizes, as transformers holds them; dropout and the level of
            the image encoder that is not used are taken out.
        max_objects, score_threshold, presence_threshold: see [`ConceptPrompts`].
        pixel_mean, pixel_std (`list[float]`): per channel, for pixels in [0, 255].
        keep_aspect_ratio (`bool`, *optional*, defaults to `False`): pad frames to a square; SAM 3 was trained on
            frames that are stretched to one.

    Raises:
        `ValueError`: where the levels are not SAM 3's, or a value is not one that [`ConceptPrompts`] allows.
    """

    model_type = "aurora_sam3_concept"
    base_config_key = "mask_decoder_config"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"sam3_config": Sam3Config}

    def __init__(
        self,
        sam3_config: Sam3Config | dict[str, Any] | None = None,
        max_objects: int = 1,
        score_threshold: float = 0.5,
        presence_threshold: float = 0.5,
        pixel_mean: list[float] | None = None,
        pixel_std: list[float] | None = None,
        keep_aspect_ratio: bool = False,
        **kwargs: Any,
    ):
        ConceptPrompts(max_objects, score_threshold, presence_threshold)
        if isinstance(sam3_config, dict):
            sam3_config = Sam3Config(**{k: v for k, v in sam3_config.items() if k != "model_type"})
        sizes: Any = Sam3Config() if sam3_config is None else sam3_config
        keep_used_levels(sizes)
        for part in (sizes.detr_encoder_config, sizes.detr_decoder_config, sizes.mask_decoder_config):
            # Dropout would let rewards, losses and evaluation see different masks of one prompt.
            part.dropout = 0.0
        known = sizes.detr_decoder_config.num_queries
        if max_objects > known:
            raise ValueError(f"`max_objects` of concept prompts is at most {known} with this SAM 3, got {max_objects}")
        self.sam3_config = sizes
        self.max_objects = max_objects
        self.score_threshold = score_threshold
        self.presence_threshold = presence_threshold
        self.pixel_mean = list(PIXEL_MEAN if pixel_mean is None else pixel_mean)
        self.pixel_std = list(PIXEL_STD if pixel_std is None else pixel_std)
        self.keep_aspect_ratio = keep_aspect_ratio
        super().__init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Side of the square input image, in pixels."""
        size = self.sam3_config.vision_config.image_size
        return size if isinstance(size, int) else size[0]


class Sam3ConceptModel(Sam3PreTrainedModel):
    """The parts of transformers' `Sam3Model` that a prompt in place of a text passes, under their names there."""

    def __init__(self, config: Sam3Config):
        super().__init__(config)
        for part in (config.detr_encoder_config, config.detr_decoder_config, config.mask_decoder_config):
            part._attn_implementation = config._attn_implementation
        self.vision_encoder = Sam3VisionModel(config.vision_config)
        self.detr_encoder = Sam3DetrEncoder(config.detr_encoder_config)
        self.detr_decoder = Sam3DetrDecoder(config.detr_decoder_config)
        self.mask_decoder = Sam3MaskDecoder(config.mask_decoder_config)
        self.dot_product_scoring = Sam3DotProductScoring(config)
        self.post_init()


@dataclass
class ConceptInstances:
    """
    What the detector found in images.

    Attributes:
        mask_logits (`torch.Tensor` of shape `(N, K, 4h, 4w)`): of the K best instances, the best first.
        scores (`torch.Tensor` of shape `(N, K)`): that an instance is what was named, where that is there.
        presence (`torch.Tensor` of shape `(N,)`): that what was named is there.
        drawn (`torch.Tensor` of shape `(N, K)`, bool): above both thresholds.
    """

    mask_logits: torch.Tensor
    scores: torch.Tensor
    presence: torch.Tensor
    drawn: torch.Tensor


class Sam3ConceptMaskDecoder(ExactPositions, MaskDecoderBase):
    """
    SAM 3's detector prompted by embeddings; see the module's docstring.

    A frame's embedding is the image encoder's last states, with the coarsest of the levels that are made of them
    before: the finer two are 20 times as many numbers, and are made where they are needed.

    Args:
        config (`Sam3ConceptConfig`): sizes and thresholds.
        sam (`Sam3ConceptModel`, *optional*): a model to take in, with the levels of the config; a new one by default.
    """

    finds_objects = True

    def __init__(self, config: Sam3ConceptConfig, sam: Any = None):
        super().__init__(config)
        self.sam = Sam3ConceptModel(config.sam3_config) if sam is None else sam

    @property
    def image_encoder(self) -> nn.Module:  # type: ignore[override]
        """The vision encoder."""
        return self.sam.vision_encoder

    @property
    def prompt_dim(self) -> int:
        """Width of a prompt: of the text's features in the detector."""
        return self.config.sam3_config.detr_encoder_config.hidden_size

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The parts that a recipe may train; the head that refines boxes gets no gradient from masks and scores."""
        sam, pixels = self.sam, self.sam.mask_decoder.pixel_decoder
        decoder = sam.detr_decoder
        stages = len(sam.vision_encoder.neck.fpn_layers) - 1  # upstream has one more, for a level that it drops
        return {
            "mask_encoder": sam.vision_encoder,
            "mask_decoder": nn.ModuleList(
                [
                    sam.detr_encoder,
                    *decoder.layers,  # PEFT takes no list
                    decoder.output_layer_norm,
                    decoder.query_embed,
                    decoder.reference_points,
                    decoder.presence_token,
                    decoder.presence_head,
                    decoder.presence_layer_norm,
                    decoder.ref_point_head,
                    decoder.box_rpb_embed_x,
                    decoder.box_rpb_embed_y,
                    sam.dot_product_scoring,
                    *pixels.conv_layers[:stages],
                    *pixels.norms[:stages],
                    sam.mask_decoder.mask_embedder,
                    sam.mask_decoder.instance_projection,
                    sam.mask_decoder.prompt_cross_attn,
                    sam.mask_decoder.prompt_cross_attn_norm,
                ]
            ),
        }

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(N, 3, S, S)` to `(N, C + H, h, w)`: C channels of the coarsest level, then the H of the ViT."""
        states = self.sam.vision_encoder.backbone(frames).last_hidden_state  # (N, h * w, H)
        side = frames.size(-1) // self.config.sam3_config.vision_config.backbone_config.patch_size
        grid = states.transpose(1, 2).unflatten(2, (side, side))
        return torch.cat([self.sam.vision_encoder.neck.fpn_layers[-1](grid), grid], dim=1)

    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Embeddings `(N, C + H, h, w)` and prompts `(N, P, C)` to the mask logits `(N, 4h, 4w)` of all instances."""
        return union_of_instances(self.find(embeddings, prompts))

    def find(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> ConceptInstances:
        """
        The best instances of what prompts name, each apart.

        Args:
            embeddings (`torch.Tensor` of shape `(N, C + H, h, w)`): from `encode`.
            prompts (`torch.Tensor` of shape `(N, P, C)`): P features per image, in place of those of P words.

        Returns:
            `ConceptInstances`: at most `max_objects` per image.
        """
        sam, neck = self.sam, self.sam.vision_encoder.neck
        coarse, grid = embeddings.split([self.prompt_dim, embeddings.size(1) - self.prompt_dim], dim=1)
        positions = neck.position_encoding(coarse.shape, coarse.device, coarse.dtype)
        seen = sam.detr_encoder(vision_features=[coarse], text_features=prompts, vision_pos_embeds=[positions])
        found = sam.detr_decoder(
            vision_features=seen.last_hidden_state,
            text_features=prompts,
            vision_pos_encoding=seen.pos_embeds_flattened,
            spatial_shapes=seen.spatial_shapes,
        )
        queries = found.intermediate_hidden_states[-1:]  # (1, N, Q, C)
        logits = sam.dot_product_scoring(queries, prompts)[0, :, :, 0]  # (N, Q)
        scores, best = logits.float().sigmoid().topk(self.config.max_objects, dim=1)
        queries = queries[0].gather(1, best[..., None].expand(-1, -1, queries.size(-1)))  # (N, K, C)
        finer = [layer(grid) for layer in neck.fpn_layers[:-1]]
        masks = sam.mask_decoder(
            decoder_queries=queries,
            backbone_features=[*finer, coarse],
            encoder_hidden_states=seen.last_hidden_state,
            prompt_features=prompts,
        ).pred_masks
        presence = found.presence_logits[-1, :, 0].float().sigmoid()
        drawn = scores * presence[:, None] > self.config.score_threshold
        drawn = drawn & (presence >= self.config.presence_threshold)[:, None]
        return ConceptInstances(masks, scores, presence, drawn)

    @torch.no_grad()
    def decode_objects(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The instances of clips as separate objects, which keep their place from frame to frame.

        Args:
            embeddings (`torch.Tensor` of shape `(B, T, C + H, h, w)`): from `encode`, the frames of a clip in order.
            prompts (`torch.Tensor` of shape `(B, P, C)`): P features per clip.

        Returns:
            `tuple`: mask logits `(B, K, T, 4h, 4w)`, empty where an object is not, whose union is the clip's mask; and
            which of the K objects are in any frame `(B, K)`.
        """
        clips, there = [], []
        for frames, prompt in zip(embeddings, prompts, strict=True):
            parts = [
                self.find(part, prompt.expand(len(part), -1, -1)) for part in frames.split(self.frames_per_chunk())
            ]
            masks = torch.cat([part.mask_logits for part in parts])  # (T, K, 4h, 4w)
            drawn = torch.cat([part.drawn for part in parts])
            masks = masks.masked_fill(~drawn[..., None, None], ABSENT_LOGIT)
            places = torch.from_numpy(follow_instances((masks > 0).cpu().numpy(), drawn.cpu().numpy()))
            places = places.to(masks.device)
            clips.append(torch.stack([mask[place] for mask, place in zip(masks, places, strict=True)], dim=1))
            there.append(torch.stack([row[place] for row, place in zip(drawn, places, strict=True)]).any(dim=0))
        return torch.stack(clips), torch.stack(there)


def union_of_instances(found: ConceptInstances) -> torch.Tensor:
    """
    The mask of all instances that are drawn, with the gradient of the soft one: see the module's docstring.

    Args:
        found (`ConceptInstances`): of N images.

    Returns:
        `torch.Tensor` of shape `(N, 4h, 4w)`: mask logits.
    """
    hard = found.mask_logits.masked_fill(~found.drawn[..., None, None], ABSENT_LOGIT).amax(dim=1)
    if not torch.is_grad_enabled():
        return hard
    there = (found.scores * found.presence[:, None])[..., None, None]
    covered = there * found.mask_logits.float().sigmoid()  # (N, K, 4h, 4w)
    nowhere = torch.log1p(-covered.clamp(max=1 - 1e-6)).sum(dim=1)  # log of the product
    soft = torch.log(-torch.expm1(nowhere) + 1e-9) - nowhere
    return hard.detach() + (soft - soft.detach()).to(hard.dtype)


def follow_instances(masks: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """
    Give the instances of each frame to the objects of a clip, by the overlap with where each was last.

    Args:
        masks (`np.ndarray` of shape `(T, K, H, W)`, bool): of the frames' instances.
        drawn (`np.ndarray` of shape `(T, K)`, bool): which of them there are.

    Returns:
        `np.ndarray` of shape `(T, K)`: in each frame, the instance of each object.
    """
    num_frames, num_objects = drawn.shape
    last: list[np.ndarray | None] = [None] * num_objects
    places = np.empty((num_frames, num_objects), dtype=np.int64)
    for t in range(num_frames):
        gain = np.zeros((num_objects, num_objects))  # of an object, and of an instance
        for k, before in enumerate(last):
            for i in np.flatnonzero(drawn[t]):
                if before is None:
                    gain[k, i] = 0.5 - 0.01 * k / num_objects  # a new object, before one that was elsewhere
                    continue
                iou = (before & masks[t, i]).sum() / max((before | masks[t, i]).sum(), 1)
                gain[k, i] = 1 + iou if iou >= _SAME_OBJECT_IOU else 0.1
        places[t] = linear_sum_assignment(gain, maximize=True)[1]
        for k, i in enumerate(places[t]):
            if drawn[t, i]:
                last[k] = masks[t, i]
    return places


AutoConfig.register(Sam3ConceptConfig.model_type, Sam3ConceptConfig)
