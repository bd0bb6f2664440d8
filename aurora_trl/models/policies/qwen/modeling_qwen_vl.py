"""Qwen2.5-VL: images and silent clips."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, Qwen2_5_VLModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel

from .configuration_qwen import QwenVLPolicyConfig
from .modeling_qwen import QwenBackbone, QwenPolicy


class QwenVLModel(QwenBackbone, Qwen2_5_VLModel):
    """
    The backbone: the vision tower and the language model without its head.

    Args:
        config (`QwenVLPolicyConfig`): configs of the parts.
    """

    config_class = QwenVLPolicyConfig

    def _grid_position_ids(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        visual_grid: torch.Tensor,
        audio_frames: torch.Tensor | None,
    ) -> torch.Tensor:
        """Positions `(3, B, L)` by transformers' rule, to which only the clips that a prompt shows are given."""
        is_image, is_video = (input_ids == self.config.image_token_id), (input_ids == self.config.video_token_id)
        images, videos = visual_grid[is_image.any(dim=1)], visual_grid[is_video.any(dim=1)]
        position_ids, _ = self.get_rope_index(
            input_ids,
            mm_token_type_ids=is_image.int() + 2 * is_video.int(),
            image_grid_thw=images[:, :3],
            video_grid_thw=videos[:, :3],
            second_per_grid_ts=videos[:, 3] / 1000,
            attention_mask=attention_mask,
        )
        return position_ids


class QwenVLPolicy(QwenPolicy, Qwen2_5_VLPreTrainedModel, GenerationMixin):
    """
    The policy.

    Args:
        config (`QwenVLPolicyConfig`): configs of the parts.
    """

    config_class = QwenVLPolicyConfig
    media_inputs = ("pixel_patches", "pixel_grid")
    media_embeds = ("visual_embeds", "visual_grid")

    def __init__(self, config: QwenVLPolicyConfig):
        super().__init__(config)
        self.model = QwenVLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """The tokens of places and of what stands around them, which an answer has no use for."""
        config = self.config
        return (
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )


AutoModel.register(QwenVLPolicyConfig, QwenVLModel)
AutoModelForCausalLM.register(QwenVLPolicyConfig, QwenVLPolicy)
