"""Published checkpoints of Qwen2.5-VL, Qwen3-VL and Qwen2.5-Omni as policies: configs, names, tokenizers."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5OmniConfig, Qwen3VLConfig

from ...checkpoints.weight_files import read_safetensors
from ..published_parts import build_policy, checked_folder, config_fields, with_plain_answers
from .configuration_qwen import Qwen3VLPolicyConfig, QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen_omni import QwenOmniPolicy
from .modeling_qwen_vl import Qwen3VLPolicy, QwenVLPolicy
from .processing_qwen import Qwen3VLPolicyProcessor, QwenOmniPolicyProcessor, QwenVLPolicyProcessor

# From the published names of weights to ours, one after the other. What transformers writes today needs none.
RENAMES = (
    (r"^thinker\.", ""),
    (r"^(visual|audio_tower)\.", r"model.\1."),
    (r"^model\.(?!language_model\.|visual\.|audio_tower\.)", "model.language_model."),
)
# What Qwen2.5-Omni speaks with.
UNUSED = re.compile(r"talker\.|token2wav\.")
# Pixels of a clip's frame: what Qwen's own tools bring it to. The files hold the size of images, 21 times as large.
VIDEO_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}


def load_qwen_vl(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[QwenVLPolicy, QwenVLPolicyProcessor]:
    """
    Qwen2.5-VL and its processor from a published folder or Hub repository.

    Args:
        name_or_folder (`str` or `Path`): such as `Qwen/Qwen2.5-VL-7B-Instruct`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = checked_folder(name_or_folder, "qwen2_5_vl")
    published = Qwen2_5_VLConfig.from_pretrained(folder)
    policy = _build(QwenVLPolicy, QwenVLPolicyConfig(**config_fields(published)), dtype, published.dtype, folder)
    processor = QwenVLPolicyProcessor.from_pretrained(folder)
    processor.video_processor.size = dict(VIDEO_SIZE)
    return with_plain_answers(policy, processor)


def load_qwen3_vl(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[Qwen3VLPolicy, Qwen3VLPolicyProcessor]:
    """
    Qwen3-VL (2B, 4B, 8B, 32B: not the mixtures of experts) and its processor from a published folder or Hub
    repository.

    Args:
        name_or_folder (`str` or `Path`): such as `Qwen/Qwen3-VL-8B-Instruct`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = checked_folder(name_or_folder, "qwen3_vl")
    published = Qwen3VLConfig.from_pretrained(folder)
    own_dtype = published.dtype or published.text_config.dtype
    policy = _build(Qwen3VLPolicy, Qwen3VLPolicyConfig(**config_fields(published)), dtype, own_dtype, folder)
    processor = Qwen3VLPolicyProcessor.from_pretrained(folder)
    # A frame takes 768 places at most, as with Qwen's own tools; ten frames would else have those of a long video.
    processor.video_processor.cap_pixels_per_frame = True
    return with_plain_answers(policy, processor)


def load_qwen_omni(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[QwenOmniPolicy, QwenOmniPolicyProcessor]:
    """
    The thinker of Qwen2.5-Omni and its processor from a published folder or Hub repository; what speaks is left there.

    Args:
        name_or_folder (`str` or `Path`): such as `Qwen/Qwen2.5-Omni-7B`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = checked_folder(name_or_folder, "qwen2_5_omni")
    published = Qwen2_5OmniConfig.from_pretrained(folder)
    config = QwenOmniPolicyConfig(**config_fields(published.thinker_config))
    policy = _build(QwenOmniPolicy, config, dtype, published.thinker_config.dtype or published.dtype, folder)
    processor = QwenOmniPolicyProcessor.from_pretrained(folder)
    processor.video_processor.size = dict(VIDEO_SIZE)
    return with_plain_answers(policy, processor)


def _build(cls: type, config: Any, dtype: torch.dtype | str, own_dtype: torch.dtype | None, folder: Path) -> Any:
    """The policy with every weight in its place, under our names."""
    weights = {}
    for name, value in read_safetensors(folder).items():
        if not UNUSED.match(name):
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            weights[name] = value
    return build_policy(cls, config, weights, dtype, own_dtype, folder)
