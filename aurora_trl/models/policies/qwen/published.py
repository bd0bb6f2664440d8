"""From the published checkpoints to policies."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5OmniConfig

from .configuration_qwen import QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen_omni import QwenOmniPolicy
from .modeling_qwen_vl import QwenVLPolicy
from .processing_qwen import QwenOmniPolicyProcessor, QwenVLPolicyProcessor

# The published names of weights, as patterns, and ours. Names that transformers writes today are left alone.
VL_NAMES = {
    r"^visual\.": "model.visual.",
    r"^model\.(?!language_model\.|visual\.)": "model.language_model.",
}
OMNI_NAMES = {
    r"^thinker\.": "",
    r"^visual\.": "model.visual.",
    r"^audio_tower\.": "model.audio_tower.",
    r"^model\.(?!language_model\.|visual\.|audio_tower\.)": "model.language_model.",
}
# What Qwen2.5-Omni speaks with.
OMNI_UNUSED = ("talker.", "token2wav.")
# Pixels of a clip's frame: what Qwen's own tools bring it to. The files hold the size of images, 21 times as large.
VIDEO_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}


def load_qwen_vl(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto", **hub_kwargs: Any
) -> tuple[QwenVLPolicy, QwenVLPolicyProcessor]:
    """
    Load Qwen2.5-VL as it is published.

    Args:
        name_or_folder (`str` or `Path`): such as `"Qwen/Qwen2.5-VL-7B-Instruct"`, or a folder with its files.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.
        **hub_kwargs: `revision`, `token`, …

    Returns:
        `tuple`: the policy, which has no `[SEG]` yet, and its processor.

    Raises:
        `ValueError`: lists weights that are missing, unexpected or of another shape.
    """
    published = Qwen2_5_VLConfig.from_pretrained(name_or_folder, **hub_kwargs)
    config = QwenVLPolicyConfig(**_fields(published))
    policy = _load_weights(QwenVLPolicy, name_or_folder, config, dtype, VL_NAMES, (), hub_kwargs)
    processor = QwenVLPolicyProcessor.from_pretrained(name_or_folder, **hub_kwargs)
    processor.video_processor.size = dict(VIDEO_SIZE)
    return policy, processor


def load_qwen_omni(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto", **hub_kwargs: Any
) -> tuple[QwenOmniPolicy, QwenOmniPolicyProcessor]:
    """
    Load the thinker of Qwen2.5-Omni as it is published; what speaks is left in the file.

    Args:
        name_or_folder (`str` or `Path`): such as `"Qwen/Qwen2.5-Omni-7B"`, or a folder with its files.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.
        **hub_kwargs: `revision`, `token`, …

    Returns:
        `tuple`: the policy, which has no `[SEG]` yet, and its processor.

    Raises:
        `ValueError`: lists weights that are missing, unexpected or of another shape.
    """
    published = Qwen2_5OmniConfig.from_pretrained(name_or_folder, **hub_kwargs)
    config = QwenOmniPolicyConfig(**_fields(published.thinker_config))
    policy = _load_weights(QwenOmniPolicy, name_or_folder, config, dtype, OMNI_NAMES, OMNI_UNUSED, hub_kwargs)
    processor = QwenOmniPolicyProcessor.from_pretrained(name_or_folder, **hub_kwargs)
    processor.video_processor.size = dict(VIDEO_SIZE)
    return policy, processor


def _fields(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}


def _load_weights(
    cls: type,
    name_or_folder: str | Path,
    config: Any,
    dtype: torch.dtype | str,
    names: dict[str, str],
    unused: tuple[str, ...],
    hub_kwargs: dict[str, Any],
) -> Any:
    """The policy with every weight accounted for, and without the sampling habits that are published beside it."""
    policy, info = cls.from_pretrained(  # type: ignore[attr-defined]
        name_or_folder,
        config=config,
        dtype=dtype,
        key_mapping=names,
        output_loading_info=True,
        **hub_kwargs,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(kind) or () if not str(key).startswith(unused))
        if keys:
            raise ValueError(
                f"{name_or_folder}: not a whole {cls.__name__} checkpoint, {kind.replace('_', ' ')}: {', '.join(keys)}"
            )
    # A published repetition penalty would make answers differ from what the policy was trained to say.
    given = policy.generation_config
    policy.generation_config = GenerationConfig(
        bos_token_id=given.bos_token_id, eos_token_id=given.eos_token_id, pad_token_id=given.pad_token_id
    )
    return policy
