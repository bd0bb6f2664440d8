"""The mask head's place in a forward: what it reads of the backbone, and how it gets into a patched forward."""

import functools
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .seg_queries import place_queries


class AuroraOutput(ModelOutput):
    """
    What the policy, or TRL's fused head in its place, returned, and the mask head's outputs beside it.

    The inner output's own class has no place for more keys, and DDP takes an output apart and builds it again from its
    class and keys. A value that is not there reads as None.
    """

    def __init__(self, mapping: Mapping[str, Any] | None = None, /, **values: Any):
        # Past `ModelOutput.__init__`, which allows dataclasses only: with fields that are fixed.
        OrderedDict.__init__(self)
        for name, value in {**(mapping or {}), **values}.items():
            self[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None


# What the head reads of a forward: `(B, L, H)` of each layer that it mixes, the last layer's first.
LayerStates = tuple[torch.Tensor, ...]


@contextmanager
def capture_layers(model: Any, states_from: int = 0) -> Iterator[list[LayerStates]]:
    """
    Collect what the head reads of each forward of the backbone inside the block: its `last_hidden_state`, and the
    states of the layers before where the model mixes several. A model's queries are read at their places.

    Args:
        model (`AuroraModel`): the model.
        states_from (`int`, *optional*, defaults to 0): leave out the places before; the language model's own head does
            not see them either.
    """
    captured: list[LayerStates] = []
    others = [-2 - i for i in range(model.config.seg_layers - 1)]

    def ask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": others}

    def keep(_module: nn.Module, _args: Any, output: ModelOutput) -> ModelOutput:
        if states_from:
            output.last_hidden_state = output.last_hidden_state[:, states_from:]
        before = [output.hidden_states[i][:, states_from:] for i in others]
        captured.append((output.last_hidden_state, *before))
        return output

    handles = [model.base_model.register_forward_hook(keep)]
    if others:
        handles.append(model.base_model.register_forward_pre_hook(ask, with_kwargs=True))
    try:
        with place_queries(model):
            yield captured
    finally:
        for handle in handles:
            handle.remove()


def add_mask_head(model: PreTrainedModel) -> None:
    """
    Make a patched `model.forward` take the mask inputs and return the mask outputs of [`AuroraModel.forward`].

    TRL's trainers replace `forward` on the instance with a fused head that runs the backbone and returns
    log-probabilities; it knows nothing of masks. A trainer of ours calls this after `super().__init__()`.
    """
    inner = model.forward

    # The signature stays visible: `generate` validates its keywords against it.
    @functools.wraps(type(model).forward)
    def forward_with_masks(self: Any, *args: Any, **kwargs: Any) -> ModelOutput:
        return self._forward_with_masks(inner, args, kwargs)

    model.forward = types.MethodType(forward_with_masks, model)  # type: ignore[method-assign]


@contextmanager
def capture_outputs(model: nn.Module) -> Iterator[list[Any]]:
    """Collect what each forward of `model`, wrapped or not, returns in the block: TRL keeps its outputs to itself."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """
    Inside the block nothing is left out by chance, neither values nor layers, though the model is in training mode.

    The flag of each module is set by itself: `eval()` of ours would forget which parts are frozen. The model's own
    stays, which says to a trainer whether it trains.
    """
    modules = [module for module in model.modules() if module is not model and module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
