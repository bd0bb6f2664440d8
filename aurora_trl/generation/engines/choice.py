"""Which engine samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from ...models.modeling_aurora import AuroraModel
from ...models.shared_prefix import attends_to_all
from .compiled import CompiledDecoder
from .states import record_last_states

ENGINES = ("auto", "eager", "compiled")

# Compiled once per model, not once per answer.
_DECODERS: WeakKeyDictionary[AuroraModel, CompiledDecoder] = WeakKeyDictionary()


def choose_engine(name: str, model: AuroraModel) -> str:
    """
    The engine that samples.

    Args:
        name (`str`): one of `ENGINES`; `"auto"` is the model's own `generation_engine`, and where that is `"auto"`,
            `compiled` on a GPU where the model can be compiled, else `eager`.
        model (`AuroraModel`): the model.

    Returns:
        `str`: `"eager"` or `"compiled"`.

    Raises:
        `ValueError`: for an unknown engine, and for `compiled` where this model can not be compiled.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown generation engine {name!r}; use one of {', '.join(ENGINES)}")
    name = model.generation_engine if name == "auto" else name
    if name == "eager":
        return name
    reason = _why_not(model)
    if name == "auto":
        return "compiled" if reason is None and model.device.type == "cuda" else "eager"
    if reason is not None:
        raise ValueError(f"`compiled` can not sample here: {reason}; use the engine `eager`")
    return name


def _why_not(model: AuroraModel) -> str | None:
    """Why a step of this model can not be compiled; None: it can."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return "ZeRO-3 holds the weights in parts, and brings them together at other places each time"
    if not model.policy.supports_shared_prefix:
        return f"{type(model.policy).__name__} takes no 4D attention mask"
    if not attends_to_all(model.policy):
        return "some layers of the language model do not attend to the whole text"
    experts = [weight for name, weight in model.policy.model.named_parameters() if ".mlp.experts." in name]
    if any(weight.is_cuda and weight.dtype != torch.bfloat16 for weight in experts):
        return "a GPU runs a layer's experts as one product in bfloat16 alone"
    return None


@contextmanager
def recorded_generation(model: AuroraModel, engine: str = "auto") -> Iterator[list[torch.Tensor]]:
    """
    Sample with an engine inside the block, and collect the states as [`record_last_states`] does; none where
    `compiled` does not give what [`AuroraModel.seg_state`] reads.

    Args:
        model (`AuroraModel`): the model, unwrapped.
        engine (`str`, *optional*, defaults to `"auto"`): see [`choose_engine`].
    """
    engine = model.generation_engine if engine == "auto" else engine
    if choose_engine(engine, model) == "eager":
        with record_last_states(model) as states:
            yield states
        return
    decoder = _DECODERS.get(model)
    if decoder is None:
        decoder = _DECODERS[model] = CompiledDecoder(model.policy)
    states = []
    model.decoding_method = decoder.recording(states, strict=engine == "compiled")
    try:
        yield states
    finally:
        model.decoding_method = None
        if model.config.seg_layers > 1:
            states.clear()  # they are the last layer's alone: what `seg_state` mixes is read again
