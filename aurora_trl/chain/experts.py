"""What a mixture of experts costs: all of its weights in memory, a few of them for each token."""

from typing import Any

from transformers import PretrainedConfig


def idle_weights(config: PretrainedConfig, rows: int = 1) -> int:
    """
    Weights of experts that a step of the language model leaves unread.

    Args:
        config (`PretrainedConfig`): of the language model.
        rows (`int`, *optional*, defaults to 1): tokens of the step, which ask for experts of their own. They are taken
            to ask evenly; a mixture that was trained well is near that.

    Returns:
        `int`: 0 where there are no experts.
    """
    text: Any = config
    count = getattr(text, "num_experts", None) or 0
    if not count:
        return 0
    plain = set(getattr(text, "mlp_only_layers", None) or ())
    every = getattr(text, "decoder_sparse_step", 1)
    layers = sum(i not in plain and (i + 1) % every == 0 for i in range(text.num_hidden_layers))
    unread = (1 - text.num_experts_per_tok / count) ** rows
    return round(layers * count * unread * 3 * text.hidden_size * text.moe_intermediate_size)


def feed_forward_width(config: PretrainedConfig) -> int:
    """The width of a feed-forward layer, or of the experts that a token reads in its stead, together."""
    text: Any = config
    if getattr(text, "num_experts", None):
        return text.num_experts_per_tok * text.moe_intermediate_size
    return text.intermediate_size


def feed_forward_states(config: PretrainedConfig) -> int:
    """How many states a feed-forward layer makes for each token besides those of its width: experts have copies."""
    text: Any = config
    return 2 * text.num_experts_per_tok if getattr(text, "num_experts", None) else 0
