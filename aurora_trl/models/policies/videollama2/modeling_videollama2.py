"""VideoLLaMA2.1-AV: SigLIP and STC for frames, BEATs for sound, Qwen2 for language."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
    Qwen2Model,
    SiglipVisionModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ...checkpoints.zero3 import full_shape
from ..base import must_run, place_features, text_position_ids
from ..causal import CausalPolicy
from .configuration_videollama2 import VideoLlama2Config
from .modeling_beats import BeatsAttention, BeatsModel, WeightNormConv1d
from .modeling_stc import STCConnector


@dataclass
class MediaFeatures:
    """
    What the towers and connectors made of clips.

    Attributes:
        video_embeds (`torch.Tensor` of shape `(B, Nv, D)` or `None`), audio_embeds (`torch.Tensor` of shape
            `(B, Na, D)` or `None`).
        audio_sizes (`torch.Tensor` of shape `(B,)` or `None`): how many of a row's audio features are no padding;
            None: all.
    """

    video_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    audio_sizes: torch.Tensor | None = None

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """Keywords for `forward` and `generate` in place of the media."""
        return {k: v for k, v in vars(self).items() if v is not None}


def refuse_float16(dtype: torch.dtype) -> None:
    """Raise `ValueError` for the dtype whose range the published activations exceed."""
    if dtype == torch.float16:
        raise ValueError(
            "VideoLLaMA2 can not run in float16: its activations overflow, and answers are NaN or `!!!!`; use bfloat16"
        )


class VideoLlama2PreTrainedModel(PreTrainedModel):
    config_class = VideoLlama2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Qwen2DecoderLayer", "SiglipEncoderLayer", "BeatsLayer"]
    _skip_keys_device_placement = ["cache"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.get_text_config().initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            fan_in = math.prod(full_shape(module.weight)[1:])
            init.normal_(module.weight, std=min(1.0, 1.0 / math.sqrt(fan_in)))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, WeightNormConv1d):
            init.normal_(module.direction, std=math.sqrt(4.0 / (module.kernel * full_shape(module.bias)[0])))
            init.ones_(module.length)
            init.zeros_(module.bias)
        elif isinstance(module, BeatsAttention):
            init.ones_(module.grep_a)
        else:
            super()._init_weights(module)


class VideoLlama2Model(VideoLlama2PreTrainedModel):
    """
    The backbone: towers, connectors and the language model without its head.

    Args:
        config (`VideoLlama2Config`): configs of the parts.
    """

    def __init__(self, config: VideoLlama2Config):
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.mm_projector = STCConnector(
            in_channels=config.vision_config.hidden_size,
            out_channels=width,
            depth=config.connector_depth,
            group_width=config.connector_group_width,
        )
        self.audio_tower = BeatsModel(config.audio_config)
        self.mm_projector_a = nn.Sequential(
            nn.Linear(config.audio_config.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.language_model = Qwen2Model(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embed_tokens = value

    def vision_layers(self) -> list[nn.Module]:
        """The tower's modules that are run: the embeddings and the layers up to the selected hidden state."""
        # transformers before 5.20 nests the tower once more.
        tower = getattr(self.vision_tower, "vision_model", self.vision_tower)
        num_states = len(tower.encoder.layers) + 1
        return [tower.embeddings, *tower.encoder.layers[: self.config.vision_select_layer % num_states]]

    def encode_media(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        audio_values: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
    ) -> MediaFeatures:
        """
        Run towers and connectors.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(B, T, 3, P, P)`, *optional*): normalised frames.
            audio_values (`torch.Tensor` of shape `(B', F, M)`, *optional*): normalised filter banks.
            audio_lengths (`torch.Tensor` of shape `(B',)`, *optional*): their frames that are no padding, where sound
                is not padded to one length.

        Returns:
            `MediaFeatures`: features in the language model's width.
        """
        features = MediaFeatures()
        if pixel_values_videos is not None:
            embeddings, *layers = self.vision_layers()
            hidden_states = embeddings(pixel_values_videos.flatten(0, 1))
            for layer in layers:
                hidden_states = layer(hidden_states, None)
            frames = hidden_states.unflatten(0, pixel_values_videos.shape[:2])
            features.video_embeds = self.mm_projector(frames)
            if audio_values is None and must_run(self.audio_tower):
                audio_values = self._silence(pixel_values_videos)
        if audio_values is not None:
            features.audio_embeds = self.mm_projector_a(self.audio_tower(audio_values, audio_lengths))
            if audio_lengths is not None:
                features.audio_sizes = self.audio_tower.num_features(audio_lengths)
        return features

    def _silence(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """A patch's frames of a filter bank for each clip, `(B, F, M)`: prompts without sound have no place for it."""
        size = (len(pixel_values_videos), self.config.audio_config.patch_size, self.config.audio_config.num_mel_bins)
        return pixel_values_videos.new_zeros(size)

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        pixel_values_videos: torch.Tensor | None = None,
        audio_values: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        video_embeds: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_sizes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        What the language model reads: the embeddings of the ids, with features in the stead of placeholders.

        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): with one placeholder id per feature.
            inputs_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): embeddings of the ids.
            pixel_values_videos, audio_values, audio_lengths: media, or
            video_embeds, audio_embeds, audio_sizes: what `encode_media` made of them, one per row; a row without
                placeholders, such as that of a clip without sound, leaves its features out.

        Returns:
            `torch.Tensor` of shape `(B, L, D)`.

        Raises:
            `ValueError`: where placeholders and features differ in number, and in float16.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        device_type = inputs_embeds.device.type
        autocast = torch.is_autocast_enabled(device_type)
        refuse_float16(torch.get_autocast_dtype(device_type) if autocast else inputs_embeds.dtype)
        media = self.encode_media(
            pixel_values_videos if video_embeds is None else None,
            audio_values if audio_embeds is None else None,
            audio_lengths,
        )
        if audio_embeds is None:
            audio_embeds, audio_sizes = media.audio_embeds, media.audio_sizes
        for token_id, features, sizes, name in (
            (self.config.video_token_id, media.video_embeds if video_embeds is None else video_embeds, None, "video"),
            (self.config.audio_token_id, audio_embeds, audio_sizes, "audio"),
        ):
            if features is not None:
                inputs_embeds = place_features(inputs_embeds, input_ids == token_id, features, sizes, name)
        return inputs_embeds

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        audio_values: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        video_embeds: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_sizes: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids, inputs_embeds, media, embeds: as for `embed_inputs`.
            attention_mask, position_ids, use_cache, **kwargs: the language model's; its cache, too.
        """
        return self.language_model(
            inputs_embeds=self.embed_inputs(
                input_ids,
                inputs_embeds,
                pixel_values_videos=pixel_values_videos,
                audio_values=audio_values,
                audio_lengths=audio_lengths,
                video_embeds=video_embeds,
                audio_embeds=audio_embeds,
                audio_sizes=audio_sizes,
            ),
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **kwargs,
        )


class VideoLlama2ForConditionalGeneration(CausalPolicy, VideoLlama2PreTrainedModel, GenerationMixin):
    """
    The policy.

    Args:
        config (`VideoLlama2Config`): configs of the parts.
    """

    # What `encode_media` takes, and what it makes of it: one entry per clip along the first dimension.
    media_inputs = ("pixel_values_videos", "audio_values", "audio_lengths")
    media_embeds = ("video_embeds", "audio_embeds", "audio_sizes")
    language_model_class = "Qwen2ForCausalLM"

    def __init__(self, config: VideoLlama2Config):
        super().__init__(config)
        self.model = VideoLlama2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """The tokens that hold places of features in the prompt, which an answer has no use for."""
        ids = (self.config.video_token_id, self.config.audio_token_id)
        return tuple(token_id for token_id in ids if token_id is not None)

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        """Positions `(B, L)`: a feature of a clip takes one, as a token of text does."""
        return text_position_ids(input_ids, attention_mask)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The groups of parameters that a recipe trains or freezes, without those that are never run."""
        return {
            "vision_tower": nn.ModuleList(self.model.vision_layers()),
            "audio_tower": self.model.audio_tower,
            "connector": nn.ModuleList([self.model.mm_projector, self.model.mm_projector_a]),
            "language_model": nn.ModuleList([self.model.language_model, self.lm_head]),
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values_videos: torch.Tensor | None = None,
        audio_values: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        video_embeds: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As [`VideoLlama2Model.forward`], with logits, and the loss where `labels` are given."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values_videos=pixel_values_videos,
            audio_values=audio_values,
            audio_lengths=audio_lengths,
            video_embeds=video_embeds,
            audio_embeds=audio_embeds,
            audio_sizes=audio_sizes,
            **kwargs,
        )
        return self.score_tokens(outputs, labels, logits_to_keep)


AutoModel.register(VideoLlama2Config, VideoLlama2Model)
AutoModelForCausalLM.register(VideoLlama2Config, VideoLlama2ForConditionalGeneration)
