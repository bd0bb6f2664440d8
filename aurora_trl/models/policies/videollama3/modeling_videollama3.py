"""VideoLLaMA3: a vision tower that takes frames of any size, and Qwen2.5 for language."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, VideoLlama3Model
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3PreTrainedModel

from ..base import first_entries, place_features, text_position_ids
from ..causal import CausalPolicy
from .configuration_videollama3 import VideoLlama3PolicyConfig


@dataclass
class VisualFeatures:
    """
    What the vision tower and the projector made of clips.

    Attributes:
        visual_embeds (`torch.Tensor` of shape `(C, N, D)` or `None`): padded with zeros to the clip with the most.
        visual_sizes (`torch.Tensor` of shape `(C,)` or `None`, long): how many of a clip's are no padding.
    """

    visual_embeds: torch.Tensor | None = None
    visual_sizes: torch.Tensor | None = None

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """Keywords for `forward` and `generate` in place of the media."""
        return {name: value for name, value in vars(self).items() if value is not None}


class VideoLlama3Backbone(VideoLlama3Model):
    """
    The backbone: transformers' vision tower, projector and language model without its head. Theirs takes the patches
    of a batch one after another; here they are per clip.

    Args:
        config (`VideoLlama3PolicyConfig`): configs of the parts.
    """

    config_class = VideoLlama3PolicyConfig

    def encode_media(
        self,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        pixel_kept: torch.Tensor | None = None,
    ) -> VisualFeatures:
        """
        Run the vision tower and the projector.

        Args:
            pixel_patches (`torch.Tensor` of shape `(C, N, P)`): patches of the frames in transformers' order, padded.
            pixel_grid (`torch.Tensor` of shape `(C, 4)`, long): frames, patches in height and in width, and how many
                patches in height and in width make one feature. The processor puts the frames' times behind.
            pixel_kept (`torch.Tensor` of shape `(C, M)`, bool): the features that have a place; others show what the
                frame before showed there. Padded.

        Returns:
            `VisualFeatures`: those that are kept, in the language model's width.
        """
        if pixel_patches is None or pixel_grid is None or pixel_kept is None:
            return VisualFeatures()
        grid, merged = pixel_grid[:, :3], pixel_grid[:, 3]
        packed = first_entries(pixel_patches, grid.prod(dim=1)).to(self.vision_model.dtype)
        output = self.vision_model(pixel_values=packed, grid_thw=grid, merge_sizes=merged)
        kept = first_entries(pixel_kept, grid.prod(dim=1) // merged**2)
        sizes = pixel_kept.long().sum(dim=1)  # padding is not kept
        embeds = self.projector(output.last_hidden_state)[kept]
        return VisualFeatures(pad_sequence(embeds.split(sizes.tolist()), batch_first=True), sizes)

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        pixel_kept: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_sizes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        What the language model reads: the embeddings of the ids, with features in the stead of placeholders.

        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): with one placeholder id per feature.
            inputs_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): embeddings of the ids.
            pixel_patches, pixel_grid, pixel_kept: media as `encode_media` takes them, or
            visual_embeds, visual_sizes: what it made of them, one entry per row.

        Returns:
            `torch.Tensor` of shape `(B, L, D)`.

        Raises:
            `ValueError`: where placeholders and features differ in number.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if visual_embeds is None:
            made = self.encode_media(pixel_patches, pixel_grid, pixel_kept)
            visual_embeds, visual_sizes = made.visual_embeds, made.visual_sizes
        if visual_embeds is None:
            return inputs_embeds
        places = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
        return place_features(inputs_embeds, places, visual_embeds, visual_sizes, "video")

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        pixel_kept: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids, inputs_embeds, media, embeds: as for `embed_inputs`.
            attention_mask, position_ids, **kwargs: the language model's; its cache, too.
        """
        return self.language_model(
            inputs_embeds=self.embed_inputs(
                input_ids,
                inputs_embeds,
                pixel_patches=pixel_patches,
                pixel_grid=pixel_grid,
                pixel_kept=pixel_kept,
                visual_embeds=visual_embeds,
                visual_sizes=visual_sizes,
            ),
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
        )


class VideoLlama3Policy(CausalPolicy, VideoLlama3PreTrainedModel, GenerationMixin):
    """
    The policy. It sees and does not hear.

    Args:
        config (`VideoLlama3PolicyConfig`): configs of the parts.
    """

    config_class = VideoLlama3PolicyConfig
    media_inputs = ("pixel_patches", "pixel_grid", "pixel_kept")
    media_embeds = ("visual_embeds", "visual_sizes")
    language_model_class = "Qwen2ForCausalLM"
    _no_split_modules = ["VideoLlama3VisionEncoderLayer", "Qwen2DecoderLayer"]

    def __init__(self, config: VideoLlama3PolicyConfig):
        super().__init__(config)
        self.model = VideoLlama3Backbone(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """The tokens of places, which an answer has no use for."""
        return self.config.image_token_id, self.config.video_token_id

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        """Positions `(B, L)`: a feature of a clip takes one, as a token of text does."""
        return text_position_ids(input_ids, attention_mask)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The groups of parameters that a recipe trains or freezes."""
        return {
            "vision_tower": self.model.vision_model,
            "connector": self.model.projector,
            "language_model": nn.ModuleList([self.model.language_model, self.lm_head]),
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_patches: torch.Tensor | None = None,
        pixel_grid: torch.Tensor | None = None,
        pixel_kept: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As [`VideoLlama3Backbone.forward`], with logits, and the loss where `labels` are given."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_patches=pixel_patches,
            pixel_grid=pixel_grid,
            pixel_kept=pixel_kept,
            visual_embeds=visual_embeds,
            visual_sizes=visual_sizes,
            **kwargs,
        )
        return self.score_tokens(outputs, labels, logits_to_keep)


AutoModel.register(VideoLlama3PolicyConfig, VideoLlama3Backbone)
AutoModelForCausalLM.register(VideoLlama3PolicyConfig, VideoLlama3Policy)
