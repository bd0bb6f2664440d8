"""Qwen3-Omni's thinker, a mixture of experts: clips with and without sound. Its talker has no part here."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoePreTrainedModel,
    Qwen3OmniMoeThinkerModel,
    _get_feat_extract_output_lengths,
)

from .configuration_qwen import Qwen3OmniPolicyConfig
from .modeling_qwen import QwenBackbone, QwenPolicy, omni_media_tokens


class Qwen3OmniModel(QwenBackbone, Qwen3OmniMoeThinkerModel):
    """
    The backbone: the towers and the language model without its head.

    Args:
        config (`Qwen3OmniPolicyConfig`): configs of the parts.
    """

    config_class = Qwen3OmniPolicyConfig

    def audio_sizes(self, audio_frames: torch.Tensor) -> torch.Tensor:
        """Features of each clip's sound, `(C,)`."""
        return _get_feat_extract_output_lengths(audio_frames, self.audio_tower.n_window)

    def _grid_position_ids(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        visual_grid: torch.Tensor,
        audio_frames: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Positions `(3, B, L)` by transformers' rule, to which only the clips that a prompt shows are given; float, for
        a moment may fall between two. Rows whose sound stands among their frames have a rule of their own.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        starts = (input_ids[:, :-1] == self.config.vision_start_token_id) & (
            input_ids[:, 1:] == self.config.audio_start_token_id
        )
        mixed = starts.any(dim=1)
        position_ids = torch.zeros(3, *input_ids.shape, device=input_ids.device)
        for rows, is_mixed in ((~mixed, False), (mixed, True)):
            if not bool(rows.any()):
                continue
            ids, grid = input_ids[rows], visual_grid[rows]
            images = grid[(ids == self.config.image_token_id).any(dim=1)]
            videos = grid[(ids == self.config.video_token_id).any(dim=1)]
            heard = (ids == self.config.audio_token_id).any(dim=1)
            position_ids[:, rows], _ = self.get_rope_index(
                ids,
                image_grid_thw=images[:, :3],
                video_grid_thw=videos[:, :3],
                attention_mask=attention_mask[rows],
                use_audio_in_video=is_mixed,
                audio_seqlens=None if audio_frames is None else audio_frames[rows][heard],
                second_per_grids=videos[:, 3] / 1000,
            )
        return position_ids


class Qwen3OmniPolicy(QwenPolicy, Qwen3OmniMoePreTrainedModel, GenerationMixin):
    """
    The policy. LoRA goes on the attention, as in the other policies: the experts have 95 of 100 weights, of which a
    token reads 6, and an adapter on each would be larger than all else that trains.

    Args:
        config (`Qwen3OmniPolicyConfig`): configs of the parts.
    """

    config_class = Qwen3OmniPolicyConfig
    media_embeds = (*QwenPolicy.media_embeds, "deep_embeds")
    _no_split_modules = [
        "Qwen3OmniMoeThinkerTextDecoderLayer",
        "Qwen3OmniMoeAudioEncoderLayer",
        "Qwen3OmniMoeVisionBlock",
    ]

    def __init__(self, config: Qwen3OmniPolicyConfig):
        super().__init__(config)
        self.model = Qwen3OmniModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """The tokens of places and of what stands around them, which an answer has no use for."""
        return omni_media_tokens(self.config)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """
        The groups of parameters that a recipe trains or freezes. The routers are in none: which experts a token
        reads stays as published, so that no loss has to keep them evenly used.
        """
        visual, audio, text = self.model.visual, self.model.audio_tower, self.model.language_model
        convolutions = [audio.conv2d1, audio.conv2d2, audio.conv2d3, audio.conv_out]
        language: list[nn.Module] = [text.embed_tokens, text.norm, self.lm_head]
        for layer in text.layers:
            feed_forward = getattr(layer.mlp, "experts", layer.mlp)
            language += [layer.self_attn, layer.input_layernorm, layer.post_attention_layernorm, feed_forward]
        return {
            "vision_tower": nn.ModuleList([visual.patch_embed, visual.pos_embed, *visual.blocks]),
            "audio_tower": nn.ModuleList([*convolutions, *audio.layers, audio.ln_post]),
            "connector": nn.ModuleList([visual.merger, *visual.merger_list, audio.proj1, audio.proj2]),
            "language_model": nn.ModuleList(language),
        }


AutoModel.register(Qwen3OmniPolicyConfig, Qwen3OmniModel)
AutoModelForCausalLM.register(Qwen3OmniPolicyConfig, Qwen3OmniPolicy)
