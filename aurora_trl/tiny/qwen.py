"""The Qwen policies with small numbers and random weights, for tests."""

from pathlib import Path
from typing import Any

from transformers import WhisperFeatureExtractor, set_seed
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from ..models.configuration_aurora import AuroraConfig
from ..models.modeling_aurora import AuroraModel
from ..models.policies.qwen import (
    Qwen3OmniPolicyConfig,
    Qwen3OmniPolicyProcessor,
    Qwen3VLPolicyConfig,
    Qwen3VLPolicyProcessor,
    QwenOmniPolicyConfig,
    QwenOmniPolicyProcessor,
    QwenVLPolicyConfig,
    QwenVLPolicyProcessor,
)
from ..models.processing_aurora import AuroraProcessor
from .videollama2 import tiny_mask_decoder_config, tiny_tokenizer

VL_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
OMNI_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

OMNI3_TOKENS = {
    **VL_TOKENS,
    "audio_token": "<|audio_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}


def _chat_template(tokens: dict[str, str]) -> str:
    """Qwen's chat: a system turn first, media between their ends, and no word of what the model does not take."""
    ends = tokens["vision_bos_token"], tokens["vision_eos_token"]
    blocks = {"image": (ends[0], tokens["image_token"], ends[1]), "video": (ends[0], tokens["video_token"], ends[1])}
    if "audio_token" in tokens:
        blocks["audio"] = (tokens["audio_bos_token"], tokens["audio_token"], tokens["audio_eos_token"])
    cases = "".join(f"{{% elif block['type'] == '{name}' %}}{''.join(sequence)}" for name, sequence in blocks.items())
    return (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for block in message['content'] %}{% if block['type'] == 'text' %}{{ block['text'] }}"
        + cases
        + "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def tiny_qwen_processor(
    corpus: list[str],
    *,
    sound: bool,
    qwen3: bool = False,
    image_size: int = 32,
    num_frames: int = 10,
    policy_frames: int | None = 4,
) -> AuroraProcessor:
    """
    The processor that belongs to `tiny_qwen_config`.

    Args:
        corpus (`list[str]`): what the tokenizer learns its words from.
        sound (`bool`): Qwen2.5-Omni, which hears, or else Qwen2.5-VL.
        qwen3 (`bool`, *optional*, defaults to `False`): Qwen3-Omni or Qwen3-VL in their stead.
        image_size (`int`, *optional*, defaults to 32): side of a square frame, in pixels.
        num_frames, policy_frames (`int`): see [`AuroraProcessor`].
    """
    tokens = (OMNI3_TOKENS if qwen3 else OMNI_TOKENS) if sound else VL_TOKENS
    template = _chat_template(tokens)
    tokenizer = tiny_tokenizer([*corpus, "system\nYou are a helpful assistant."], tokens, template)
    settings = {
        "patch_size": 8,
        "merge_size": 2,
        "size": {"shortest_edge": 16 * 16, "longest_edge": image_size * image_size},
    }
    vision = {
        "image_processor": Qwen2VLImageProcessor(**settings),
        "video_processor": Qwen2VLVideoProcessor(**settings, cap_pixels_per_frame=False),
    }
    policy_processor: Any
    if sound and qwen3:
        # A hundred frames per second, as published: 10 s of sound take 130 places.
        extractor = WhisperFeatureExtractor(feature_size=32, hop_length=160, n_fft=400, chunk_length=30)
        policy_processor = Qwen3OmniPolicyProcessor(
            **vision, feature_extractor=extractor, tokenizer=tokenizer, chat_template=template
        )
    elif sound:
        # Two fifths of a hundred frames per second: 10 s of sound take 63 places.
        extractor = WhisperFeatureExtractor(feature_size=32, hop_length=640, n_fft=800, chunk_length=30)
        policy_processor = QwenOmniPolicyProcessor(
            **vision, feature_extractor=extractor, tokenizer=tokenizer, chat_template=template
        )
    elif qwen3:
        # Its pixels are those of a whole clip.
        settings["size"] = {"shortest_edge": 16 * 16, "longest_edge": 16 * image_size * image_size}
        vision["video_processor"] = Qwen3VLVideoProcessor(
            **settings, cap_pixels_per_frame=True, max_video_tokens=image_size * image_size // 16**2
        )
        policy_processor = Qwen3VLPolicyProcessor(**vision, tokenizer=tokenizer, chat_template=template)
    else:
        policy_processor = QwenVLPolicyProcessor(**vision, tokenizer=tokenizer, chat_template=template)
    return AuroraProcessor(
        policy_processor,
        mask_image_size=image_size,
        mask_target_size=image_size,
        num_frames=num_frames,
        policy_frames=policy_frames,
    )


def tiny_qwen_config(processor: AuroraProcessor, *, hidden_size: int = 64, num_layers: int = 2) -> AuroraConfig:
    """
    Small numbers for every part.

    Args:
        processor (`AuroraProcessor`): from `tiny_qwen_processor`.
        hidden_size, num_layers (`int`): of the language model.
    """
    tokenizer = processor.tokenizer
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.08,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": hidden_size,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.08,
    }
    ids = {
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    policy_config: Any
    if isinstance(processor.policy_processor, (Qwen3VLPolicyProcessor, Qwen3OmniPolicyProcessor)):
        # What the last layer adds at places of frames, no text reads: a layer more than deeper features.
        text_config |= {"head_dim": hidden_size // 4, "num_hidden_layers": max(num_layers, 3)}
        for name in ("window_size", "fullatt_block_indexes"):
            vision_config.pop(name)
        vision_config |= {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    if isinstance(processor.policy_processor, Qwen3VLPolicyProcessor):
        policy_config = Qwen3VLPolicyConfig(text_config=text_config, vision_config=vision_config, **ids)
    elif isinstance(processor.policy_processor, Qwen3OmniPolicyProcessor):
        text_config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": hidden_size}
        audio_config = {
            "num_mel_bins": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "downsample_hidden_size": 8,
            "output_dim": hidden_size,
            "initializer_range": 0.08,
        }
        policy_config = Qwen3OmniPolicyConfig(
            audio_config=audio_config,
            text_config=text_config,
            vision_config=vision_config,
            position_id_per_seconds=13,
            initializer_range=0.08,
            audio_token_id=tokenizer.audio_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
            audio_end_token_id=tokenizer.audio_eos_token_id,
            **ids,
        )
    elif processor.policy_processor.sampling_rate is None:
        policy_config = QwenVLPolicyConfig(text_config=text_config, vision_config=vision_config, **ids)
    else:
        audio_config = {
            "num_mel_bins": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "n_window": 25,
            "output_dim": hidden_size,
            "initializer_range": 0.08,
        }
        for name in ("image", "video"):
            ids[f"{name}_token_index"] = ids.pop(f"{name}_token_id")
        policy_config = QwenOmniPolicyConfig(
            audio_config=audio_config,
            text_config=text_config,
            vision_config=vision_config,
            audio_token_index=tokenizer.audio_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
            audio_end_token_id=tokenizer.audio_eos_token_id,
            **ids,
        )
    decoder = tiny_mask_decoder_config(processor.mask_image_size)
    return AuroraConfig(policy_config, decoder, seg_token_id=processor.seg_token_id)


def create_tiny_qwen_checkpoint(
    output_dir: str | Path, corpus: list[str], *, sound: bool, seed: int = 0, **settings: Any
) -> Path:
    """
    Write a checkpoint with random weights.

    Args:
        output_dir (`str` or `Path`): new folder.
        corpus, sound, **settings: for `tiny_qwen_processor`.
        seed (`int`, *optional*, defaults to 0): of the weights.

    Returns:
        `Path`: the folder.
    """
    processor = tiny_qwen_processor(corpus, sound=sound, **settings)
    set_seed(seed)
    AuroraModel(tiny_qwen_config(processor)).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)
