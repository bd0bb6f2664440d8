"""Qwen2.5-VL and Qwen3-VL: images and silent clips."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, Qwen2_5_VLModel, Qwen3VLModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLPreTrainedModel

from .configuration_qwen import Qwen3VLPolicyConfig, QwenVLPolicyConfig
from .modeling_qwen import QwenBackbone, QwenPolicy


class QwenVLBackbone(QwenBackbone):
    """Mixed into a backbone of transformers that sees and does not hear."""

    get_rope_index: Any

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
            second_per_grid_ts=videos[:, 3] / 1000,  # Qwen3-VL, whose prompt tells the time, leaves it
            attention_mask=attention_mask,
        )
        return position_ids


class QwenVLModel(QwenVLBackbone, Qwen2_5_VLModel):
    """
    The backbone: the vision tower and the language model without its head.

    Args:
        config (`QwenVLPolicyConfig`): configs of the parts.
    """

    config_class = QwenVLPolicyConfig


class Qwen3VLBackbone(QwenVLBackbone, Qwen3VLModel):
    """
    The backbone of Qwen3-VL, whose first layers add deeper features of the vision tower.

    Args:
        config (`Qwen3VLPolicyConfig`): configs of the parts.
    """

    config_class = Qwen3VLPolicyConfig


class QwenVLTokens:
    """Mixed into a policy that sees and does not hear."""

    config: Any

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


class QwenVLPolicy(QwenVLTokens, QwenPolicy, Qwen2_5_VLPreTrainedModel, GenerationMixin):
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


class Qwen3VLPolicy(QwenVLTokens, QwenPolicy, Qwen3VLPreTrainedModel, GenerationMixin):
    """
    The policy of Qwen3-VL.

    Args:
        config (`Qwen3VLPolicyConfig`): configs of the parts.
    """

    config_class = Qwen3VLPolicyConfig
    media_inputs = ("pixel_patches", "pixel_grid")
    media_embeds = ("visual_embeds", "visual_grid", "deep_embeds")

    def __init__(self, config: Qwen3VLPolicyConfig):
        super().__init__(config)
        self.model = Qwen3VLBackbone(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def trainable_modules(self) -> dict[str, nn.Module]:
        """As in Qwen2.5-VL, with the learned positions of patches, and what joins the deeper features."""
        visual = self.model.visual
        return {
            **super().trainable_modules(),
            "vision_tower": nn.ModuleList([visual.patch_embed, visual.pos_embed, *visual.blocks]),
            "connector": nn.ModuleList([visual.merger, *visual.deepstack_merger_list]),
        }


AutoModel.register(QwenVLPolicyConfig, QwenVLModel)
AutoModel.register(Qwen3VLPolicyConfig, Qwen3VLBackbone)
AutoModelForCausalLM.register(QwenVLPolicyConfig, QwenVLPolicy)
AutoModelForCausalLM.register(Qwen3VLPolicyConfig, Qwen3VLPolicy)
