"""Qwen2.5-VL, Qwen3-VL, and the thinker of Qwen2.5-Omni."""

from .configuration_qwen import Qwen3VLPolicyConfig, QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen_omni import QwenOmniModel, QwenOmniPolicy
from .modeling_qwen_vl import Qwen3VLBackbone, Qwen3VLPolicy, QwenVLModel, QwenVLPolicy
from .processing_qwen import Qwen3VLPolicyProcessor, QwenOmniPolicyProcessor, QwenVLPolicyProcessor

__all__ = [
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
