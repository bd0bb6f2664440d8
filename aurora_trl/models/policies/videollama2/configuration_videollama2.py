"""Configuration of the VideoLLaMA2.1-AV policy."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig, Qwen2Config, SiglipVisionConfig


class BeatsConfig(PretrainedConfig):
    r"""
    Sizes of a BEATs audio encoder; the defaults are those of the published iter3+.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 128): mel bins of the input.
        patch_size (`int`, *optional*, defaults to 16): side of a patch, in frames and in bins.
        embed_dim (`int`, *optional*, defaults to 512): width of a patch embedding.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`): sizes of the encoder.
        conv_pos, conv_pos_groups (`int`): kernel and groups of the convolutional position embedding.
        num_buckets, max_distance (`int`): of the relative position bias.
        layerdrop (`float`, *optional*, defaults to 0.05): share of layers left out in training.
    """

    model_type = "aurora_beats"
    base_config_key = "audio_config"

    def __init__(
        self,
        num_mel_bins: int = 128,
        patch_size: int = 16,
        embed_dim: int = 512,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        conv_pos: int = 128,
        conv_pos_groups: int = 16,
        num_buckets: int = 320,
        max_distance: int = 800,
        layerdrop: float = 0.05,
        layer_norm_eps: float = 1e-5,
        **kwargs: Any,
    ):
        self.num_mel_bins = num_mel_bins
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.conv_pos = conv_pos
        self.conv_pos_groups = conv_pos_groups
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.layerdrop = layerdrop
        self.layer_norm_eps = layer_norm_eps
        super().__init__(**kwargs)


class VideoLlama2Config(PretrainedConfig):
    r"""
    Configuration of [`VideoLlama2ForConditionalGeneration`].

    Args:
        vision_config (`SiglipVisionConfig` or `dict`), audio_config (`BeatsConfig` or `dict`) and
        text_config (`Qwen2Config` or `dict`): configs of the parts.
        vision_select_layer (`int`, *optional*, defaults to -2): which of the tower's hidden states is used.
        connector_depth (`int`, *optional*, defaults to 4): blocks of each RegNet stage of the connector.
        connector_group_width (`int`, *optional*, defaults to 1): channels of a group of the stages' convolutions.
        video_token_id, audio_token_id (`int`): ids of the places of video and audio features in the prompt.
    """

    model_type = "aurora_videollama2"
    sub_configs = {"vision_config": SiglipVisionConfig, "audio_config": BeatsConfig, "text_config": Qwen2Config}

    def __init__(
        self,
        vision_config: SiglipVisionConfig | dict[str, Any] | None = None,
        audio_config: BeatsConfig | dict[str, Any] | None = None,
        text_config: Qwen2Config | dict[str, Any] | None = None,
        vision_select_layer: int = -2,
        connector_depth: int = 4,
        connector_group_width: int = 1,
        video_token_id: int | None = None,
        audio_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.vision_config = _build(SiglipVisionConfig, vision_config)
        self.audio_config = _build(BeatsConfig, audio_config)
        self.text_config = _build(Qwen2Config, text_config)
        self.vision_select_layer = vision_select_layer
        self.connector_depth = connector_depth
        self.connector_group_width = connector_group_width
        self.video_token_id = video_token_id
        self.audio_token_id = audio_token_id
        kwargs.pop("tie_word_embeddings", None)
        super().__init__(tie_word_embeddings=self.text_config.tie_word_embeddings, **kwargs)


def _build(cls: type, config: Any) -> Any:
    if config is None:
        return cls()
    return cls(**{k: v for k, v in config.items() if k != "model_type"}) if isinstance(config, dict) else config


AutoConfig.register(BeatsConfig.model_type, BeatsConfig)
AutoConfig.register(VideoLlama2Config.model_type, VideoLlama2Config)
