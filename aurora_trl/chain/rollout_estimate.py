"""What a rollout needs of a GPU's memory: all its clips, prompts and completions, where a training step has a few."""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from ..models.configuration_aurora import AuroraConfig
from .experts import feed_forward_states, feed_forward_width

# Per completion and word of the vocabulary: logits in float32, what the processors make of them, and their sorting.
_BYTES_PER_LOGIT = 40
# States per place that SAM's decoder holds at a time where nothing is kept for a backward pass.
_DECODER_STATES = 8


@dataclass(frozen=True)
class RolloutSetup:
    """
    What decides the memory of a rollout besides the model.

    Attributes:
        completions (`int`): of a process in one rollout.
        num_generations (`int`): completions of a question.
        prompt_tokens (`int`): of a question with its clip, of which `media_tokens` (`int`) are the clip's.
        new_tokens (`int`): of the longest completion.
        num_frames (`int`): frames of a clip.
        max_objects (`int`): masks of an answer.
        prefill_tokens (`int`): tokens of prompts that are read at once.
        mask_frames_at_once (`float`): frames of 1,024 pixels that the mask decoder takes at once.
        mask_target_size (`int`): side of the masks that rewards see, in pixels.
        width (`int`): bytes of an activation.
    """

    completions: int
    num_generations: int
    prompt_tokens: int
    media_tokens: int
    new_tokens: int
    num_frames: int
    max_objects: int
    prefill_tokens: int
    mask_frames_at_once: float
    mask_target_size: int
    width: int

    @property
    def questions(self) -> int:
        return -(-self.completions // self.num_generations)


@dataclass(frozen=True)
class RolloutEstimate:
    """
    Bytes on one GPU beside the weights.

    Attributes:
        held (`int`): features of the clips for policy and mask decoder, and targets; until the next rollout.
        encode (`int`): while the mask encoder runs.
        generate (`int`): while completions are sampled.
        draw (`int`): while their masks are decoded and shown to the rewards.
    """

    held: int
    encode: int
    generate: int
    draw: int

    @property
    def peak(self) -> int:
        """What is held included."""
        return self.held + max(self.encode, self.generate, self.draw)


def estimate_rollout(config: AuroraConfig, setup: RolloutSetup) -> RolloutEstimate:
    """
    Estimate the peak of a rollout whose questions are about as many clips, with towers and mask encoder frozen.

    Args:
        config (`AuroraConfig`): sizes of the model.
        setup (`RolloutSetup`): the rest.
    """
    text: Any = config.get_text_config()
    features = setup.questions * setup.media_tokens * text.hidden_size * setup.width
    targets = setup.completions * setup.num_frames * setup.mask_target_size**2
    targets *= 1 + (setup.max_objects if setup.max_objects > 1 else 0)
    embeddings, encode, draw = _mask_parts(config.mask_decoder_config, setup)
    return RolloutEstimate(
        held=features + targets + embeddings,
        encode=encode,
        generate=_generation(text, setup) + features,  # one entry per prompt beside one per clip
        draw=draw,
    )


def _generation(text: Any, setup: RolloutSetup) -> int:
    """The larger of reading the prompts and of the cache with all completions at their longest."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layer = 2 * text.num_key_value_heads * head_dim * setup.width  # bytes of a token's keys and values
    tokens = setup.completions * (setup.prompt_tokens + setup.new_tokens)
    cache = tokens * layer * text.num_hidden_layers
    states = setup.completions * setup.new_tokens * text.hidden_size * setup.width
    logits = setup.completions * text.vocab_size * _BYTES_PER_LOGIT
    prompts = setup.questions * setup.prompt_tokens
    read = min(prompts, max(setup.prefill_tokens, setup.prompt_tokens))
    reading = prompts * layer * text.num_hidden_layers
    states = 5 + feed_forward_states(text)
    reading += read * (states * text.hidden_size + 3 * feed_forward_width(text)) * setup.width
    return max(cache + states + logits, reading)


def _mask_parts(sam: PretrainedConfig, setup: RolloutSetup) -> tuple[int, int, int]:
    """Of the original SAM: features of all frames, its encoder for a few, and the masks of all completions."""
    sizes: Any = sam
    pixels = setup.completions * setup.num_frames * setup.mask_target_size**2
    shown = pixels * (4 + 4)  # logits in float32, and what they are compared with
    if not all(hasattr(sizes, name) for name in ("patch_size", "encoder_num_heads", "prompt_embed_dim")):
        return 0, 0, shown  # another decoder, of which nothing is known here
    side = sizes.image_size // sizes.patch_size
    frames = setup.questions * setup.num_frames
    at_once = max(1, int(setup.mask_frames_at_once * 1024**2 / sizes.image_size**2))
    embeddings = frames * side**2 * sizes.prompt_embed_dim * setup.width
    # The larger of a feed-forward layer and of attention, whose queries and keys are grown by rows and columns.
    grown = sizes.encoder_embed_dim + 2 * side * sizes.encoder_num_heads
    states = max(10 * sizes.encoder_embed_dim, 6 * sizes.encoder_embed_dim + 2 * grown)
    encode = min(frames, at_once) * side**2 * states * setup.width + embeddings  # its parts, before they are joined
    masks = setup.completions * setup.max_objects * setup.num_frames * (4 * side) ** 2
    drawn_at_once = max(1, at_once // setup.num_frames) * setup.num_frames
    drawing = drawn_at_once * side**2 * _DECODER_STATES * sizes.prompt_embed_dim * setup.width
    copy = 0 if setup.width == 4 else masks * 4  # rewards see float32
    return embeddings, encode, masks * setup.width + max(drawing, copy + shown)
