"""SAM 2.1 from transformers, frame by frame, behind the same interface as segment-anything.

With its memory across frames: `sam2_video.py`."""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, Sam2Config, Sam2Model

from .base import ExactPositions, MaskDecoderBase, PromptTables, position_encoding

# ImageNet's, which SAM 2 was trained with, for pixels in [0, 255].
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


class Drawing(NamedTuple):
    """
    What SAM 2's decoder makes of a prompt.

    Attributes:
        mask_logits (`torch.Tensor` of shape `(N, 4h, 4w)`): logits.
        token (`torch.Tensor` of shape `(N, C)`): the state of the token that drew them.
        quality_state (`torch.Tensor` of shape `(N, C)`): the state from which their quality is told.
    """

    mask_logits: torch.Tensor
    token: torch.Tensor
    quality_state: torch.Tensor


class Sam2MaskConfig(PretrainedConfig):
    r"""
    A SAM 2 as a mask decoder.

    Args:
        sam2_config (`Sam2Config` or `dict`, *optional*): sizes, as transformers holds them.
        pixel_mean, pixel_std (`list[float]`): per channel, for pixels in [0, 255].
        keep_aspect_ratio (`bool`, *optional*, defaults to `False`): pad frames to a square; SAM 2 was trained on
            frames that are stretched to one.
    """

    model_type = "aurora_sam2"
    base_config_key = "mask_decoder_config"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"sam2_config": Sam2Config}
    published_mean = PIXEL_MEAN
    published_std = PIXEL_STD

    def __init__(
        self,
        sam2_config: PretrainedConfig | dict[str, Any] | None = None,
        pixel_mean: list[float] | None = None,
        pixel_std: list[float] | None = None,
        keep_aspect_ratio: bool = False,
        **kwargs: Any,
    ):
        ((name, config_class),) = self.sub_configs.items()
        if isinstance(sam2_config, dict):
            sam2_config = config_class(**{k: v for k, v in sam2_config.items() if k != "model_type"})
        setattr(self, name, config_class() if sam2_config is None else sam2_config)
        self.pixel_mean = list(self.published_mean if pixel_mean is None else pixel_mean)
        self.pixel_std = list(self.published_std if pixel_std is None else pixel_std)
        self.keep_aspect_ratio = keep_aspect_ratio
        super().__init__(**kwargs)

    @property
    def sam_config(self) -> Any:
        """The sizes as transformers holds them, under whatever name."""
        (name,) = self.sub_configs
        return getattr(self, name)

    @property
    def image_size(self) -> int:
        """Side of the square input image, in pixels."""
        size = self.sam_config.prompt_encoder_config.image_size
        return size if isinstance(size, int) else size[0]


class Sam2MaskDecoder(ExactPositions, MaskDecoderBase):
    """
    A SAM 2 model prompted by embeddings; each frame is segmented on its own, as an image.

    Its decoder reads feature maps of three resolutions. The two finer ones are folded into the coarse grid (blocks of
    pixels become channels, which loses nothing), so that a frame's embedding is one tensor as for every mask decoder.

    Args:
        config (`Sam2MaskConfig`): sizes.
        sam (`Sam2Model`, *optional*): a model to take in; a new one by default.
    """

    sam_class: type[PreTrainedModel] = Sam2Model
    gives_quality = True

    def __init__(self, config: Sam2MaskConfig, sam: Any = None):
        super().__init__(config)
        self.sam = self.sam_class(config.sam_config) if sam is None else sam

    @property
    def image_encoder(self) -> nn.Module:  # type: ignore[override]
        """The vision encoder."""
        return self.sam.vision_encoder

    @property
    def prompt_dim(self) -> int:
        """Width of a prompt."""
        return self.config.sam_config.mask_decoder_config.hidden_size

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The parts that a recipe may train; the rest (points, boxes, masks, presence) is never run."""
        decoder = self.sam.mask_decoder
        return {
            "mask_encoder": nn.ModuleList([self.sam.vision_encoder, decoder.conv_s0, decoder.conv_s1]),
            "mask_decoder": nn.ModuleList(
                [
                    decoder.transformer,
                    decoder.obj_score_token,
                    decoder.iou_token,
                    decoder.mask_tokens,
                    decoder.upscale_conv1,
                    decoder.upscale_layer_norm,
                    decoder.upscale_conv2,
                    decoder.output_hypernetworks_mlps[0],
                    self.sam.prompt_encoder.no_mask_embed,
                ]
            ),
            "mask_quality": decoder.iou_prediction_head,
        }

    def prompt_tables(self) -> PromptTables:
        """SAM 2's own."""
        encoder = self.sam.prompt_encoder
        frequencies = encoder.shared_embedding.positional_embedding
        return PromptTables(frequencies, encoder.point_embed.weight, encoder.not_a_point_embed.weight, pads_boxes=True)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(N, 3, S, S)` to `(N, 4C, S / 16, S / 16)`: C coarse channels, then 2C finest and C middle ones."""
        coarse, fine = self._features(frames)
        return torch.cat([self._without_memory(coarse), fine], dim=1)

    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Embeddings `(N, 4C, h, w)` and prompts `(N, P, C)` to mask logits `(N, 4h, 4w)`."""
        coarse, fine = embeddings.split([self.prompt_dim, 3 * self.prompt_dim], dim=1)
        return self._draw(coarse, fine, prompts).mask_logits

    def decode_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode`, with the IoU that SAM 2 predicts for each mask `(N,)`."""
        coarse, fine = embeddings.split([self.prompt_dim, 3 * self.prompt_dim], dim=1)
        drawn = self._draw(coarse, fine, prompts)
        return drawn.mask_logits, self._quality(drawn)

    def _quality(self, drawn: Drawing) -> torch.Tensor:
        """The IoU that SAM 2 predicts for what it drew, `(N,)`."""
        return self.sam.mask_decoder.iou_prediction_head(drawn.quality_state)[:, 0]

    def _features(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames `(N, 3, S, S)` to the coarse features `(N, C, h, w)` and the finer two `(N, 3C, h, w)`, folded."""
        finest, middle, coarse = self.sam.vision_encoder(frames).fpn_hidden_states  # strides 4, 8, 16; all of width C
        finest = self.sam.mask_decoder.conv_s0(finest)  # (N, C / 8, 4h, 4w)
        middle = self.sam.mask_decoder.conv_s1(middle)  # (N, C / 4, 2h, 2w)
        return coarse, torch.cat([F.pixel_unshuffle(finest, 4), F.pixel_unshuffle(middle, 2)], dim=1)

    def _without_memory(self, coarse: torch.Tensor) -> torch.Tensor:
        """Mark coarse features `(N, C, h, w)` as those of a frame that has none before it."""
        return coarse + self.sam.no_memory_embedding.reshape(1, -1, 1, 1)

    def _draw(self, coarse: torch.Tensor, fine: torch.Tensor, prompts: torch.Tensor) -> Drawing:
        """
        Row i of the features meets row i of the prompts, and only the single-mask output is computed: upstream's
        choice of another mask where that one looks unstable has no gradient and differs between training and use.

        Args:
            coarse (`torch.Tensor` of shape `(N, C, h, w)`): features that know of a memory, or that there is none.
            fine (`torch.Tensor` of shape `(N, 3C, h, w)`): the finer two resolutions, folded.
            prompts (`torch.Tensor` of shape `(N, P, C)`): what to draw.
        """
        decoder, width = self.sam.mask_decoder, self.prompt_dim
        finest, middle = fine.split([2 * width, width], dim=1)
        output_tokens = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        tokens = torch.cat([output_tokens.expand(len(prompts), -1, -1), prompts], dim=1)  # (N, 6 + P, C)
        image_pe = position_encoding(self.sam.shared_image_embedding.positional_embedding, *coarse.shape[-2:])
        states, grid = decoder.transformer(
            point_embeddings=tokens[:, None],
            image_embeddings=coarse + self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
            image_positional_embeddings=image_pe.to(coarse.dtype).expand(len(prompts), -1, -1, -1),
            attention_similarity=None,
        )
        grid = grid[:, 0].transpose(1, 2).reshape(coarse.shape)
        upscaled = decoder.upscale_conv1(grid) + F.pixel_shuffle(middle, 2)
        upscaled = decoder.activation(decoder.upscale_layer_norm(upscaled))
        upscaled = decoder.activation(decoder.upscale_conv2(upscaled) + F.pixel_shuffle(finest, 4))
        token = states[:, 0, 2]  # of the single mask
        kernel = decoder.output_hypernetworks_mlps[0](token)  # (N, C / 8)
        return Drawing(torch.einsum("nc,nchw->nhw", kernel, upscaled), token, states[:, 0, 1])


def add_shared_table(weights: dict[str, torch.Tensor]) -> None:
    """Give both names to the one table of positions, of which some versions of transformers save the first alone."""
    table = weights.get("shared_image_embedding.positional_embedding")
    if table is not None:
        weights.setdefault("prompt_encoder.shared_embedding.positional_embedding", table)


AutoConfig.register(Sam2MaskConfig.model_type, Sam2MaskConfig)
