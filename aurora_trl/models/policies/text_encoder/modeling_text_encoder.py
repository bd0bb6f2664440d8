"""CLIP's text encoder as a policy: it sees and hears nothing; its state at `[SEG]` is what it made of the reference.

Its answer is one constant sentence, whatever is asked. A head stands on the encoder because trainers ask for one.
ImageBind's text encoder is OpenCLIP's of ViT-H, frozen.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ..base import text_position_ids
from ..causal import CausalPolicy


class TextEncoderConfig(PretrainedConfig):
    """
    Config of [`TextEncoderForConditionalGeneration`].

    Args:
        text_config (`CLIPTextConfig` or `dict`): of the encoder.
        answer_ids (`list[int]`): the constant answer, with the end of the turn.
        video_token_id (`int`): the token of a clip's place, which the prompt loses before it is read.
    """

    model_type = "aurora_text_encoder"
    sub_configs = {"text_config": CLIPTextConfig}

    def __init__(
        self,
        text_config: CLIPTextConfig | dict[str, Any] | None = None,
        answer_ids: list[int] | None = None,
        video_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.text_config = (
            CLIPTextConfig(**text_config) if isinstance(text_config, dict) else text_config or CLIPTextConfig()
        )
        self.answer_ids = list(answer_ids or ())
        self.video_token_id = video_token_id
        super().__init__(**kwargs)


@dataclass
class NoFeatures:
    """What is made of a clip: nothing."""

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """See [`~aurora_trl.models.policies.base.MediaFeatures`]."""
        return {}


class TextEncoderPreTrainedModel(PreTrainedModel):
    config_class = TextEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CLIPEncoderLayer"]


class TextEncoderModel(TextEncoderPreTrainedModel):
    """The backbone; see [`~aurora_trl.models.policies.base.PolicyBackbone`]."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__(config)
        self.text_model = CLIPTextModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.embeddings.token_embedding = value

    def encode_media(self, **media: torch.Tensor) -> NoFeatures:
        """Clips are not looked at."""
        return NoFeatures()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if position_ids is None and input_ids is not None:
            position_ids = text_position_ids(input_ids, attention_mask)
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
        return BaseModelOutputWithPast(last_hidden_state=output.last_hidden_state)


class TextEncoderForConditionalGeneration(CausalPolicy, TextEncoderPreTrainedModel, GenerationMixin):
    """The policy. The encoder is the group `connector`, frozen by default; the head is the group `language_model`."""

    media_inputs = ()
    media_embeds = ()
    lora_target_modules = r".*text_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    supports_shared_prefix = False
    _tied_weights_keys = {}

    def __init__(self, config: TextEncoderConfig):
        super().__init__(config)
        self.model = TextEncoderModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        return (self.config.video_token_id,)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """See [`~aurora_trl.models.policies.base.Policy`]."""
        return {"connector": self.model.text_model, "language_model": self.lm_head}

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        """See [`~aurora_trl.models.policies.base.Policy`]."""
        return text_position_ids(input_ids, attention_mask)

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int | None = None, **kwargs: Any) -> torch.Tensor:
        """
        The prompts with the constant answer.

        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): prompts.
            max_new_tokens (`int`, *optional*): where the answer is cut.
            **kwargs: what another policy would need; nothing is sampled.

        Returns:
            `torch.Tensor` of shape `(B, L + answer)`.
        """
        answer = input_ids.new_tensor(self.config.answer_ids[:max_new_tokens])
        return torch.cat([input_ids, answer.expand(len(input_ids), -1)], dim=1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        return self.score_tokens(self.model(input_ids, attention_mask, position_ids), labels, logits_to_keep)


AutoConfig.register(TextEncoderConfig.model_type, TextEncoderConfig)
AutoModelForCausalLM.register(TextEncoderConfig, TextEncoderForConditionalGeneration)
