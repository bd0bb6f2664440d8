"""A policy's language model by itself, under the names of the published class: what an engine for text can load."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from safetensors.torch import save_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..disk import naming, written_whole
from .checkpoints.zero3 import gathered
from .modeling_aurora import AuroraModel

# Layers that engines hold as one matrix, and load as a whole.
_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
_SHARD_BYTES = 4_000_000_000


def require_language_model(model: AuroraModel) -> str:
    """
    The class of transformers whose weights the policy's language model has.

    Raises:
        `ValueError`: where it is none that takes embeddings of a prompt and counts its positions as those of text, or
            the weights are quantised.
    """
    architecture = getattr(model.policy, "language_model_class", None)
    if architecture is None:
        raise ValueError(
            f"`use_vllm` gives a clip to the language model as embeddings in a row, and {type(model.policy).__name__} "
            "needs positions beside them: leave `use_vllm` out; VideoLLaMA2's and VideoLLaMA3's policies take it"
        )
    if any(not parameter.is_floating_point() for parameter in model.policy.parameters()):
        raise ValueError("`use_vllm` can not send quantised weights: leave one of the two out")
    return architecture


def language_model_config(model: AuroraModel) -> dict[str, Any]:
    """The config of the language model as transformers' class writes it; embeddings and head are two weights."""
    return {
        **model.policy.config.get_text_config().to_dict(),
        "architectures": [require_language_model(model)],
        "tie_word_embeddings": False,
    }


def language_model_weights(model: AuroraModel, *, trained: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """
    The weights of the language model and its head, adapters merged.

    Nothing in the model changes: what an adapter is merged into is a copy. Under ZeRO-3 a layer at a time is brought
    together, and all processes have to come here.

    Args:
        model (`AuroraModel`): may be inside a PEFT model.
        trained (`bool`, *optional*, defaults to `False`): only of layers in which something trains. What engines hold
            as one matrix, such as the projections of attention, comes as a whole.

    Yields:
        `tuple`: name and weight, on the model's device; it may be one of the model's own, to read at once.
    """
    parts = [
        *_layers("model", model.policy.model.language_model),
        *_layers("lm_head", model.policy.get_output_embeddings()),
    ]
    wanted = {
        _whole(name) for name, layer in parts if not trained or any(p.requires_grad for p in _own_parameters(layer))
    }
    for name, layer in parts:
        if _whole(name) not in wanted:
            continue
        parameters = _own_parameters(layer)
        with torch.no_grad(), gathered(parameters, read_only=True):
            partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters)
            weights = (
                _merged(layer) if isinstance(layer, BaseTunerLayer) else dict(layer.named_parameters(recurse=False))
            )
            for key, weight in weights.items():
                yield f"{name}.{key}", weight.detach().clone() if partitioned else weight.detach()


def _layers(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module with weights of its own, or with an adapter, by the name that it has without adapters."""
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[module.active_adapters[0]]
    elif isinstance(module, TrainableTokensWrapper):
        module = module.token_adapter
    if isinstance(module, BaseTunerLayer) or any(True for _ in module.parameters(recurse=False)):
        yield name, module
    if not isinstance(module, BaseTunerLayer):
        for child_name, child in module.named_children():
            yield from _layers(f"{name}.{child_name}", child)


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return list(layer.parameters(recurse=isinstance(layer, BaseTunerLayer)))


def _whole(name: str) -> str:
    """The name of what an engine loads at once."""
    parent, _, last = name.rpartition(".")
    return f"{parent}.{_FUSED.get(last, last)}"


def _merged(layer: Any) -> dict[str, torch.Tensor]:
    """The weights under an adapter with it. Taking an adapter off again leaves rounding behind: a copy is put back."""
    base = layer.get_base_layer()
    kept = {name: weight.detach().clone() for name, weight in base.named_parameters(recurse=False)}
    layer.merge()
    merged = {name: weight.detach().clone() for name, weight in base.named_parameters(recurse=False)}
    layer.unmerge()
    for name, weight in base.named_parameters(recurse=False):
        weight.data.copy_(kept[name])
    return merged


def save_weights(weights: Iterator[tuple[str, torch.Tensor]], folder: Path) -> None:
    """
    Write weights as transformers and engines read them, a few gigabytes at a time.

    Args:
        weights (`Iterator[tuple[str, torch.Tensor]]`): such as `language_model_weights`.
        folder (`Path`): is made.

    Raises:
        `DataError`: where the disk is full.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shard: dict[str, torch.Tensor] = {}
        file_of_each: dict[str, str] = {}
        file = "model-00000.safetensors"
        for name, weight in weights:
            shard[name] = weight.to("cpu", copy=True).contiguous()  # tied weights are two
            file_of_each[name] = file
            if sum(each.nbytes for each in shard.values()) > _SHARD_BYTES:
                save_file(shard, folder / file, {"format": "pt"})
                shard, file = {}, f"model-{len(file_of_each):05}.safetensors"
        if len(set(file_of_each.values())) == 1 and shard:
            save_file(shard, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})
            return
        if shard:
            save_file(shard, folder / file, {"format": "pt"})
        with written_whole(folder / SAFE_WEIGHTS_INDEX_NAME) as index:
            json.dump({"metadata": {}, "weight_map": file_of_each}, index)


def save_language_model_config(model: AuroraModel, folder: Path) -> None:
    """Write `config.json` of the language model into a folder, which is made."""
    with written_whole(folder / "config.json") as file:
        json.dump(language_model_config(model), file, indent=2, default=str)


def save_language_model(model: AuroraModel, tokenizer: Any, folder: Path) -> None:
    """
    Write the language model as a checkpoint of its published class.

    Args:
        model (`AuroraModel`): may be inside a PEFT model.
        tokenizer (`PreTrainedTokenizerBase`): goes with it.
        folder (`Path`): is made.
    """
    save_language_model_config(model, folder)
    tokenizer.save_pretrained(folder)
    save_weights(language_model_weights(model), folder)
