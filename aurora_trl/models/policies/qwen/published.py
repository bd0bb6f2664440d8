"""Published checkpoints of Qwen's models as policies: configs, names, tokenizers."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5OmniConfig,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeProcessor,
    Qwen3VLConfig,
)

from ....errors import DataError
from ...checkpoints.weight_files import read_safetensors
from ..published_parts import build_policy, checked_folder, config_fields, with_plain_answers
from .configuration_qwen import Qwen3OmniPolicyConfig, Qwen3VLPolicyConfig, QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen3_omni import Qwen3OmniPolicy
from .modeling_qwen_omni import QwenOmniPolicy
from .modeling_qwen_vl import Qwen3VLPolicy, QwenVLPolicy
from .processing_qwen import (
    Qwen3OmniPolicyProcessor,
    Qwen3VLPolicyProcessor,
    QwenOmniPolicyProcessor,
    QwenVLPolicyProcessor,
)

# From the published names of weights to ours, one after the other. What transformers writes today needs none.
RENAMES = (
    (r"^thinker\.", ""),
    (r"^(visual|audio_tower)\.", r"model.\1."),
    (r"^model\.(?!language_model\.|visual\.|audio_tower\.)", "model.language_model."),
)
# What Qwen2.5-Omni and Qwen3-Omni speak with.
UNUSED = re.compile(r"talker\.|token2wav\.|code2wav\.")
# A weight of one of a layer's experts: the layer, and the expert's number.
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(?:gate|up|down)_proj\.weight$")
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


def load_qwen3_omni(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[Qwen3OmniPolicy, Qwen3OmniPolicyProcessor]:
    """
    The thinker of Qwen3-Omni and its processor from a published folder or Hub repository; what speaks is left there.

    Args:
        name_or_folder (`str` or `Path`): such as `Qwen/Qwen3-Omni-30B-A3B-Instruct`, or `…-Thinking`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = checked_folder(name_or_folder, "qwen3_omni_moe")
    published = Qwen3OmniMoeConfig.from_pretrained(folder)
    fields = config_fields(published.thinker_config)
    fields["text_config"] = config_fields(published.thinker_config.text_config)
    own_dtype = published.thinker_config.dtype or published.dtype
    weights = _join_experts(_own_names(folder), folder)
    policy = build_policy(Qwen3OmniPolicy, Qwen3OmniPolicyConfig(**fields), weights, dtype, own_dtype, folder)
    processor = Qwen3OmniPolicyProcessor.from_pretrained(folder)
    processor.video_processor.size = dict(Qwen3OmniMoeProcessor.videos_kwargs["size"])  # of a frame
    return with_plain_answers(policy, processor)


def _build(cls: type, config: Any, dtype: torch.dtype | str, own_dtype: torch.dtype | None, folder: Path) -> Any:
    """The policy with every weight in its place."""
    return build_policy(cls, config, _own_names(folder), dtype, own_dtype, folder)


def _own_names(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights under our names, without those that speak."""
    weights = {}
    for name, value in read_safetensors(folder).items():
        if not UNUSED.match(name):
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            weights[name] = value
    return weights


def _join_experts(weights: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """
    A layer's experts together, as the model holds them; published is each by itself. The weights are taken out.

    Raises:
        `DataError`: names an expert's weight that is missing.
    """
    counts: dict[str, int] = {}
    for match in filter(None, map(_EXPERT.match, weights)):
        counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    for layer, count in counts.items():
        names = {kind: [f"{layer}.{i}.{kind}_proj.weight" for i in range(count)] for kind in ("gate", "up", "down")}
        missing = [name for listed in names.values() for name in listed if name not in weights]
        if missing:
            raise DataError(f"{folder}: its weights do not fit together; {len(missing)} missing: {', '.join(missing)}")
        parts = {kind: [weights.pop(name) for name in listed] for kind, listed in names.items()}
        pairs = zip(parts["gate"], parts["up"], strict=True)
        weights[f"{layer}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
        weights[f"{layer}.down_proj"] = torch.stack(parts["down"])
    return weights
