"""The published checkpoint of VideoLLaMA2.1-7B-AV as a policy: its config, its names, its tokenizer."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, SiglipVisionConfig
from transformers.utils import logging

from ....errors import DataError
from ....prompts import AUDIO_TOKEN, VIDEO_TOKEN
from ...checkpoints.weight_files import (
    build_from_weights,
    count_modules,
    find_checkpoint,
    read_config,
    read_safetensors,
    read_torch_file,
)
from ..tokens import add_tokens, init_token_rows, require_chat_tokenizer
from .configuration_videollama2 import BeatsConfig, VideoLlama2Config
from .modeling_videollama2 import VideoLlama2ForConditionalGeneration, refuse_float16
from .processing_videollama2 import VideoLlama2Processor

logger = logging.get_logger(__name__)

# The published config names its vision tower and leaves the sizes to that repository's own config.
VISION_TOWERS = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
# The one architecture that this port is of; sizes are free.
REQUIRED = {
    "mm_projector_type": "stc_connector_v35",
    "mm_projector_a_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
}
# Audio weights are also published as files of their own, which count where the shards lack them.
AUDIO_FILES = {"model.audio_tower.": "audio_tower.bin", "model.mm_projector_a.": "mm_projector_a.bin"}

# Weights that upstream never runs on audio-visual input, by name.
UNUSED = re.compile(
    r"model\.audio_tower\.predictor\."  # BEATs' sound classes
    r"|model\.vision_tower\.vision_tower\.vision_model\.head\."  # SigLIP's pooling
    r"|.*\.(position_ids|rotary_emb\.inv_freq)$"  # buffers that old versions of transformers saved
)
# One table that all layers of BEATs share; a checkpoint may hold it once, under any layer's name, or for each layer.
POSITION_TABLES = re.compile(r"model\.audio_tower\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight")
POSITION_TABLE = "model.audio_tower.encoder.layers.0.self_attn.relative_attention_bias.weight"
RENAMES = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    (r"^model\.audio_tower\.encoder\.pos_conv\.0\.weight_g$", "model.audio_tower.encoder.pos_conv.length"),
    (r"^model\.audio_tower\.encoder\.pos_conv\.0\.weight_v$", "model.audio_tower.encoder.pos_conv.direction"),
    (r"^model\.audio_tower\.encoder\.pos_conv\.0\.bias$", "model.audio_tower.encoder.pos_conv.bias"),
)

# Upstream puts `<video>\n` in front of the text, in a plain string. Messages here come in blocks: they are written out
# as upstream's string, and then the checkpoint's own template goes on as published.
BLOCKS_TO_TEXT = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set flat.messages = flat.messages + [message] -%}{%- else -%}"
    "{%- set turn = namespace(text='', after_media=false) -%}"
    "{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'text' -%}"
    "{%- set turn.text = turn.text + ('\n' if turn.after_media else '') + block['text'] -%}"
    "{%- else -%}{%- set turn.text = turn.text + '<' + block['type'] + '>' -%}{%- endif -%}"
    "{%- set turn.after_media = block['type'] != 'text' -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': turn.text}] -%}"
    "{%- endif -%}{%- endfor -%}{%- set messages = flat.messages -%}"
)


def load_videollama2(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[VideoLlama2ForConditionalGeneration, VideoLlama2Processor]:
    """
    The policy and its processor from a published folder or Hub repository.

    Args:
        name_or_folder (`str` or `Path`): such as `DAMO-NLP-SG/VideoLLaMA2.1-7B-AV`.
        dtype (`torch.dtype`, *optional*): of the weights; by default the checkpoint's own, and bfloat16 where that is
            float16.

    Returns:
        `tuple`: the policy in eval mode, with rows for `[SEG]`, `<video>` and `<audio>`, and the processor.

    Raises:
        `DataError`: names the file, the key or the weights that are missing, broken or of another architecture.
        `ValueError`: for float16.
    """
    folder = find_checkpoint(name_or_folder)
    published = read_config(folder)
    chosen = _choose_dtype(published, dtype)
    tokenizer, new_tokens = load_tokenizer(folder)
    weights = _read_weights(folder)
    config = translate_config(published, weights, folder)
    config.video_token_id, config.audio_token_id = tokenizer.convert_tokens_to_ids([VIDEO_TOKEN, AUDIO_TOKEN])
    config.pad_token_id = tokenizer.pad_token_id
    policy = build_from_weights(
        VideoLlama2ForConditionalGeneration, config, our_names(weights), dtype=chosen, source=folder
    )
    init_token_rows(policy, tokenizer, new_tokens)
    processor = VideoLlama2Processor(
        tokenizer,
        image_size=config.vision_config.image_size,
        patch_size=config.vision_config.patch_size,
        num_mel_bins=config.audio_config.num_mel_bins,
        audio_patch_size=config.audio_config.patch_size,
    )
    return policy, processor


def load_tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """
    The published tokenizer with the tokens and the chat template that messages in blocks need.

    Returns:
        `tuple`: the tokenizer, and the tokens that are new in it.
    """
    words = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    for name in ("tokenizer_config.json", *words):
        # transformers makes an empty tokenizer where its words are missing (5.24).
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file; the checkpoint's tokenizer is not whole")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen2Config())
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder}: its tokenizer can not be read: {error}; download its files again") from None
    require_chat_tokenizer(tokenizer, str(folder))
    new_tokens = add_tokens(tokenizer, (VIDEO_TOKEN, AUDIO_TOKEN))
    tokenizer.chat_template = BLOCKS_TO_TEXT + tokenizer.chat_template
    tokenizer.padding_side = "left"
    return tokenizer, new_tokens


def our_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, from their published names to those of [`VideoLlama2ForConditionalGeneration`]."""
    named = {}
    for key, value in weights.items():
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    return named


def translate_config(published: dict[str, Any], weights: dict[str, torch.Tensor], folder: Path) -> VideoLlama2Config:
    """
    The policy's config. What the published one does not say (the audio tower, the connector) the weights' shapes tell.

    Args:
        published (`dict`): content of the published `config.json`.
        weights (`dict[str, torch.Tensor]`): under their published names.
        folder (`Path`): the checkpoint, for messages and for a vision tower's folder inside it.

    Raises:
        `DataError`: for another architecture, or where the weights that tell a size are missing.
    """
    for key, value in REQUIRED.items():
        if published.get(key, value) != value:
            raise DataError(f"{folder}/config.json: `{key}` is {published[key]!r}; only {value!r} is ported")
    known = set(Qwen2Config().to_dict()) | {"rope_theta", "rope_scaling"}
    left_out = {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    text_config = Qwen2Config(**{k: v for k, v in published.items() if k in known - left_out})
    connector = _tensor(weights, "model.mm_projector.s1.b1.conv2.conv.weight", folder)
    return VideoLlama2Config(
        vision_config=_vision_config(published, folder),
        audio_config=_audio_config(weights, folder),
        text_config=text_config,
        vision_select_layer=published.get("mm_vision_select_layer", -2),
        connector_depth=count_modules(weights, r"model\.mm_projector\.s1\.b(\d+)\."),
        connector_group_width=connector.shape[1],
        bos_token_id=published.get("bos_token_id"),
        eos_token_id=published.get("eos_token_id"),
    )


def _choose_dtype(published: dict[str, Any], dtype: torch.dtype | str) -> torch.dtype:
    if dtype != "auto":
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        refuse_float16(wanted)
        return wanted
    own = getattr(torch, str(published.get("dtype") or published.get("torch_dtype") or "bfloat16"), torch.bfloat16)
    if own == torch.float16:
        logger.warning("the checkpoint is in float16, in which VideoLLaMA2 overflows: it is loaded in bfloat16")
        return torch.bfloat16
    return own


def _vision_config(published: dict[str, Any], folder: Path) -> SiglipVisionConfig:
    name = published.get("mm_vision_tower")
    if name in VISION_TOWERS:
        return SiglipVisionConfig(**VISION_TOWERS[name], vision_use_head=False)
    if name is None:
        raise DataError(f"{folder}/config.json: it names no `mm_vision_tower`; this is not an audio-visual checkpoint")
    inside = folder / name
    tower = inside if inside.is_dir() else find_checkpoint(name, patterns=("config.json",))
    content = read_config(tower)
    config = SiglipVisionConfig(**content.get("vision_config", content))
    config.vision_use_head = False
    return config


def _audio_config(weights: dict[str, torch.Tensor], folder: Path) -> BeatsConfig:
    """All sizes of BEATs but two show in its weights; bins and longest distance are the same in all published ones."""
    prefix = "model.audio_tower."
    patch = _tensor(weights, f"{prefix}patch_embedding.weight", folder)
    kernel = _tensor(weights, f"{prefix}encoder.pos_conv.0.weight_v", folder)
    buckets = _tensor(weights, POSITION_TABLE, folder)
    hidden_size = kernel.shape[0]
    return BeatsConfig(
        patch_size=patch.shape[-1],
        embed_dim=patch.shape[0],
        hidden_size=hidden_size,
        num_hidden_layers=count_modules(weights, r"model\.audio_tower\.encoder\.layers\.(\d+)\."),
        num_attention_heads=buckets.shape[1],
        intermediate_size=_tensor(weights, f"{prefix}encoder.layers.0.fc1.weight", folder).shape[0],
        conv_pos=kernel.shape[2],
        conv_pos_groups=hidden_size // kernel.shape[1],
        num_buckets=buckets.shape[0],
    )


def _tensor(weights: dict[str, torch.Tensor], key: str, folder: Path) -> torch.Tensor:
    if key not in weights:
        files = [file for prefix, file in AUDIO_FILES.items() if key.startswith(prefix)]
        where = f" in its shards or in {files[0]}" if files else ""
        raise DataError(f"{folder}: {key} is missing{where}; this is not a whole audio-visual checkpoint")
    return weights[key]


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights under their published names, without those that are known not to be run."""
    weights = read_safetensors(folder)
    for prefix, name in AUDIO_FILES.items():
        # Upstream, too, runs what the shards hold; the files are what its training started from.
        if not any(key.startswith(prefix) for key in weights) and (folder / name).is_file():
            weights.update(read_torch_file(folder / name))
    tables = [weights.pop(key) for key in sorted(weights) if POSITION_TABLES.fullmatch(key)]
    if not all(torch.equal(table, tables[0]) for table in tables):
        raise DataError(f"{folder}: BEATs' relative_attention_bias differs between layers, which share one table")
    weights |= {POSITION_TABLE: tables[0]} if tables else {}
    return {key: value for key, value in weights.items() if not UNUSED.match(key)}
