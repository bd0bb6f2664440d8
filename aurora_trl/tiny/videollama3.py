"""VideoLLaMA3 with small numbers and random weights, for tests."""

from pathlib import Path
from typing import Any

from transformers import Qwen2Config, VideoLlama3ImageProcessor, VideoLlama3VideoProcessor, set_seed

from ..models.configuration_aurora import AuroraConfig
from ..models.modeling_aurora import AuroraModel
from ..models.policies.videollama3 import VideoLlama3PolicyConfig, VideoLlama3PolicyProcessor
from ..models.processing_aurora import AuroraProcessor
from .videollama2 import tiny_mask_decoder_config, tiny_tokenizer

TOKENS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
# A system turn first, a line for each clip, and no word of sound.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}{% if block['type'] == 'text' %}{{ block['text'] }}"
    "{% elif block['type'] == 'image' %}<|image_pad|>\n{% elif block['type'] == 'video' %}<|video_pad|>\n"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_videollama3_processor(
    corpus: list[str], *, image_size: int = 32, num_frames: int = 10, policy_frames: int | None = 4
) -> AuroraProcessor:
    """
    The processor that belongs to `tiny_videollama3_config`.

    Args:
        corpus (`list[str]`): what the tokenizer learns its words from.
        image_size (`int`, *optional*, defaults to 32): side of a square frame, in pixels: 4 places.
        num_frames, policy_frames (`int`): see [`AuroraProcessor`].
    """
    tokenizer = tiny_tokenizer([*corpus, "system\nYou are a helpful assistant.", ",Time 0.5s:"], TOKENS, CHAT_TEMPLATE)
    pixels = image_size * image_size
    size = {"shortest_edge": 16 * 16, "longest_edge": 16 * pixels}
    policy_processor = VideoLlama3PolicyProcessor(
        VideoLlama3ImageProcessor(patch_size=8, merge_size=1, size={**size, "longest_edge": pixels}),
        tokenizer,
        VideoLlama3VideoProcessor(patch_size=8, merge_size=2, size=size),
        chat_template=CHAT_TEMPLATE,
        video_max_pixels=pixels,
    )
    return AuroraProcessor(
        policy_processor,
        mask_image_size=image_size,
        mask_target_size=image_size,
        num_frames=num_frames,
        policy_frames=policy_frames,
    )


def tiny_videollama3_config(processor: AuroraProcessor, *, hidden_size: int = 64, num_layers: int = 2) -> AuroraConfig:
    """
    Small numbers for every part.

    Args:
        processor (`AuroraProcessor`): from `tiny_videollama3_processor`.
        hidden_size, num_layers (`int`): of the language model.
    """
    tokenizer = processor.tokenizer
    policy_config = VideoLlama3PolicyConfig(
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.08,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
            "initializer_range": 0.08,
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        tie_word_embeddings=False,
    )
    decoder = tiny_mask_decoder_config(processor.mask_image_size)
    return AuroraConfig(policy_config, decoder, seg_token_id=processor.seg_token_id)


def create_tiny_videollama3_checkpoint(
    output_dir: str | Path, corpus: list[str], *, seed: int = 0, **settings: Any
) -> Path:
    """
    Write a checkpoint with random weights.

    Args:
        output_dir (`str` or `Path`): new folder.
        corpus, **settings: for `tiny_videollama3_processor`.
        seed (`int`, *optional*, defaults to 0): of the weights.

    Returns:
        `Path`: the folder.
    """
    processor = tiny_videollama3_processor(corpus, **settings)
    set_seed(seed)
    AuroraModel(tiny_videollama3_config(processor)).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)
