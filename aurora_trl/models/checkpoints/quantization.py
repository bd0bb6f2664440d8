"""What of a composite model is never quantised."""

import copy
from typing import Any

# Never quantised: what draws masks is trained, and so are the tables in which `[SEG]` has a row.
WHOLE_PARTS = (
    "seg_projector",
    "seg_layer_mix",
    "seg_spatial",
    "seg_existence",
    "mask_decoder",
    "lm_head",
    "embed_tokens",
)


def with_whole_mask_parts(quantization_config: Any) -> Any:
    """A copy that leaves whole what draws masks, and the head, in which `[SEG]`'s row is trained."""
    changed = copy.deepcopy(quantization_config)
    is_mapping = isinstance(changed, dict)
    settings = changed if is_mapping else vars(changed)
    # bitsandbytes calls them one thing, all other methods another.
    name = next((name for name in ("llm_int8_skip_modules", "modules_to_not_convert") if name in settings), None)
    if name is None:
        name = "llm_int8_skip_modules" if is_mapping else "modules_to_not_convert"
    settings[name] = list(dict.fromkeys([*(settings.get(name) or ()), *WHOLE_PARTS]))
    return changed
