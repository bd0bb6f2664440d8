"""Qwen2.5-VL, and the thinker of Qwen2.5-Omni."""

from .configuration_qwen import QwenOmniPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen_omni import QwenOmniModel, QwenOmniPolicy
from .modeling_qwen_vl import QwenVLModel, QwenVLPolicy
from .processing_qwen import QwenOmniPolicyProcessor, QwenVLPolicyProcessor

__all__ = [
    "QwenOmniModel",
    "QwenOmniPolicy",
    "QwenOmniPolicyConfig",
    "QwenOmniPolicyProcessor",
    "QwenVLModel",
    "QwenVLPolicy",
    "QwenVLPolicyConfig",
    "QwenVLPolicyProcessor",
]
