"""The sizes of published models, for an estimate before their files are here. Nothing is loaded by these numbers."""

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import (
    PretrainedConfig,
    Qwen2Config,
    Sam3Config,
    Sam3TrackerConfig,
    Sam3TrackerVideoConfig,
    SiglipVisionConfig,
)

from ..models.configuration_aurora import AuroraConfig, SamConfig
from ..models.mask_decoders import ClipMemory, ConceptPrompts, Sam3ConceptConfig, Sam3MaskConfig, Sam3VideoMaskConfig
from ..models.mask_decoders.published_sam3 import set_sam3_image_size
from ..models.policies.videollama2 import BeatsConfig, VideoLlama2Config

_SAM_SIZES = {
    "vit_b": {"encoder_embed_dim": 768, "encoder_depth": 12, "encoder_num_heads": 12},
    "vit_l": {"encoder_embed_dim": 1024, "encoder_depth": 24, "encoder_num_heads": 16},
    "vit_h": {"encoder_embed_dim": 1280, "encoder_depth": 32, "encoder_num_heads": 16},
}
_SAM_GLOBAL_BLOCKS = {"vit_b": [2, 5, 8, 11], "vit_l": [5, 11, 17, 23], "vit_h": [7, 15, 23, 31]}


def published_config(
    policy: str,
    mask_decoder: str,
    mask_image_size: int | None = None,
    memory: ClipMemory | None = None,
    concepts: ConceptPrompts | None = None,
) -> AuroraConfig | None:
    """
    The config that `aurora init` would write.

    Args:
        policy (`str`): name of a repository, or a folder of that name.
        mask_decoder (`str`): a `.pth` file of segment-anything, or a repository or folder called `sam3`.
        mask_image_size (`int`, *optional*): side of its input, in pixels; as published by default.
        memory (`ClipMemory`, *optional*), concepts (`ConceptPrompts`, *optional*): how SAM 3 is used.

    Returns:
        `AuroraConfig` or `None`: None where one of the two is not known here.
    """
    language = _video_llama2() if "VideoLLaMA2.1-7B-AV" in policy else None
    sam = _sam(mask_decoder, mask_image_size)
    if sam is None and Path(mask_decoder).name == "sam3":
        sam = _sam3(mask_image_size, memory, concepts)
    if sam is None or language is None:
        return None
    return AuroraConfig(language, sam, seg_token_id=0, dtype=torch.bfloat16)


def _sam(mask_decoder: str, image_size: int | None) -> PretrainedConfig | None:
    size = next((name for name in _SAM_SIZES if name in Path(mask_decoder).name), None)
    if size is None:
        return None
    return SamConfig(
        image_size=image_size or 1024,
        encoder_global_attn_indexes=_SAM_GLOBAL_BLOCKS[size],
        **_SAM_SIZES[size],  # type: ignore[arg-type]
    )


def _sam3(image_size: int | None, memory: ClipMemory | None, concepts: ConceptPrompts | None) -> PretrainedConfig:
    """facebook/sam3, whose sizes are transformers' own."""
    if concepts is not None:
        detector = Sam3Config()
        set_sam3_image_size(detector, image_size)
        return Sam3ConceptConfig(detector, **asdict(concepts))
    if memory is not None:
        video = Sam3TrackerVideoConfig(memory_attention_dropout=0.0, memory_attention_rope_dropout=0.0)
        set_sam3_image_size(video, image_size)
        return Sam3VideoMaskConfig(video, **asdict(memory))
    tracker = Sam3TrackerConfig()
    set_sam3_image_size(tracker, image_size)
    return Sam3MaskConfig(tracker)


def _video_llama2() -> PretrainedConfig:
    """VideoLLaMA2.1-7B-AV: Qwen2-7B, SigLIP so400m at 384 pixels, BEATs."""
    return VideoLlama2Config(
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        audio_config=BeatsConfig(),
        text_config=Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        ),
    )


def video_llama2_tokens(num_frames: int, audio_seconds: float, *, image_size: int = 384, patch_size: int = 14) -> int:
    """
    Places of a clip in a prompt of VideoLLaMA2.1: 845 for 10 frames, 496 for 10 s of sound.

    Args:
        num_frames (`int`): frames that the policy sees.
        audio_seconds (`float`): length to which sound is cut or padded.
        image_size, patch_size (`int`): of the vision tower, in pixels.
    """
    side = image_size // patch_size // 2
    windows = (int(audio_seconds * 16000) - 400) // 160 + 1
    return (num_frames + 1) // 2 * side * side + windows // 16 * 8
