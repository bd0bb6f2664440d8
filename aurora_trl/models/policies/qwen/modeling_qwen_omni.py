"""Qwen2.5-Omni's thinker: clips with and without sound. Its talker, which speaks, has no part here."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, Qwen2_5OmniThinkerModel
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniPreTrainedModel

from .configuration_qwen import QwenOmniPolicyConfig
from .modeling_qwen import QwenBackbone, QwenPolicy, omni_media_tokens


class QwenOmniModel(QwenBackbone, Qwen2_5OmniThinkerModel):
    """
    The backbone: the towers and the language model without its head.

    Args:
        config (`QwenOmniPolicyConfig`): configs of the parts.
    """

    config_class = QwenOmniPolicyConfig

    def _grid_position_ids(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        visual_grid: torch.Tensor,
        audio_frames: torch.Tensor | None,
    ) -> torch.Tensor:
        """Positions `(3, B, L)` by transformers' rule, to which only the clips that a prompt shows are given."""
        images = visual_grid[(input_ids == self.config.image_token_id).any(dim=1)]
        videos = visual_grid[(input_ids == self.config.video_token_id).any(dim=1)]
        heard = (input_ids == self.config.audio_token_id).any(dim=1)
        position_ids, _ = self.get_rope_index(
            input_ids,
            image_grid_thw=images[:, :3],
            video_grid_thw=videos[:, :3],
            attention_mask=attention_mask,
            audio_seqlens=None if audio_frames is None else audio_frames[heard],
            second_per_grids=videos[:, 3] / 1000,
        )
        return position_ids


class QwenOmniPolicy(QwenPolicy, Qwen2_5OmniPreTrainedModel, GenerationMixin):
    """
    The policy.

    Args:
        config (`QwenOmniPolicyConfig`): configs of the parts.
    """

    config_class = QwenOmniPolicyConfig

    def __init__(self, config: QwenOmniPolicyConfig):
        super().__init__(config)
        self.model = QwenOmniModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """The tokens of places and of what stands around them, which an answer has no use for."""
        return omni_media_tokens(self.config)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The groups of parameters that a recipe trains or freezes, without those that are never run."""
        audio = self.model.audio_tower
        return {
            **super().trainable_modules(),
            "audio_tower": nn.ModuleList([audio.conv1, audio.conv2, *audio.layers, audio.ln_post]),
            "connector": nn.ModuleList([self.model.visual.merger, audio.proj]),
        }


AutoModel.register(QwenOmniPolicyConfig, QwenOmniModel)
AutoModelForCausalLM.register(QwenOmniPolicyConfig, QwenOmniPolicy)
