"""The classes of the published model with small numbers and random weights: what the tests and the demo train."""

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast as TokenizerFast
from transformers import Qwen2Config, SiglipVisionConfig, set_seed

from ..models.configuration_aurora import AuroraConfig, SamConfig
from ..models.modeling_aurora import AuroraModel
from ..models.policies.videollama2 import BeatsConfig, VideoLlama2Config, VideoLlama2Processor
from ..models.processing_aurora import AuroraProcessor
from ..prompts import AUDIO_TOKEN, SEG_TOKEN, VIDEO_TOKEN

PAD_TOKEN, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen2's chat, with one place per block of a message's content.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'text' %}{{ block['text'] }}{% else %}<{{ block['type'] }}>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(
    corpus: list[str],
    media_tokens: dict[str, str] | None = None,
    chat_template: str = CHAT_TEMPLATE,
) -> TokenizerFast:
    """
    A byte-level BPE tokenizer in which every word of a corpus is one token and any other text survives a round trip.

    Args:
        corpus (`list[str]`): texts.
        media_tokens (`dict[str, str]`, *optional*): the special tokens of a policy's media, by the tokenizer's
            attributes that hold them; `<video>` and `<audio>` by default.
        chat_template (`str`, *optional*): puts them into a prompt.

    Returns:
        `PreTrainedTokenizerFast`: with Qwen2's chat tokens and those of the media as special tokens, and `[SEG]` as an
        ordinary one.
    """
    media_tokens = media_tokens or {"video_token": VIDEO_TOKEN, "audio_token": AUDIO_TOKEN}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,  # more than a corpus of some hundred words can fill: merging ends when words are whole
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END, *media_tokens.values()],
        show_progress=False,
    )
    turns = [f"{role}\n" for role in ("user", "assistant")]
    tokenizer.train_from_iterator([*corpus, *turns], trainer)
    fast = TokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=TURN_END,
        extra_special_tokens={"turn_start_token": TURN_START, **media_tokens},
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.add_tokens([SEG_TOKEN])
    return fast


def tiny_processor(
    corpus: list[str], *, image_size: int = 64, num_frames: int = 10, policy_frames: int = 2
) -> AuroraProcessor:
    """
    The processor that belongs to `tiny_config`.

    Args:
        corpus (`list[str]`): what the tokenizer learns its words from.
        image_size (`int`, *optional*, defaults to 64): side of the frames for policy and mask decoder, in pixels.
        num_frames (`int`, *optional*, defaults to 10): frames of a clip.
        policy_frames (`int`, *optional*, defaults to 2): how many of them the policy sees.
    """
    policy_processor = VideoLlama2Processor(
        tiny_tokenizer(corpus),
        image_size=image_size,
        patch_size=8,
        num_mel_bins=32,
        frame_length_ms=50.0,
        frame_shift_ms=40.0,
        audio_seconds=10.0,
        # The mean and half the deviation over clips of the synthetic world.
        audio_mean=14.4,
        audio_std=1.66,
    )
    return AuroraProcessor(
        policy_processor,
        mask_image_size=image_size,
        mask_target_size=image_size,
        num_frames=num_frames,
        policy_frames=policy_frames,
    )


def tiny_config(processor: AuroraProcessor, *, hidden_size: int = 128, num_layers: int = 3) -> AuroraConfig:
    """
    Small numbers for every part.

    Args:
        processor (`AuroraProcessor`): gives the image size and the token ids.
        hidden_size, num_layers (`int`): of the language model.
    """
    tokenizer, image_size = processor.tokenizer, processor.mask_image_size
    policy_config = VideoLlama2Config(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=image_size,
            patch_size=8,
            vision_use_head=False,
        ),
        audio_config=BeatsConfig(
            num_mel_bins=32,
            embed_dim=64,
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=192,
            conv_pos=16,
            conv_pos_groups=4,
            num_buckets=32,
            max_distance=64,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            # 1 / sqrt(hidden size): the 0.02 of a large model leaves a small one silent for hundreds of steps.
            initializer_range=0.08,
            # Turns fast enough that two hundred positions differ.
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        connector_depth=1,
        video_token_id=processor.policy_processor.video_token_id,
        audio_token_id=processor.policy_processor.audio_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AuroraConfig(policy_config, tiny_mask_decoder_config(image_size), seg_token_id=processor.seg_token_id)


def tiny_mask_decoder_config(image_size: int) -> SamConfig:
    """Small numbers for SAM, whose input has this side in pixels."""
    return SamConfig(
        image_size=image_size,
        patch_size=8,
        encoder_embed_dim=64,
        encoder_depth=2,
        encoder_num_heads=4,
        encoder_global_attn_indexes=[0, 1],
        prompt_embed_dim=64,
        decoder_num_heads=4,
        decoder_mlp_dim=128,
    )


@torch.no_grad()
def look_back(model: AuroraModel, strength: float = 2.0) -> None:
    """
    Let one key head of each layer start by looking back a fixed number of tokens: 1 and 2, then 2 and 4, then 4 and 8.

    Together they see each of the last 14 tokens, which in a pretrained language model is a matter of course. Found by
    training it takes a small one hundreds of steps, in which `[SEG]` learns to ignore the text before it.

    Args:
        model (`AuroraModel`): from `tiny_config`, changed in place; only biases of queries and keys are.
        strength (`float`, *optional*, defaults to 2.0): size of the biases.
    """
    language_model = model.policy.model.language_model
    frequencies = language_model.rotary_emb.inv_freq  # (head_dim / 2,)
    half = len(frequencies)
    for index, layer in enumerate(language_model.layers):
        attention = layer.self_attn
        attention.k_proj.bias[:half] = strength
        for head, offset in enumerate((2**index, 2 ** (index + 1))):
            # A query turned back by `offset` positions meets the key that stands so far before it.
            start = head * attention.head_dim
            attention.q_proj.bias[start : start + half] = strength * torch.cos(offset * frequencies)
            attention.q_proj.bias[start + half : start + 2 * half] = -strength * torch.sin(offset * frequencies)


@torch.no_grad()
def place_patches(model: AuroraModel, strength: float = 0.5) -> None:
    """
    Give the vision tower's patches waves of their row and column for position embeddings, which a pretrained tower has
    found by itself.

    From the small noise that SigLIP is drawn from, even direct labels do not teach the tiny tower where an object
    stands in 300 steps (42 to 45 % right of three columns, at three learning rates); from the waves it learns that in
    the same time (85 to 87 %).

    Args:
        model (`AuroraModel`): from `tiny_config`, changed in place.
        strength (`float`, *optional*, defaults to 0.5): root mean square of the embeddings.
    """
    weight = model.policy.model.vision_layers()[0].position_embedding.weight  # (side ** 2, width)
    side = math.isqrt(weight.size(0))
    frequencies = math.pi * torch.logspace(0, 3, weight.size(1) // 4, base=2)  # half a turn to four over the image
    angles = (torch.arange(side) + 0.5)[:, None] / side * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    weight.copy_(strength * math.sqrt(2) * torch.cat([rows, columns], dim=2).flatten(0, 1))


def create_tiny_checkpoint(
    output_dir: str | Path,
    *,
    corpus: list[str] | None = None,
    seed: int = 0,
    image_size: int = 64,
    world: str | Path | None = None,
    tower_steps: int = 2000,
    box_steps: int = 0,
    **sizes: Any,
) -> Path:
    """
    Write a checkpoint with random weights, from which the demo starts.

    Args:
        output_dir (`str` or `Path`): new folder.
        corpus (`list[str]`, *optional*): what the tokenizer learns its words from; the synthetic world's by default.
        seed (`int`, *optional*, defaults to 0): of the weights.
        image_size (`int`, *optional*, defaults to 64): side of the frames, in pixels.
        world (`str` or `Path`, *optional*): folder of a synthetic world whose train split teaches the towers to see
            and hear before anything else, see `train_towers`. Without one they are random, too.
        tower_steps (`int`, *optional*, defaults to 2000): steps of that.
        box_steps (`int`, *optional*, defaults to 0): steps in which the mask decoder learns in that world to draw from
            boxes and points, see `train_box_drawing`.
        **sizes: for `tiny_config`.

    Returns:
        `Path`: the folder.
    """
    if corpus is None:
        from ..data.synthetic import world_corpus

        corpus = world_corpus()
    processor = tiny_processor(corpus, image_size=image_size)
    set_seed(seed)
    model = AuroraModel(tiny_config(processor, **sizes))
    look_back(model)
    place_patches(model)
    if world is not None:
        from .towers import train_towers

        train_towers(model, processor, world, steps=tower_steps, seed=seed)
    if world is not None and box_steps > 0:
        from .box_drawing import train_box_drawing

        train_box_drawing(model, processor, world, steps=box_steps, seed=seed)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)
