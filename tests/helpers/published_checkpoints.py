"""Small checkpoints in exactly the layouts in which the real ones are published, with weights that a formula gives."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

QWEN2_CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Sizes:
    """Widths (and of the feed-forward layers), layers, and what else the shapes of a VideoLLaMA2.1-AV hang on."""

    vocabulary: int = 512  # more than the tokenizer has, as in the published checkpoint
    width: int = 64
    feed_forward: int = 96
    key_width: int = 32
    layers: int = 2
    tower: int = 32
    tower_feed_forward: int = 40
    tower_layers: int = 3
    tower_patch: int = 7
    tower_positions: int = 25
    audio: int = 48
    audio_feed_forward: int = 56
    audio_layers: int = 2
    audio_heads: int = 4
    audio_embed: int = 16
    buckets: int = 32


SMALL = Sizes()
# VideoLLaMA2.1-7B-AV: Qwen2-7B, SigLIP so400m at 384 px, BEATs iter3+.
FULL = Sizes(152064, 3584, 18944, 512, 28, 1152, 4304, 27, 14, 729, 768, 3072, 12, 12, 512, 320)


def formula_weight(key: str, *shape: int) -> torch.Tensor:
    """
    Weights that look random, are the same under every version of torch, and keep activations of about unit size.

    Norms and other vectors lie around 1 (weights) or 0 (biases); matrices have a deviation of 1 / sqrt(fan in).
    """
    count = math.prod(shape)
    phase = sum((i + 1) * byte for i, byte in enumerate(key.encode())) % 9973
    index = torch.arange(count, dtype=torch.float64)
    noise = torch.sin(index * 12.9898 + phase * 0.7137).mul(43758.5453).frac()  # in (-1, 1)
    if len(shape) == 1:
        values = (1.0 if key.endswith("weight") else 0.0) + 0.2 * noise
    else:
        values = noise * math.sqrt(3.0 / math.prod(shape[1:]))
    return values.reshape(shape).to(torch.float32)


def _linear(shapes: dict[str, tuple[int, ...]], name: str, rows: int, columns: int, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (rows, columns)
    if bias:
        shapes[f"{name}.bias"] = (rows,)


def _norm(shapes: dict[str, tuple[int, ...]], name: str, width: int) -> None:
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)


def videollama2_shapes(sizes: Sizes = SMALL) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a VideoLLaMA2.1-AV."""
    shapes: dict[str, tuple[int, ...]] = {}
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (sizes.vocabulary, sizes.width)
    shapes["model.norm.weight"] = (sizes.width,)
    for i in range(sizes.layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (sizes.width,)
        for name, rows in (("q", sizes.width), ("k", sizes.key_width), ("v", sizes.key_width)):
            _linear(shapes, f"{layer}.self_attn.{name}_proj", rows, sizes.width)
        _linear(shapes, f"{layer}.self_attn.o_proj", sizes.width, sizes.width, bias=False)
        for name in ("gate", "up"):
            _linear(shapes, f"{layer}.mlp.{name}_proj", sizes.feed_forward, sizes.width, bias=False)
        _linear(shapes, f"{layer}.mlp.down_proj", sizes.width, sizes.feed_forward, bias=False)

    vision = "model.vision_tower.vision_tower.vision_model"
    shapes[f"{vision}.embeddings.patch_embedding.weight"] = (sizes.tower, 3, sizes.tower_patch, sizes.tower_patch)
    shapes[f"{vision}.embeddings.patch_embedding.bias"] = (sizes.tower,)
    shapes[f"{vision}.embeddings.position_embedding.weight"] = (sizes.tower_positions, sizes.tower)
    for i in range(sizes.tower_layers):
        layer = f"{vision}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(shapes, f"{layer}.self_attn.{name}", sizes.tower, sizes.tower)
        for name in ("layer_norm1", "layer_norm2"):
            _norm(shapes, f"{layer}.{name}", sizes.tower)
        _linear(shapes, f"{layer}.mlp.fc1", sizes.tower_feed_forward, sizes.tower)
        _linear(shapes, f"{layer}.mlp.fc2", sizes.tower, sizes.tower_feed_forward)
    _norm(shapes, f"{vision}.post_layernorm", sizes.tower)
    shapes[f"{vision}.head.probe"] = (1, 1, sizes.tower)
    _linear(shapes, f"{vision}.head.attention.out_proj", sizes.tower, sizes.tower)

    for stage, channels in (("s1", sizes.tower), ("s2", sizes.width)):
        for i in range(4):
            block, given = f"model.mm_projector.{stage}.b{i + 1}", channels if i == 0 else sizes.width
            for name, shape in (
                ("conv1", (sizes.width, given, 1, 1)),
                ("conv2", (sizes.width, 1, 3, 3)),
                ("conv3", (sizes.width, sizes.width, 1, 1)),
                ("downsample", (sizes.width, given, 1, 1)),
            ):
                if name != "downsample" or given != sizes.width:
                    shapes[f"{block}.{name}.conv.weight"] = shape
                    _norm(shapes, f"{block}.{name}.bn", sizes.width)
            for name, rows, columns in (("fc1", given // 4, sizes.width), ("fc2", sizes.width, given // 4)):
                shapes[f"{block}.se.{name}.weight"] = (rows, columns, 1, 1)
                shapes[f"{block}.se.{name}.bias"] = (rows,)
    shapes["model.mm_projector.sampler.0.weight"] = (sizes.width, sizes.width, 2, 2, 2)
    shapes["model.mm_projector.sampler.0.bias"] = (sizes.width,)
    for name in ("readout.0", "readout.2"):
        _linear(shapes, f"model.mm_projector.{name}", sizes.width, sizes.width)
    return {**shapes, **audio_tower_shapes(sizes), **audio_projector_shapes(sizes)}


def audio_tower_shapes(sizes: Sizes = SMALL) -> dict[str, tuple[int, ...]]:
    """BEATs, with the sound classes that are never run and the bias table that each layer's state repeats."""
    shapes: dict[str, tuple[int, ...]] = {"model.audio_tower.patch_embedding.weight": (sizes.audio_embed, 1, 16, 16)}
    tower = "model.audio_tower"
    _norm(shapes, f"{tower}.layer_norm", sizes.audio_embed)
    _linear(shapes, f"{tower}.post_extract_proj", sizes.audio, sizes.audio_embed)
    shapes[f"{tower}.encoder.pos_conv.0.bias"] = (sizes.audio,)
    shapes[f"{tower}.encoder.pos_conv.0.weight_g"] = (1, 1, 128)
    shapes[f"{tower}.encoder.pos_conv.0.weight_v"] = (sizes.audio, sizes.audio // 16, 128)
    _norm(shapes, f"{tower}.encoder.layer_norm", sizes.audio)
    for i in range(sizes.audio_layers):
        layer = f"{tower}.encoder.layers.{i}"
        shapes[f"{layer}.self_attn.relative_attention_bias.weight"] = (sizes.buckets, sizes.audio_heads)
        shapes[f"{layer}.self_attn.grep_a"] = (1, sizes.audio_heads, 1, 1)
        _linear(shapes, f"{layer}.self_attn.grep_linear", 8, sizes.audio // sizes.audio_heads)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(shapes, f"{layer}.self_attn.{name}", sizes.audio, sizes.audio)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            _norm(shapes, f"{layer}.{name}", sizes.audio)
        _linear(shapes, f"{layer}.fc1", sizes.audio_feed_forward, sizes.audio)
        _linear(shapes, f"{layer}.fc2", sizes.audio, sizes.audio_feed_forward)
    _linear(shapes, f"{tower}.predictor", 5, sizes.audio)
    return shapes


def audio_projector_shapes(sizes: Sizes = SMALL) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    _linear(shapes, "model.mm_projector_a.0", sizes.width, sizes.audio)
    _linear(shapes, "model.mm_projector_a.2", sizes.width, sizes.width)
    return shapes


def videollama2_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A tensor for each name; the bias tables of BEATs' layers are one and the same, as in the published model."""
    weights = {key: formula_weight(key, *shape) for key, shape in shapes.items()}
    table = "model.audio_tower.encoder.layers.0.self_attn.relative_attention_bias.weight"
    for key in weights:
        if key.endswith("relative_attention_bias.weight"):
            weights[key] = weights[table].clone()
    return weights


def write_tokenizer(folder: Path, **changes: object) -> None:
    """
    Qwen2's tokenizer as VideoLLaMA2 publishes it: `vocab.json` and `merges.txt`, three chat tokens after them, a
    chat template for plain strings. `changes` replace entries of `tokenizer_config.json`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["You are a helpful assistant. Which object is it? user system"], trainer)
    bpe.model.save(str(folder))  # vocab.json and merges.txt
    first = bpe.get_vocab_size()
    chat_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(first + i): {"content": token, **flags} for i, token in enumerate(chat_tokens)},
        "additional_special_tokens": chat_tokens[1:],
        "bos_token": None,
        "chat_template": QWEN2_CHAT,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        **changes,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({token: first + i for i, token in enumerate(chat_tokens)}))


def save_shards(weights: dict[str, torch.Tensor], folder: Path, num_shards: int) -> None:
    """Write `model-0000i-of-0000n.safetensors` and their index."""
    keys = sorted(weights)
    weight_map = {}
    for i in range(num_shards):
        name = f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {key: weights[key] for key in keys[i::num_shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_videollama2(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """
    A small checkpoint as VideoLLaMA2.1-7B-AV is published: config, 4 shards, two `.bin` files, tokenizer.

    Args:
        folder (`Path`): new folder.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the weights.
    """
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    config = {
        "architectures": ["Videollama2Qwen2ForCausalLM"],
        "model_type": "videollama2_qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 300,
        "eos_token_id": 302,
        "freeze_backbone": False,
        "hidden_act": "silu",
        "hidden_size": SMALL.width,
        "hidden_size_a": SMALL.width,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": SMALL.feed_forward,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "mm_audio_tower": "audio_tower.bin",
        "mm_hidden_size": SMALL.tower,
        "mm_hidden_size_a": SMALL.audio,
        "mm_projector_a_type": "mlp2x_gelu",
        "mm_projector_type": "stc_connector_v35",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "siglip",
        "num_attention_heads": 4,
        "num_frames": 16,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": "4.42.3",
        "use_cache": True,
        "use_mm_proj": True,
        "use_sliding_window": False,
        "vocab_size": SMALL.vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config))
    # The real one names a repository whose sizes are known; a small tower needs its own config.
    (folder / "siglip").mkdir()
    vision_config = {
        "hidden_size": SMALL.tower,
        "image_size": 36,
        "intermediate_size": 40,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "patch_size": 7,
    }
    (folder / "siglip" / "config.json").write_text(
        json.dumps({"model_type": "siglip", "vision_config": vision_config})
    )
    weights = {key: value.to(dtype) for key, value in videollama2_weights(videollama2_shapes()).items()}
    for prefix, name in (("model.audio_tower.", "audio_tower.bin"), ("model.mm_projector_a.", "mm_projector_a.bin")):
        torch.save({key: weights.pop(key) for key in list(weights) if key.startswith(prefix)}, folder / name)
    save_shards(weights, folder, 4)
    return folder


def formula_pixels(num_frames: int, size: int) -> torch.Tensor:
    """Normalised frames `(1, T, 3, size, size)` that look random."""
    return formula_weight("frames", 1, num_frames, 3, size, size) * math.sqrt(num_frames * size * size)


def formula_sound(seconds: float = 2.5, sampling_rate: int = 16000) -> np.ndarray:
    """A rising tone under noise, `(samples,)` float32 in [-1, 1]."""
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    tone = 0.4 * np.sin(2 * np.pi * (180 * time + 300 * time**2))
    noise = formula_weight("sound", time.size, 1).double().numpy()[:, 0] / math.sqrt(3.0)
    return (tone + 0.1 * noise).astype(np.float32)
