"""
Ways to sample answers: `eager` is transformers' own loop and the reference; `compiled` replays one step per token.

[`recorded_generation`] names the engine for what `AuroraModel.generate` writes inside its block, and collects the
states at which the answers were written. It may import `models` and what is below it.
"""

from .choice import ENGINES, choose_engine, recorded_generation
from .compiled import CompiledDecoder
from .states import gather_seg_states, read_states, record_last_states

__all__ = [
    "ENGINES",
    "CompiledDecoder",
    "choose_engine",
    "gather_seg_states",
    "read_states",
    "record_last_states",
    "recorded_generation",
]
