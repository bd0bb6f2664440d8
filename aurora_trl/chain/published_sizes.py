"""The sizes of published models, for an estimate before their files are here. Nothing is loaded by these numbers."""

from collections.abc import Callable
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
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from ..models.configuration_aurora import AuroraConfig, SamConfig
from ..models.mask_decoders import ClipMemory, ConceptPrompts, Sam3ConceptConfig, Sam3MaskConfig, Sam3VideoMaskConfig
from ..models.mask_decoders.published_sam3 import set_sam3_image_size
from ..models.policies.qwen import Qwen3OmniPolicyConfig
from ..models.policies.videollama2 import BeatsConfig, VideoLlama2Config
from ..models.policies.videollama3 import VideoLlama3PolicyConfig

_SAM_SIZES = {
    "vit_b": {"encoder_embed_dim": 768, "encoder_depth": 12, "encoder_num_heads": 12},
    "vit_l": {"encoder_embed_dim": 1024, "encoder_depth": 24, "encoder_num_heads": 16},
    "vit_h": {"encoder_embed_dim": 1280, "encoder_depth": 32, "encoder_num_heads": 16},
}
_SAM_GLOBAL_BLOCKS = {"vit_b": [2, 5, 8, 11], "vit_l": [5, 11, 17, 23], "vit_h": [7, 15, 23, 31]}

_UPSTREAM_AUDIO_SECONDS = 30.0  # of VideoLLaMA2
_FRAME, _CLIP_SECONDS = (720, 1280), 10.0  # of Ref-AVS
_TIME_TOKENS = 8  # of a frame's time in words


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
    known, sam = _known(policy), _sam(mask_decoder, mask_image_size)
    if sam is None and Path(mask_decoder).name == "sam3":
        sam = _sam3(mask_image_size, memory, concepts)
    if sam is None or known is None:
        return None
    return AuroraConfig(known[0](), sam, seg_token_id=0, dtype=torch.bfloat16)


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
        text_config=_qwen2(3584, 18944, 28, 4, 152064, tied=False),
    )


def _qwen2(
    hidden_size: int, intermediate_size: int, heads: int, groups: int, vocab_size: int, tied: bool
) -> Qwen2Config:
    """A language model of Qwen2's or Qwen2.5's kind with 28 layers."""
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=28,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
    )


def _video_llama3(language: Qwen2Config) -> PretrainedConfig:
    """VideoLLaMA3: Qwen2.5 and a tower that grew out of SigLIP so400m."""
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    return VideoLlama3PolicyConfig(
        text_config=language,
        vision_config={**vision, "patch_size": 14},
        tie_word_embeddings=language.tie_word_embeddings,
    )


def _qwen3_omni() -> PretrainedConfig:
    """The thinker of Qwen3-Omni-30B-A3B: 128 experts in each of 48 layers, of which a token reads 8."""
    return Qwen3OmniPolicyConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 2048,
            "intermediate_size": 768,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
        vision_config={"out_hidden_size": 2048},
        audio_config={"output_dim": 2048},
        tie_word_embeddings=False,
    )


def published_tokens(
    policy: str, num_frames: int, audio_seconds: float | None = None, video_max_pixels: int | None = None
) -> int:
    """
    Places of a clip of ten seconds at 720p in a prompt.

    Args:
        policy (`str`): one that `published_config` knows.
        num_frames (`int`): frames that the policy sees.
        audio_seconds (`float`, *optional*), video_max_pixels (`int`, *optional*): as `aurora init` takes them.
    """
    known = _known(policy)
    if known is None:
        raise ValueError(f"the places of a clip in {policy} are not known here")
    return known[1](num_frames, audio_seconds, video_max_pixels)


def _video_llama2_places(num_frames: int, audio_seconds: float | None, video_max_pixels: int | None) -> int:
    return video_llama2_tokens(num_frames, audio_seconds or _UPSTREAM_AUDIO_SECONDS)


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


def _video_llama3_places(num_frames: int, audio_seconds: float | None, video_max_pixels: int | None) -> int:
    """Where every part of every frame changes."""
    most = min(12845056 // num_frames, video_max_pixels or 12845056)
    height, width = smart_resize(*_FRAME, 28, min(12544, most), most)
    return num_frames * (height * width // 28**2 + _TIME_TOKENS)


def _qwen3_omni_places(num_frames: int, audio_seconds: float | None, video_max_pixels: int | None) -> int:
    most = min(768 * 32**2, video_max_pixels or 768 * 32**2)
    height, width = smart_resize(*_FRAME, 32, min(128 * 32**2, most), most)
    seconds = min(_CLIP_SECONDS, audio_seconds or _CLIP_SECONDS)
    return -(-num_frames // 2) * height * width // 32**2 + round(13 * seconds) + 2


# By a part of the repository's name: the config, and the places of a clip.
_POLICIES: dict[str, tuple[Callable[[], PretrainedConfig], Callable[[int, float | None, int | None], int]]] = {
    "VideoLLaMA2.1-7B-AV": (_video_llama2, _video_llama2_places),
    "VideoLLaMA3-2B": (lambda: _video_llama3(_qwen2(1536, 8960, 12, 2, 151936, True)), _video_llama3_places),
    "VideoLLaMA3-7B": (lambda: _video_llama3(_qwen2(3584, 18944, 28, 4, 152064, False)), _video_llama3_places),
    "Qwen3-Omni-30B-A3B": (_qwen3_omni, _qwen3_omni_places),
}


def _known(
    policy: str,
) -> tuple[Callable[[], PretrainedConfig], Callable[[int, float | None, int | None], int]] | None:
    return next((entry for name, entry in _POLICIES.items() if name in policy), None)
