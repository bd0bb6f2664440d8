"""Published checkpoints of Qwen2.5-VL and Qwen2.5-Omni as policies: their configs, their names, their tokenizer."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5OmniConfig

from ....data.schema import DataError
from ...checkpoints import build_from_weights, find_checkpoint, read_config, read_safetensors
from ..tokens import add_tokens, init_token_rows, require_chat_tokenizer
from .configuration_qwen import QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen_omni import QwenOmniPolicy
from .modeling_qwen_vl import QwenVLPolicy
from .processing_qwen import QwenOmniPolicyProcessor, QwenVLPolicyProcessor

# From the published names of weights to ours, one after the other. What transformers writes today needs none.
RENAMES = (
    (r"^thinker\.", ""),
    (r"^(visual|audio_tower)\.", r"model.\1."),
    (r"^model\.(?!language_model\.|visual\.|audio_tower\.)", "model.language_model."),
)
# What Qwen2.5-Omni speaks with.
UNUSED = re.compile(r"talker\.|token2wav\.")
# Pixels of a clip's frame: what Qwen's own tools bring it to. The files hold the size of images, 21 times as large.
VIDEO_MIN_PIXELS = 128 * 28 * 28
VIDEO_MAX_PIXELS = 768 * 28 * 28


def load_qwen_vl(
    name_or_path: str | Path,
    dtype: torch.dtype | None = None,
    *,
    seconds_per_frame: float = 1.0,
    video_max_pixels: int = VIDEO_MAX_PIXELS,
) -> tuple[QwenVLPolicy, QwenVLPolicyProcessor]:
    """
    Qwen2.5-VL and its processor from a published folder or Hub repository.

    Args:
        name_or_path (`str` or `Path`): such as `Qwen/Qwen2.5-VL-7B-Instruct`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.
        seconds_per_frame (`float`, *optional*, defaults to 1.0): between the frames that the policy sees.
        video_max_pixels (`int`, *optional*, defaults to 602112): of a clip's frame, of which 784 take half a place.

    Returns:
        `tuple`: the policy in eval mode, with a row for `[SEG]`, and the processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = find_checkpoint(name_or_path)
    published = Qwen2_5_VLConfig.from_pretrained(_checked(folder, "qwen2_5_vl"))
    config = QwenVLPolicyConfig(**_fields(published))
    policy = _build(QwenVLPolicy, config, dtype or published.dtype, folder)
    processor = QwenVLPolicyProcessor.from_pretrained(folder, seconds_per_frame=seconds_per_frame)
    return policy, _finish(policy, processor, folder, video_max_pixels)


def load_qwen_omni(
    name_or_path: str | Path,
    dtype: torch.dtype | None = None,
    *,
    seconds_per_frame: float = 1.0,
    audio_seconds: float | None = None,
    video_max_pixels: int = VIDEO_MAX_PIXELS,
) -> tuple[QwenOmniPolicy, QwenOmniPolicyProcessor]:
    """
    The thinker of Qwen2.5-Omni and its processor from a published folder or Hub repository; what speaks is left there.

    Args:
        name_or_path (`str` or `Path`): such as `Qwen/Qwen2.5-Omni-7B`.
        dtype, seconds_per_frame, video_max_pixels: see [`load_qwen_vl`].
        audio_seconds (`float`, *optional*): longer sound is cut to this; a second takes 25 places.

    Returns:
        `tuple`: the policy in eval mode, with a row for `[SEG]`, and the processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = find_checkpoint(name_or_path)
    published = Qwen2_5OmniConfig.from_pretrained(_checked(folder, "qwen2_5_omni"))
    config = QwenOmniPolicyConfig(**_fields(published.thinker_config))
    policy = _build(QwenOmniPolicy, config, dtype or published.thinker_config.dtype or published.dtype, folder)
    processor = QwenOmniPolicyProcessor.from_pretrained(
        folder, seconds_per_frame=seconds_per_frame, audio_seconds=audio_seconds
    )
    return policy, _finish(policy, processor, folder, video_max_pixels)


def _checked(folder: Path, model_type: str) -> Path:
    """The folder of a checkpoint, once its config is seen to be of this kind."""
    found = read_config(folder)["model_type"]
    if found != model_type:
        raise DataError(f"{folder}/config.json: its model type is {found!r}, not {model_type!r}")
    return folder


def _fields(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}


def _build(cls: type, config: Any, dtype: torch.dtype | None, folder: Path) -> Any:
    weights = {}
    for name, value in read_safetensors(folder).items():
        if not UNUSED.match(name):
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            weights[name] = value
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights["model.language_model.embed_tokens.weight"])
    return build_from_weights(cls, config, weights, dtype=dtype or torch.bfloat16, source=folder)


def _finish(policy: Any, processor: Any, folder: Path, video_max_pixels: int) -> Any:
    """Give both `[SEG]`, the processor the size of clips, and the policy plain answers; return the processor."""
    tokenizer = processor.tokenizer
    require_chat_tokenizer(tokenizer, str(folder))
    init_token_rows(policy, tokenizer, add_tokens(tokenizer))
    tokenizer.padding_side = "left"
    processor.video_processor.size = {"shortest_edge": VIDEO_MIN_PIXELS, "longest_edge": video_max_pixels}
    # A published repetition penalty would make answers differ from what the policy was trained to say.
    policy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return processor
