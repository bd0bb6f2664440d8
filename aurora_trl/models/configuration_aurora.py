"""Configuration of the composite model: a policy, a projector and a mask decoder."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig


class SamConfig(PretrainedConfig):
    r"""
    Sizes of a segment-anything model. The defaults are those of the published ViT-H.

    Args:
        image_size (`int`, *optional*, defaults to 1024): side of the square input image, in pixels.
        patch_size (`int`, *optional*, defaults to 16): side of a patch, in pixels.
        encoder_embed_dim, encoder_depth, encoder_num_heads (`int`): width, blocks and heads of the image encoder.
        encoder_global_attn_indexes (`list[int]`): blocks with global attention; the others attend in windows.
        encoder_window_size (`int`, *optional*, defaults to 14): side of a window, in patches.
        prompt_embed_dim (`int`, *optional*, defaults to 256): width of the embeddings and of the prompt.
        decoder_depth, decoder_num_heads, decoder_mlp_dim (`int`): sizes of the two-way transformer.
        pixel_mean, pixel_std (`list[float]`): per channel, for pixels in [0, 255].
    """

    model_type = "aurora_sam"
    base_config_key = "mask_decoder_config"
    keep_aspect_ratio = True  # the longest side is resized, the rest padded

    def __init__(
        self,
        image_size: int = 1024,
        patch_size: int = 16,
        encoder_embed_dim: int = 1280,
        encoder_depth: int = 32,
        encoder_num_heads: int = 16,
        encoder_global_attn_indexes: list[int] | None = None,
        encoder_window_size: int = 14,
        prompt_embed_dim: int = 256,
        decoder_depth: int = 2,
        decoder_num_heads: int = 8,
        decoder_mlp_dim: int = 2048,
        pixel_mean: list[float] | None = None,
        pixel_std: list[float] | None = None,
        **kwargs: Any,
    ):
        self.image_size = image_size
        self.patch_size = patch_size
        self.encoder_embed_dim = encoder_embed_dim
        self.encoder_depth = encoder_depth
        self.encoder_num_heads = encoder_num_heads
        self.encoder_global_attn_indexes = (
            [7, 15, 23, 31] if encoder_global_attn_indexes is None else list(encoder_global_attn_indexes)
        )
        self.encoder_window_size = encoder_window_size
        self.prompt_embed_dim = prompt_embed_dim
        self.decoder_depth = decoder_depth
        self.decoder_num_heads = decoder_num_heads
        self.decoder_mlp_dim = decoder_mlp_dim
        self.pixel_mean = [123.675, 116.28, 103.53] if pixel_mean is None else list(pixel_mean)
        self.pixel_std = [58.395, 57.12, 57.375] if pixel_std is None else list(pixel_std)
        super().__init__(**kwargs)


# What asks for a mask: the state at `[SEG]`, boxes and points that the policy writes, or both together.
MASK_SOURCES = ("seg", "box", "both")
# Whose states prompt the mask decoder: those of a `[SEG]` that the policy writes, or of learned embeddings behind its
# answer. Of the latter there are as many as SAM's prompt encoder makes of a box and a point: 3, and SAM 2's makes 4.
SEG_SOURCES = ("token", "queries")
NUM_QUERIES = 4


class AuroraConfig(PretrainedConfig):
    r"""
    Configuration of [`AuroraModel`].

    Args:
        policy_config (`PretrainedConfig` or `dict`): config of a [`~aurora_trl.models.policies.base.Policy`].
        mask_decoder_config (`PretrainedConfig` or `dict`): sizes of the mask decoder; a [`SamConfig`] by default.
        seg_token_id (`int`): id of `[SEG]` in the policy's vocabulary.
        seg_layers (`int`, *optional*, defaults to 1): how many of the language model's last layers make up the state
            at `[SEG]`, by shares that are learned; with 1 it is the last layer's, as in the paper.
        spatial_prompt (`bool`, *optional*, defaults to `False`): prompt the mask decoder with what is similar to
            `[SEG]` in each frame, too.
        existence_output (`bool`, *optional*, defaults to `False`): say whether what is referred to is there at all,
            and empty the mask where it is not.
        quality_trained (`bool`, *optional*, defaults to `False`): whether a phase has taught the mask decoder's own
            score of quality to judge the masks of `[SEG]`. Published decoders have learnt to judge those of clicks.
        mask_source (`str`, *optional*, defaults to `"seg"`): what prompts the mask decoder. With `"box"` the policy
            writes boxes and points as text, which the decoder's own prompt encoder reads; there is no projector. With
            `"both"` it writes them before its `[SEG]`, and they prompt beside it.
        seg_source (`str`, *optional*, defaults to `"token"`): whose states prompt the mask decoder. With `"queries"`
            it is those of learned embeddings that are read behind a complete answer (AURORA, Table 7); the policy
            never writes `[SEG]`, whose id marks their places.
        num_queries (`int`, *optional*, defaults to 4): how many of them there are, K; together they prompt for one
            object.

    Raises:
        `ValueError`: where `seg_layers` is no number of the language model's layers, or `mask_source` or `seg_source`
            is not one of these, or does not go with what strengthens `[SEG]`.
    """

    model_type = "aurora"
    sub_configs = {"policy_config": AutoConfig, "mask_decoder_config": AutoConfig}
    has_no_defaults_at_init = True
    # TRL reads it without a default where it builds a reference model (1.16).
    auto_map: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(
        self,
        policy_config: Any = None,
        mask_decoder_config: Any = None,
        seg_token_id: int | None = None,
        seg_layers: int = 1,
        spatial_prompt: bool = False,
        existence_output: bool = False,
        quality_trained: bool = False,
        mask_source: str = "seg",
        seg_source: str = "token",
        num_queries: int = NUM_QUERIES,
        **kwargs: Any,
    ):
        if isinstance(policy_config, dict):
            policy_config = AutoConfig.for_model(**policy_config)
        if isinstance(mask_decoder_config, dict):
            mask_decoder_config = AutoConfig.for_model(**{"model_type": SamConfig.model_type, **mask_decoder_config})
        self.policy_config: Any = policy_config
        self.mask_decoder_config: Any = mask_decoder_config if mask_decoder_config is not None else SamConfig()
        self.seg_token_id = seg_token_id
        self.seg_layers = seg_layers
        self.spatial_prompt = spatial_prompt
        self.existence_output = existence_output
        self.quality_trained = quality_trained
        self.mask_source = mask_source
        self.seg_source = seg_source
        self.num_queries = num_queries
        # The policy owns the embeddings: tying is its affair, and the composite's flag only mirrors it.
        kwargs["tie_word_embeddings"] = bool(getattr(policy_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)
        self.check_seg_layers()
        self.check_mask_source()
        self.check_seg_source()

    def check_mask_source(self) -> None:
        """Raise `ValueError` where `mask_source` is none, or `[SEG]` has parts that a model without it lacks."""
        if self.mask_source not in MASK_SOURCES:
            raise ValueError(f"`mask_source` must be one of {', '.join(MASK_SOURCES)}, got {self.mask_source!r}")
        if self.mask_source == "box" and (self.seg_layers > 1 or self.spatial_prompt or self.existence_output):
            raise ValueError(
                "`mask_source: box` reads no state at [SEG]: leave out `seg_layers`, `spatial_prompt` and "
                "`existence_output`, or start from a checkpoint without them"
            )
        if self.mask_source == "both" and self.spatial_prompt:
            raise ValueError(
                "`mask_source: both` and `spatial_prompt` say in two ways where in a frame the object is: leave one "
                "out, or start from a checkpoint without it"
            )

    def check_seg_source(self) -> None:
        """Raise `ValueError` where `seg_source` is none, or does not go with what else is set."""
        require_seg_source(self.seg_source, self.num_queries)
        if self.seg_source != "queries":
            return
        if self.mask_source != "seg":
            raise ValueError(
                f"`mask_source: {self.mask_source}` reads no states behind an answer, and `seg_source: queries` no "
                "boxes in it: leave one of them out, or start from a checkpoint without it"
            )
        for name in ("spatial_prompt", "existence_output"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` looks at the one state at [SEG], and `seg_source: queries` gives {self.num_queries}: "
                    "leave one of them out, or start from a checkpoint without it"
                )

    def check_seg_layers(self) -> None:
        """Raise `ValueError` where `seg_layers` is no number of the language model's layers."""
        most = getattr(self.get_text_config(), "num_hidden_layers", None)
        if self.seg_layers < 1 or (most is not None and self.seg_layers > most):
            raise ValueError(f"`seg_layers` must be from 1 to {most or 'the number of layers'}, got {self.seg_layers}")

    def get_text_config(self, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """The language model's config, which TRL and `generate` ask for."""
        if self.policy_config is None:
            return self
        return self.policy_config.get_text_config(*args, **kwargs)

    @property
    def image_token_id(self) -> int:
        """The policy's video place, which TRL keeps from being sampled."""
        return self.policy_config.video_token_id


def require_seg_source(seg_source: str, num_queries: int) -> None:
    """Raise `ValueError` where these are no values of `seg_source` and `num_queries`."""
    if seg_source not in SEG_SOURCES:
        raise ValueError(f"`seg_source` must be one of {', '.join(SEG_SOURCES)}, got {seg_source!r}")
    if not isinstance(num_queries, int) or num_queries < 1:
        raise ValueError(f"`num_queries` must be at least 1, got {num_queries!r}")


def model_class() -> Any:
    """The composite model's class, as the Auto classes know it: what loads one is not imported by it in a circle."""
    return MODEL_MAPPING[AuroraConfig]


AutoConfig.register(SamConfig.model_type, SamConfig)
AutoConfig.register(AuroraConfig.model_type, AuroraConfig)
