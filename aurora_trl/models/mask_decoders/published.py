"""Mask decoders from published weights: segment-anything's `.pth` files, SAM 2.1's folders and SAM 3's."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from ...errors import DataError
from ..checkpoints.weight_files import (
    build_from_weights,
    check_keys,
    count_modules,
    find_checkpoint,
    read_config,
    read_safetensors,
    read_torch_file,
)
from ..configuration_aurora import SamConfig
from .base import MaskDecoderBase
from .published_sam3 import SAM3_MODEL_TYPE, load_sam3, load_sam3_concepts
from .sam import SamMaskDecoder
from .sam2 import Sam2MaskConfig, Sam2MaskDecoder, add_shared_table
from .sam2_video import MEMORY_WEIGHTS, ClipMemory, Sam2VideoMaskConfig, Sam2VideoMaskDecoder
from .sam3_concept import ConceptPrompts

# SAM 2's video checkpoints hold the image model and the memory that tracks; the latter is not run frame by frame.
SAM2_MODEL_TYPES = ("sam2", "sam2_video")


def load_mask_decoder(
    name_or_path: str | Path,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    memory: ClipMemory | None = None,
    concepts: ConceptPrompts | None = None,
) -> MaskDecoderBase:
    """
    A mask decoder with published weights.

    Args:
        name_or_path (`str` or `Path`): a `.pth` file of segment-anything (ViT-B, L, H; its sizes are told from the
            weights), or a folder or Hub repository of SAM 2 (`facebook/sam2.1-hiera-large`) or of SAM 3
            (`facebook/sam3`) in transformers' layout.
        image_size (`int`, *optional*): side of the square input, in pixels; the published one by default.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.
        memory (`ClipMemory`, *optional*): read the memory across frames of SAM 2 or 3, too, and use it so; without,
            each frame is drawn on its own.
        concepts (`ConceptPrompts`, *optional*): read SAM 3's detector in place of its tracker, and name concepts to
            it, so.

    Returns:
        `MaskDecoderBase`: in eval mode.

    Raises:
        `DataError`: names what is missing, broken, not a SAM, or a SAM without the memory or detector that was asked
            for.
        `ValueError`: where both were.
    """
    path = Path(name_or_path)
    if memory is not None and concepts is not None:
        raise ValueError("SAM 3's detector has no memory across frames; leave the memory or the concepts out")
    if path.is_file() or path.suffix in (".pth", ".pt"):
        if memory is not None:
            raise DataError(f"{path}: segment-anything has no memory across frames; name a folder of SAM 2.1 or 3")
        if concepts is not None:
            raise DataError(f"{path}: segment-anything finds no concepts; name a folder of SAM 3")
        decoder: MaskDecoderBase = load_sam(path, image_size, dtype)
    else:
        decoder = _load_folder(name_or_path, image_size, dtype, memory, concepts)
    return decoder.eval()


def _load_folder(
    name_or_path: str | Path,
    image_size: int | None,
    dtype: torch.dtype,
    memory: ClipMemory | None,
    concepts: ConceptPrompts | None,
) -> MaskDecoderBase:
    """SAM 2, 2.1 or 3 from a folder or Hub repository in transformers' layout."""
    folder = find_checkpoint(name_or_path, patterns=("config.json", "*.safetensors", "*.safetensors.index.json"))
    content = read_config(folder)
    model_type = content["model_type"]
    if model_type not in (*SAM2_MODEL_TYPES, SAM3_MODEL_TYPE):
        raise DataError(
            f"{folder}: a mask decoder is SAM 2 ({' or '.join(SAM2_MODEL_TYPES)}), SAM 3 ({SAM3_MODEL_TYPE}) or a "
            f"`.pth` file of segment-anything; this is {model_type!r}"
        )
    if concepts is not None and model_type != SAM3_MODEL_TYPE:
        raise DataError(f"{folder}: SAM 2 finds no concepts; name a folder of SAM 3")
    weights = read_safetensors(folder)
    if concepts is not None:
        return load_sam3_concepts(folder, content, weights, concepts, image_size=image_size, dtype=dtype)
    load = load_sam3 if model_type == SAM3_MODEL_TYPE else load_sam2
    return load(folder, content, weights, image_size=image_size, dtype=dtype, memory=memory)


def load_sam(file: Path, image_size: int | None = None, dtype: torch.dtype = torch.float32) -> SamMaskDecoder:
    """
    segment-anything from its `.pth`.

    Args:
        file (`Path`): such as `sam_vit_h_4b8939.pth`.
        image_size (`int`, *optional*): another input size than the published 1024, in pixels: the position embeddings
            are resized to it (AURORA runs SAM at 224).
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.

    Raises:
        `DataError`: where it is no such file.
    """
    weights = read_torch_file(file)
    config = sam_config(weights, file)
    if image_size is not None and image_size != config.image_size:
        weights = resize_sam(weights, config, image_size)
        config.image_size = image_size
    with torch.device("meta"):
        decoder = SamMaskDecoder(config)
    check_keys(file, weights, decoder.state_dict())
    # Copied: the file itself must not stay mapped, it may be replaced while the model is in use.
    decoder.load_state_dict({key: value.to(dtype, copy=True) for key, value in weights.items()}, assign=True)
    return decoder


def sam_config(weights: dict[str, torch.Tensor], file: Path) -> SamConfig:
    """
    The sizes of a segment-anything model, told from its weights.

    Raises:
        `DataError`: where they are not segment-anything's.
    """
    needed = (
        "image_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.neck.0.weight",
        "mask_decoder.transformer.layers.0.mlp.lin1.weight",
    )
    for key in needed:
        if key not in weights:
            raise DataError(
                f"{file}: not a segment-anything checkpoint: it has no {key} (it begins with {next(iter(weights))}); "
                "the published files are sam_vit_b, sam_vit_l and sam_vit_h; SAM 2 and 3 are read in transformers' "
                "layout, such as facebook/sam2.1-hiera-large"
            )
    pos_embed, patch, rel_pos, neck, mlp = (weights[key] for key in needed)
    grid, width = pos_embed.shape[1], pos_embed.shape[3]
    depth = count_modules(weights, r"image_encoder\.blocks\.(\d+)\.")
    # A block's table has 2 n - 1 distances: n is the grid's side where it attends globally, the window's elsewhere.
    sides = [(weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] + 1) // 2 for i in range(depth)]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        raise DataError(f"{file}: blocks with windows of {sorted(windows)} patches; segment-anything has one size")
    return SamConfig(
        image_size=grid * patch.shape[-1],
        patch_size=patch.shape[-1],
        encoder_embed_dim=width,
        encoder_depth=depth,
        encoder_num_heads=width // rel_pos.shape[1],
        encoder_global_attn_indexes=[i for i, side in enumerate(sides) if side == grid],
        encoder_window_size=windows.pop() if windows else 14,
        prompt_embed_dim=neck.shape[0],
        decoder_depth=count_modules(weights, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        decoder_mlp_dim=mlp.shape[0],
    )


def resize_sam(weights: dict[str, torch.Tensor], config: SamConfig, image_size: int) -> dict[str, torch.Tensor]:
    """
    Weights for another input size: position embeddings and the global blocks' distances, bicubically resized.

    Args:
        weights (`dict[str, torch.Tensor]`): for `config.image_size`.
        config (`SamConfig`): the sizes that they have.
        image_size (`int`): the new side, in pixels.

    Returns:
        `dict[str, torch.Tensor]`: the weights; those of windows and of everything else are the same tensors.

    Raises:
        `ValueError`: where the side does not hold whole patches.
    """
    if image_size < config.patch_size or image_size % config.patch_size:
        raise ValueError(f"the mask decoder's image size must be a multiple of {config.patch_size}, got {image_size}")
    grid = image_size // config.patch_size
    resized = dict(weights)
    pos_embed = weights["image_encoder.pos_embed"].float().permute(0, 3, 1, 2)
    pos_embed = F.interpolate(pos_embed, (grid, grid), mode="bicubic", align_corners=False)
    resized["image_encoder.pos_embed"] = pos_embed.permute(0, 2, 3, 1)
    for i in config.encoder_global_attn_indexes:
        for axis in ("h", "w"):
            key = f"image_encoder.blocks.{i}.attn.rel_pos_{axis}"
            table = weights[key].float()[None, None]  # (1, 1, distances, head width)
            size = (2 * grid - 1, table.shape[-1])
            resized[key] = F.interpolate(table, size, mode="bicubic", align_corners=False)[0, 0]
    return resized


def load_sam2(
    folder: Path,
    content: dict[str, Any],
    weights: dict[str, torch.Tensor],
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    memory: ClipMemory | None = None,
) -> Sam2MaskDecoder:
    """
    SAM 2 or 2.1 from a folder in transformers' layout.

    Args:
        folder (`Path`): for messages.
        content (`dict`): of its `config.json`, `model_type` among [`SAM2_MODEL_TYPES`].
        weights (`dict[str, torch.Tensor]`): all of its tensors.
        image_size (`int`, *optional*): another input size than the published 1024, in pixels, a multiple of 32.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.
        memory (`ClipMemory`, *optional*): read and use the memory across frames.

    Raises:
        `DataError`: where the checkpoint is not whole, or one of images alone where a memory is asked for.
        `ValueError`: for an image size or a memory that this model can not have.
    """
    add_shared_table(weights)
    if memory is not None:
        if content["model_type"] != "sam2_video":
            raise DataError(f"{folder}: a SAM 2 of images, whose file has no memory; the published ones are of videos")
        return _load_with_memory(folder, content, weights, memory, image_size, dtype)
    weights = {key: value for key, value in weights.items() if not MEMORY_WEIGHTS.match(key)}
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    sizes = {name: {k: v for k, v in content.get(name, {}).items() if k != "model_type"} for name in parts}
    sam = build_from_weights(Sam2Model, Sam2Config(**sizes), weights, dtype=dtype, source=folder)
    if image_size is not None:
        _set_sam2_image_size(sam.config, image_size)
    return Sam2MaskDecoder(Sam2MaskConfig(sam.config, attn_implementation=sam.config._attn_implementation), sam)


def _load_with_memory(
    folder: Path,
    content: dict[str, Any],
    weights: dict[str, torch.Tensor],
    memory: ClipMemory,
    image_size: int | None,
    dtype: torch.dtype,
) -> Sam2VideoMaskDecoder:
    sam2_config = Sam2VideoConfig.from_dict(content)
    # Dropout would let rewards, losses and evaluation see different masks of one prompt.
    sam2_config.memory_attention_dropout = sam2_config.memory_attention_rope_dropout = 0.0
    if image_size is not None:
        _set_sam2_image_size(sam2_config, image_size)
        sam2_config.image_size = image_size
        sam2_config.memory_attention_rope_feat_sizes = [image_size // 16] * 2
    config = Sam2VideoMaskConfig(sam2_config, **asdict(memory))  # refuses what does not fit before weights are built
    sam = build_from_weights(Sam2VideoModel, sam2_config, weights, dtype=dtype, source=folder)
    config = Sam2VideoMaskConfig(sam.config, **asdict(memory), attn_implementation=sam.config._attn_implementation)
    return Sam2VideoMaskDecoder(config, sam)


def _set_sam2_image_size(config: Sam2Config | Sam2VideoConfig, image_size: int) -> None:
    """Its encoder tiles and interpolates its position embeddings as frames come: only the config knows a size."""
    if image_size < 32 or image_size % 32:
        raise ValueError(f"SAM 2's image size must be a multiple of 32, got {image_size}")
    config.vision_config.backbone_config.image_size = [image_size, image_size]
    config.vision_config.backbone_feature_sizes = [[image_size // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = image_size
