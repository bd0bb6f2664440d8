"""
What a policy must provide, on one page. `examples/custom_policy.py` is a complete one.

A policy is a `PreTrainedModel` with a head that writes text ([`Policy`]), a backbone inside it ([`PolicyBackbone`]), a
config, and a processor ([`PolicyProcessor`]). Registering the three with `AutoConfig`, `AutoModelForCausalLM` and
`AutoProcessor` makes `AuroraModel` and `AuroraProcessor` build, save and load it. Nothing else in this library knows
which policy it runs, how its inputs are called, or whether it hears.

**Clips, not rows.** All media tensors have one entry per clip along their first dimension: rows that share a clip pay
for it once, and `value[clip_index]` hands each row its own. Clips of different sizes are padded with zeros to the
largest ([`stack_media`]), so a policy whose sizes vary keeps the true size as an input beside the values. A clip that
lacks an input, such as sound, has zeros there and no places in its prompt.

Every process runs the same modules: where a batch has frames and no sound, an audio tower that trains or that ZeRO-3
holds in parts ([`must_run`]) is run on silence, and its features find no place.

**Places.** The processor puts as many placeholder tokens into the prompt as there are features; the backbone puts the
features in their stead. An answer never holds a placeholder (`media_token_ids` are not generated). Features that
deeper layers add at the same places are one more name among `media_embeds`, per clip like the rest.

**The cache** of `generate` comes as `cache`, which `prepare_inputs_for_generation` names in its signature; `forward`
hands it, and any keyword that it does not know, on to the language model. Media go in with the prompt only: where the
cache holds something, they are in it.

**Positions** are a function of the ids and of the media, never of what was run before. Their last dimension is the
sequence, the one before it the batch; after the prompt they count on by one. With that a trainer may run one prompt
and several completions in one row (`supports_shared_prefix`), and read a prompt once for several generations: the
policy's `forward` names `position_ids` in its signature.

**Rollouts by vLLM.** A policy whose language model reads nothing but embeddings, at positions that count as those of
text, may name the class of transformers that has its weights, as `language_model_class`; its backbone then has
`embed_inputs(input_ids, **media)`, which returns what the language model reads `(B, L, D)`.

Where the language model is one of transformers' usual kind, `CausalPolicy` in `causal.py` brings the loss, the head's
accessors and the way of media into `generate`.

The config has `video_token_id`, the token of a clip's place, and `get_text_config()`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

# In what a policy writes boxes that does not say: thousandths of the frame's height and width.
RELATIVE_SIZE = (1000, 1000)


class MediaFeatures(Protocol):
    """What the towers made of clips."""

    def as_inputs(self) -> dict[str, torch.Tensor]:
        """Keywords among `media_embeds` that `forward`, `generate` and `position_ids` take in place of the media."""
        ...


class PolicyBackbone(Protocol):
    """The part that returns hidden states; TRL's fused head runs it."""

    def encode_media(self, **media: torch.Tensor) -> MediaFeatures:
        """Run towers and connectors on clips: keywords among `media_inputs`, per clip."""
        ...

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): with one placeholder per feature.
            attention_mask (`torch.Tensor` of shape `(B, L)`, or 4D where the policy supports a shared prefix).
            position_ids (`torch.Tensor` of shape `(..., B, L)`): as `Policy.position_ids` makes them, which is the
                default.
            **kwargs: media or embeds, one entry per row; the cache; the language model's own.

        Returns:
            `ModelOutput`: `last_hidden_state` `(B, L, H)` first.
        """
        ...


class Policy(Protocol):
    """
    A causal language model that takes clips.

    Attributes:
        media_inputs (`tuple[str, ...]`): what the processor makes of a clip and `encode_media` takes.
        media_embeds (`tuple[str, ...]`): what `encode_media` makes of it. The two share no name.
        media_token_ids (`tuple[int, ...]`): tokens that belong to media, which an answer has no use for.
        lora_target_modules (`str`): regular expression for the layers that LoRA adapts, as they are named here.
        supports_shared_prefix (`bool`): takes 4D masks, and positions that start again at the prompt's end.
        model (`PolicyBackbone`): the backbone.
    """

    media_inputs: tuple[str, ...]
    media_embeds: tuple[str, ...]
    lora_target_modules: str
    supports_shared_prefix: bool
    model: Any

    @property
    def media_token_ids(self) -> tuple[int, ...]: ...

    def trainable_modules(self) -> dict[str, nn.Module]:
        """
        The groups of parameters that a recipe trains or freezes: `language_model`, and where there are such,
        `vision_tower`, `audio_tower`, `connector`. A group leaves out what is never run.
        """
        ...

    def position_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(B, L)`): padded on either side.
            **media: media or embeds, one entry per row.

        Returns:
            `torch.Tensor` of shape `(..., B, L)`: long, or float where a moment may fall between two.
        """
        ...


class PolicyProcessor(Protocol):
    """
    A `ProcessorMixin` that knows how text, frames and sound reach the policy. `save_pretrained` and `from_pretrained`
    keep it in a folder that it shares with the tokenizer. The chat template of the tokenizer turns the blocks
    `{"type": "video"}` and `{"type": "audio"}` of [`~aurora_trl.prompts.build_prompt`] into places.

    It may have `coordinate_size(media)`, which gives the height and width of a frame in the coordinates in which the
    policy writes boxes, for what `process_media` returned; without it they are `RELATIVE_SIZE`. A policy that hears a
    part of a long sound has `longest_sound`, in samples, so that what a reference is spoken in is not cut.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): with `[SEG]` among its tokens.
        sampling_rate (`int` or `None`): of the sound, in Hz; None: the policy does not hear, and none is read.
    """

    tokenizer: Any

    @property
    def sampling_rate(self) -> int | None: ...

    def process_media(self, frames: np.ndarray, waveform: np.ndarray | None) -> dict[str, torch.Tensor]:
        """
        Where the signature names `frame_seconds` (`Sequence[float]` or `None`), it is given when the clip's frames are
        shown, in seconds of the sound. It is None where nobody knows, and has no entry for frames that pad a clip.
        `timing.py` has what a policy may need with it.

        Args:
            frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB; one frame is an image. Of a clip that has fewer
                than the model takes the last are black.
            waveform (`np.ndarray` of shape `(samples,)`, float32, or `None`): mono sound from the clip's start, as
                long as it is, or none.

        Returns:
            `dict`: keywords among `media_inputs`, for one clip (no clip dimension).
        """
        ...

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """
        Args:
            ids (`list[int]`): a prompt with one place for the clip, and at most one for its sound.
            media (`dict`): what `process_media` returned, possibly among other tensors.

        Returns:
            `list[int]`: the prompt as the model sees it, with one placeholder per feature, and no place for sound that
            there is none of.
        """
        ...


def require_policy(policy: Any) -> None:
    """
    See to it that a model provides what a policy must.

    Raises:
        `ValueError`: names what is missing.
    """
    names = [name for name in dir(Policy) if not name.startswith("_")] + list(Policy.__annotations__)
    missing = [name for name in dict.fromkeys(names) if not hasattr(policy, name)]
    if not missing and not hasattr(policy.model, "encode_media"):
        missing = ["model.encode_media"]
    if missing:
        raise ValueError(
            f"{type(policy).__name__} is not a policy: it has no {', '.join(f'`{name}`' for name in missing)}; "
            f"see {__name__}"
        )


def stack_media(clips: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    One tensor per input, one entry per clip.

    Args:
        clips (`list[dict]`): inputs of one clip each; a name may be missing in some.

    Returns:
        `dict`: each `(C, ...)`, padded with zeros at the end of every dimension to the largest clip; zeros for a clip
        that lacks the input.
    """
    stacked = {}
    for name in dict.fromkeys(name for clip in clips for name in clip):
        values = [clip.get(name) for clip in clips]
        given = [value for value in values if value is not None]
        sizes = [max(lengths) for lengths in zip(*(value.shape for value in given), strict=True)]
        stacked[name] = given[0].new_zeros(len(clips), *sizes)
        for row, value in zip(stacked[name], values, strict=True):
            if value is not None:
                row[tuple(slice(length) for length in value.shape)] = value
    return stacked


def first_entries(values: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The first `sizes[i]` entries of each `values[i]`, one after the other: `(C, N, ...)` to `(all of them, ...)`."""
    return values[torch.arange(values.size(1), device=values.device) < sizes[:, None]]


def must_run(module: nn.Module) -> bool:
    """Whether all processes have to run a module in each step: it trains, or ZeRO-3 holds it in parts."""
    return any(parameter.requires_grad or hasattr(parameter, "ds_id") for parameter in module.parameters())


def text_position_ids(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Positions `(B, L)` that count the tokens of each row, padding left out: those of a plain language model."""
    if attention_mask is None:
        return torch.arange(input_ids.size(1), device=input_ids.device).expand_as(input_ids)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def place_features(
    inputs_embeds: torch.Tensor, places: torch.Tensor, features: torch.Tensor, sizes: torch.Tensor | None, name: str
) -> torch.Tensor:
    """
    Put features in place of placeholders, row by row.

    Args:
        inputs_embeds (`torch.Tensor` of shape `(B, L, D)`): embeddings of the ids.
        places (`torch.Tensor` of shape `(B, L)`, bool): where the placeholders are.
        features (`torch.Tensor` of shape `(B, N, D)`): one entry per row; a row without places leaves its own out.
        sizes (`torch.Tensor` of shape `(B,)` or `None`): how many features of each row are real; None: all.
        name (`str`): of the place, for the error.

    Returns:
        `torch.Tensor` of shape `(B, L, D)`.

    Raises:
        `ValueError`: where places and features differ in number.
    """
    placed = features_in_order(places, features, sizes, name)
    return inputs_embeds.masked_scatter(places[..., None], placed.to(inputs_embeds.dtype))


def features_in_order(
    places: torch.Tensor, features: torch.Tensor, sizes: torch.Tensor | None, name: str
) -> torch.Tensor:
    """
    The features that have a place, one after the other, as `place_features` puts them there.

    Args:
        places (`torch.Tensor` of shape `(B, L)`, bool), sizes, name: as there.
        features (`torch.Tensor` of shape `(B, N, ...)`): one entry per row.

    Returns:
        `torch.Tensor` of shape `(places that are true, ...)`.

    Raises:
        `ValueError`: where places and features differ in number.
    """
    counts = places.sum(dim=1)
    if sizes is None:
        sizes = torch.full_like(counts, features.size(1))
    if features.size(0) != places.size(0) or bool(((counts != 0) & (counts != sizes)).any()):
        raise ValueError(
            f"prompts with {counts.tolist()} <{name}> places do not fit features of shape {list(features.shape)}; "
            "expand the prompts with the processor that belongs to this model"
        )
    real = torch.arange(features.size(1), device=features.device) < torch.where(counts != 0, sizes, 0)[:, None]
    return features[real]
