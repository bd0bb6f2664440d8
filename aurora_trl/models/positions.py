"""How long a text a policy's language model knows."""

from typing import Any

import torch


def max_positions(config: Any) -> int | None:
    """
    Positions that a language model has learnt to turn; None for one with a table of positions, which ends by itself.

    Args:
        config (`PretrainedConfig`): of a policy, or of a whole model.
    """
    text = config.get_text_config()
    return None if not getattr(text, "rope_parameters", None) else getattr(text, "max_position_embeddings", None)


def counts_tokens(config: Any) -> bool:
    """Whether each token has a position of its own: a clip's places may share some (Qwen's multimodal positions)."""
    return "mrope_section" not in (getattr(config.get_text_config(), "rope_parameters", None) or {})


def require_positions(policy: Any, inputs: dict[str, Any], new_tokens: int = 0) -> None:
    """
    See to it that prompts, with what is written behind them, are not longer than a language model can read. Beyond its
    positions it writes nonsense, and nothing else says so.

    Args:
        policy (`PreTrainedModel`): the policy.
        inputs (`dict`): `input_ids`, `attention_mask` and the media or their features, one entry per row.
        new_tokens (`int`, *optional*, defaults to 0): that may follow.

    Raises:
        `ValueError`: with both numbers, and the way out.
    """
    limit, input_ids = max_positions(policy.config), inputs.get("input_ids")
    if limit is None or input_ids is None or input_ids.size(1) + new_tokens <= limit:
        return
    # A clip may take fewer positions than places.
    names = ("attention_mask", *policy.media_inputs, *policy.media_embeds)
    others = {name: inputs[name] for name in names if inputs.get(name) is not None}
    positions: torch.Tensor = policy.position_ids(input_ids, **others)
    needed = int(positions.max()) + 1 + new_tokens
    if needed > limit:
        raise ValueError(
            f"a prompt with its answer takes up to {needed:,} positions, and {type(policy).__name__} has {limit:,} "
            "(`max_position_embeddings`): take fewer frames (`num_frames`), or a lower limit for answers"
        )
