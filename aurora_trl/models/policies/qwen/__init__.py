"""Qwen2.5-VL, Qwen3-VL, and the thinkers of Qwen2.5-Omni and Qwen3-Omni."""

from .configuration_qwen import (
    Qwen3OmniPolicyConfig,
    Qwen3VLPolicyConfig,
    QwenOmniPolicyConfig,
    QwenVLPolicyConfig,
)
from .modeling_qwen3_omni import Qwen3OmniModel, Qwen3OmniPolicy
from .modeling_qwen_omni import QwenOmniModel, QwenOmniPolicy
from .modeling_qwen_vl import Qwen3VLBackbone, Qwen3VLPolicy, QwenVLModel, QwenVLPolicy
from .processing_qwen import (
    Qwen3OmniPolicyProcessor,
    Qwen3VLPolicyProcessor,
    QwenOmniPolicyProcessor,
    QwenVLPolicyProcessor,
)

__all__ = [
    "Qwen3OmniModel",
    "Qwen3OmniPolicy",
    "Qwen3OmniPolicyConfig",
    "Qwen3OmniPolicyProcessor",
    "Qwen3VLBackbone",
    "Qwen3VLPolicy",
    "Qwen3VLPolicyConfig",
    "Qwen3VLPolicyProcessor",
    "QwenOmniModel",
    "QwenOmniPolicy",
    "QwenOmniPolicyConfig",
    "QwenOmniPolicyProcessor",
    "QwenVLModel",
    "QwenVLPolicy",
    "QwenVLPolicyConfig",
    "QwenVLPolicyProcessor",
]
