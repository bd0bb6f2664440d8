"""Configurations of the Qwen policies: those of transformers, under names of our own."""

from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5OmniThinkerConfig, Qwen3VLConfig


class QwenVLPolicyConfig(Qwen2_5_VLConfig):
    """Configuration of [`QwenVLPolicy`]; the fields are those of `Qwen2_5_VLConfig`."""

    model_type = "aurora_qwen2_5_vl"


class Qwen3VLPolicyConfig(Qwen3VLConfig):
    """Configuration of [`Qwen3VLPolicy`]; the fields are those of `Qwen3VLConfig`."""

    model_type = "aurora_qwen3_vl"


class QwenOmniPolicyConfig(Qwen2_5OmniThinkerConfig):
    """Configuration of [`QwenOmniPolicy`]; the fields are those of `Qwen2_5OmniThinkerConfig`."""

    model_type = "aurora_qwen2_5_omni"


AutoConfig.register(QwenVLPolicyConfig.model_type, QwenVLPolicyConfig)
AutoConfig.register(Qwen3VLPolicyConfig.model_type, Qwen3VLPolicyConfig)
AutoConfig.register(QwenOmniPolicyConfig.model_type, QwenOmniPolicyConfig)
