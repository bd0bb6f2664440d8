"""Small SAMs with the weights' names and layouts of the published ones."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam3VideoConfig, Sam3VideoModel


def small_sam(seed: int = 0) -> nn.Module:
    """segment-anything's own model: 4 blocks of width 32, one of two global, 8 x 8 patches of 16 px, windows of 3."""
    torch.manual_seed(seed)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=128,
            patch_size=16,
            embed_dim=32,
            depth=4,
            num_heads=4,
            out_chans=32,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1, 3),
        ),
        prompt_encoder=PromptEncoder(32, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)
        ),
    )
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:  # zero in a new model
                parameter.normal_(std=0.5)
    return sam.eval()


def small_sam2(seed: int = 0) -> Sam2Model:
    """transformers' own SAM 2: 64 px, two stages' blocks less, all widths small."""
    torch.manual_seed(seed)
    return _without_zeros(Sam2Model(Sam2Config(**_sam2_sizes(32))))


def small_sam2_video(seed: int = 0, **sizes: Any) -> Sam2VideoModel:
    """The same with its memory, as the published checkpoints have it: 3 frames and 4 pointers are remembered."""
    torch.manual_seed(seed)
    width = 128  # a pointer is two tokens of a memory, whose width of 64 is fixed in transformers
    config = Sam2VideoConfig(
        **_sam2_sizes(width),
        **_small_memory(width),
        image_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        **sizes,
    )
    return _with_memory_that_shows(_without_zeros(Sam2VideoModel(config)))


def _sam2_sizes(width: int) -> dict[str, Any]:
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [64, 64],
                "hidden_size": 8,
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 2, 1],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {"hidden_size": width, "image_size": 64},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    }


def write_sam3(folder: Path, seed: int = 0, **sizes: Any) -> Sam3VideoModel:
    """
    The folder of `facebook/sam3` with transformers' own SAM 3, all parts small: 112 px, a grid of 8 by 8 patches.

    Its names are those of the published file, which transformers (5.24) does not write: it doubles the tracker's.
    """
    torch.manual_seed(seed)
    width = 128  # as for SAM 2's memory
    attention = {"num_attention_heads": 4}
    layers = {"hidden_size": width, "intermediate_size": 64, "num_layers": 2, **attention}
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "image_size": 112,
            "patch_size": 14,
            "pretrain_image_size": 42,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "window_size": 3,
            "global_attn_indexes": [1],
            **attention,
        },
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": width,
    }
    config = Sam3VideoConfig(
        detector_config={
            "model_type": "sam3",
            "vision_config": vision,
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": 64,
                "hidden_size": 32,
                "intermediate_size": 32,
                "projection_dim": 16,
                "num_hidden_layers": 1,
                "max_position_embeddings": 8,
                "bos_token_id": 62,
                "eos_token_id": 63,
                **attention,
            },
            "geometry_encoder_config": layers,
            "detr_encoder_config": layers,
            "detr_decoder_config": {**layers, "num_queries": 6},
            "mask_decoder_config": {"hidden_size": width, **attention},
        },
        tracker_config={
            "model_type": "sam3_tracker_video",
            "image_size": 112,
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": width},
            "mask_decoder_config": {"hidden_size": width, "mlp_dim": 64, "iou_head_hidden_dim": width, **attention},
            **_small_memory(width),
            **sizes,
        },
    )
    sam = _with_memory_that_shows(_without_zeros(Sam3VideoModel(config)))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in sam.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    return sam


def _small_memory(width: int) -> dict[str, Any]:
    return {
        "num_maskmem": 3,
        "max_object_pointers_in_encoder": 4,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_encoder_hidden_size": width,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 64,
    }


@torch.no_grad()
def _with_memory_that_shows(sam: Any) -> Any:
    """A new one's small weights and its fuser's scale, close to nothing, would hide what the memory holds."""
    for name, parameter in sam.named_parameters():
        if parameter.ndim > 1 and name.endswith("weight"):
            parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
        elif ".memory_fuser.layers." in name and name.endswith(".scale"):
            parameter.fill_(0.5)
    return sam


@torch.no_grad()
def _without_zeros(sam: Any) -> Any:
    """What begins at zero would hide a mistake."""
    for parameter in sam.parameters():
        if parameter.abs().sum() == 0:
            parameter.normal_(std=0.3)
    return sam.eval()
