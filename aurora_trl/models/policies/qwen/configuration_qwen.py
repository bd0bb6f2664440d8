"""Configurations of the Qwen policies: those of transformers, under names of our own."""

from typing import Any

from transformers import (
    AutoConfig,
    Qwen2_5_VLConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen3OmniMoeThinkerConfig,
    Qwen3VLConfig,
)
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTextConfig


class QwenVLPolicyConfig(Qwen2_5_VLConfig):
    """Configuration of [`QwenVLPolicy`]; the fields are those of `Qwen2_5_VLConfig`."""

    model_type = "aurora_qwen2_5_vl"


class Qwen3VLPolicyConfig(Qwen3VLConfig):
    """Configuration of [`Qwen3VLPolicy`]; the fields are those of `Qwen3VLConfig`."""

    model_type = "aurora_qwen3_vl"


class QwenOmniPolicyConfig(Qwen2_5OmniThinkerConfig):
    """Configuration of [`QwenOmniPolicy`]; the fields are those of `Qwen2_5OmniThinkerConfig`."""

    model_type = "aurora_qwen2_5_omni"


class Qwen3OmniTextConfig(Qwen3OmniMoeTextConfig):
    """
    Configuration of the language model; the fields are those of `Qwen3OmniMoeTextConfig`. By its name transformers
    leaves a layer's experts together in a checkpoint, as they are in the model, and does not write them one by one.
    The routers are frozen, so that no loss keeps experts evenly used: TRL would add it for any other coefficient.
    """

    model_type = "aurora_qwen3_omni_moe_text"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.router_aux_loss_coef = 0.0


class Qwen3OmniPolicyConfig(Qwen3OmniMoeThinkerConfig):
    """Configuration of [`Qwen3OmniPolicy`]; the fields are those of `Qwen3OmniMoeThinkerConfig`."""

    model_type = "aurora_qwen3_omni_moe"
    # As published; transformers' class takes them and names none.
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    audio_end_token_id: int = 151670
    sub_configs_defaults = {**Qwen3OmniMoeThinkerConfig.sub_configs_defaults, "text_config": Qwen3OmniTextConfig}


AutoConfig.register(QwenVLPolicyConfig.model_type, QwenVLPolicyConfig)
AutoConfig.register(Qwen3VLPolicyConfig.model_type, Qwen3VLPolicyConfig)
AutoConfig.register(QwenOmniPolicyConfig.model_type, QwenOmniPolicyConfig)
AutoConfig.register(Qwen3OmniPolicyConfig.model_type, Qwen3OmniPolicyConfig)
