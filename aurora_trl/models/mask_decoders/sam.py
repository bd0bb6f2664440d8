"""segment-anything: its image encoder, and its mask decoder for many images and prompts at once."""

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn

from ..configuration_aurora import SamConfig
from .base import MaskDecoderBase, PromptTables, position_encoding


class BatchedMaskDecoder(MaskDecoder):
    """
    segment-anything's mask decoder for many (image, prompt) pairs in one call.

    Upstream's `forward` repeats one image for N prompts and predicts four masks and their quality; here row i of the
    embeddings meets row i of the prompts and only the single-mask output is computed. The weights are upstream's.
    """

    def forward(  # type: ignore[override]
        self,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        prompts: torch.Tensor,
        dense_prompt: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            image_embeddings (`torch.Tensor` of shape `(N, C, h, w)`): from the image encoder.
            image_pe (`torch.Tensor` of shape `(1, C, h, w)`): the grid's positional encoding.
            prompts (`torch.Tensor` of shape `(N, P, C)`): the P prompt tokens of each image, decoded together.
            dense_prompt (`torch.Tensor` of shape `(1, C, 1, 1)`): the embedding that stands for "no mask given".

        Returns:
            `tuple`: mask logits `(N, 4h, 4w)`, and the state `(N, C)` from which their quality is told.
        """
        batch_size, channels, height, width = image_embeddings.shape
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        tokens = torch.cat([output_tokens.expand(batch_size, -1, -1), prompts], dim=1)  # (N, 5 + P, C)
        states, grid = self.transformer(
            image_embeddings + dense_prompt, image_pe.expand(batch_size, -1, -1, -1), tokens
        )
        upscaled = self.output_upscaling(grid.transpose(1, 2).reshape(batch_size, channels, height, width))
        kernel = self.output_hypernetworks_mlps[0](states[:, 1])  # (N, C / 8), of the single-mask token
        return torch.einsum("nc,nchw->nhw", kernel, upscaled), states[:, 0]


class FusedAttention(Attention):
    """
    segment-anything's attention with relative positions, without the matrix of all pairs of tokens.

    The bias of query i and key j is `r_h[i, row of j] + r_w[i, column of j]`: a product of what i knows of each row
    and column with a one-hot code of where j stands. Queries and keys grow by that many numbers, and one fused kernel
    does the rest. At 1,024 pixels upstream's matrices of a frame take 16 heads x 4,096 x 4,096 numbers, twice.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens `(N, H, W, C)` to the same shape."""
        _, height, width, _ = x.shape
        query, key, value = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        grid = query.unflatten(2, (height, width))
        rows = torch.einsum("nbhwc,hkc->nbhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
        columns = torch.einsum("nbhwc,wkc->nbhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
        codes = [torch.eye(side, dtype=key.dtype, device=key.device) for side in (height, width)]
        code = torch.cat([codes[0].repeat_interleave(width, 0), codes[1].repeat(height, 1)], dim=1)
        query = torch.cat([query * self.scale, rows.flatten(2, 3), columns.flatten(2, 3)], dim=-1)
        key = torch.cat([key, code.expand(*key.shape[:2], -1, -1)], dim=-1)
        # The kernels want values of the keys' width.
        values = F.pad(value, (0, key.size(-1) - value.size(-1)))
        seen = F.scaled_dot_product_attention(query, key, values, scale=1.0)[..., : value.size(-1)]
        return self.proj(seen.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class SamMaskDecoder(MaskDecoderBase):
    """
    A segment-anything model prompted by embeddings. Parameter names are those of the published `.pth` files.

    Args:
        config (`SamConfig`): sizes.
    """

    gives_quality = True

    def __init__(self, config: SamConfig):
        super().__init__(config)
        grid = config.image_size // config.patch_size
        self.image_encoder = ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.encoder_embed_dim,
            depth=config.encoder_depth,
            num_heads=config.encoder_num_heads,
            out_chans=config.prompt_embed_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.encoder_window_size,
            global_attn_indexes=tuple(config.encoder_global_attn_indexes),
        )
        for module in self.image_encoder.modules():
            if isinstance(module, Attention):
                module.__class__ = FusedAttention  # the weights are upstream's
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.prompt_embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = BatchedMaskDecoder(
            transformer_dim=config.prompt_embed_dim,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_embed_dim,
                mlp_dim=config.decoder_mlp_dim,
                num_heads=config.decoder_num_heads,
            ),
        )

    @property
    def prompt_dim(self) -> int:
        """Width of a prompt."""
        return self.config.prompt_embed_dim

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The parts that a recipe may train; the rest (points, boxes, mask prompts) is never run."""
        decoder = self.mask_decoder
        return {
            "mask_encoder": self.image_encoder,
            "mask_decoder": nn.ModuleList(
                [
                    decoder.transformer,
                    decoder.iou_token,
                    decoder.mask_tokens,
                    decoder.output_upscaling,
                    decoder.output_hypernetworks_mlps[0],
                    self.prompt_encoder.no_mask_embed,
                ]
            ),
            "mask_quality": decoder.iou_prediction_head,
        }

    def prompt_tables(self) -> PromptTables:
        """segment-anything's own."""
        encoder = self.prompt_encoder
        return PromptTables(
            encoder.pe_layer.positional_encoding_gaussian_matrix,
            torch.cat([kind.weight for kind in encoder.point_embeddings]),
            encoder.not_a_point_embed.weight,
            pads_boxes=False,
        )

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames `(N, 3, S, S)` to `(N, C, S / patch, S / patch)`."""
        return self.image_encoder(frames)

    def decode(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Embeddings `(N, C, h, w)` and prompts `(N, P, C)` to mask logits `(N, 4h, 4w)`."""
        return self._draw(embeddings, prompts)[0]

    def decode_with_quality(
        self, embeddings: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode`, with the IoU that SAM predicts for each mask `(N,)`."""
        mask_logits, state = self._draw(embeddings, prompts)
        return mask_logits, self.mask_decoder.iou_prediction_head(state)[:, 0]

    def _draw(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        image_pe = position_encoding(frequencies, *embeddings.shape[-2:]).to(embeddings.dtype)
        dense_prompt = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return self.mask_decoder(embeddings, image_pe, prompts, dense_prompt)
