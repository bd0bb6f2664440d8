"""Adapters on disk: what a LoRA phase leaves beside PEFT's files, and how it finds its way back onto its base.

An adapter's folder holds the adapter and whatever trained in full beside it (PEFT's `adapter_model.safetensors`), the
composite's `config.json`, the weights that were taken from a teacher and then frozen, and a record of the base. The
base itself stays where it is.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ...errors import DataError
from ...text_files import read_json
from ..configuration_aurora import model_class
from .own_files import (
    CONFIG_FILE,
    HUB_ARGUMENTS,
    PICKLED_WEIGHTS,
    WHOLE_WEIGHTS,
    find_file,
    find_weight_files,
    one_line,
    read_header,
    read_own_config,
    require_finite,
    weight_samples,
)
from .zero3 import copy_tensors, gathered, is_partitioned

if TYPE_CHECKING:
    from ..modeling_aurora import AuroraModel

ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
RECORD_FILE, REPLACED_FILE = "aurora_adapter.json", "aurora_replaced.safetensors"
ADAPTER_FILES = (RECORD_FILE, REPLACED_FILE)

# What a config says about the file or the version that wrote it, not about the model.
_VOLATILE = {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures", "use_cache"}


@dataclass(frozen=True)
class AdapterRecord:
    """
    What an adapter remembers of its base.

    Attributes:
        base_model_name_or_path (`str`): folder or Hub repository, as it was named in training.
        base_config, base_weights (`str`): fingerprints of its config and of a sample of its weights.
    """

    base_model_name_or_path: str
    base_config: str
    base_weights: str


def find_adapter(name: str, **hub_kwargs: Any) -> str | None:
    """Path of the `adapter_config.json` of a folder or Hub repository, or None where it holds no adapter."""
    return find_file(name, ADAPTER_CONFIG_FILE, **hub_kwargs)


def adapter_asked_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The adapter that `from_pretrained` was asked for, or None where it was asked for a whole model."""
    # `AutoModel` has followed an adapter on the Hub to its base already, and says so.
    followed = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
    name = followed or (args[0] if args else kwargs.get("pretrained_model_name_or_path"))
    if name is None:
        return None
    hub_kwargs = {k: kwargs[k] for k in HUB_ARGUMENTS if k in kwargs}
    return str(name) if followed or find_adapter(str(name), **hub_kwargs) is not None else None


def describe_base(name: str, **hub_kwargs: Any) -> AdapterRecord:
    """
    Fingerprint a checkpoint without loading it: its config, and the first numbers of every weight.

    Args:
        name (`str`): folder or Hub repository of an AuroraModel, or of an adapter.
        **hub_kwargs: `revision`, `token`, `cache_dir` and the like.

    Returns:
        `AdapterRecord`: the same for the same weights in other shards, or stored in bf16.

    Raises:
        `ValueError`: where there is no checkpoint.
    """
    config = find_file(name, CONFIG_FILE, **hub_kwargs) if name else None
    files = [] if config is None else _weight_files(name, **hub_kwargs)
    if config is None or not files:
        raise DataError(
            f"{name}: no such checkpoint of an AuroraModel; an adapter does not hold its base: save the base with "
            "`save_pretrained` and load it from there"
        )
    settings = json.dumps(_without_volatile(read_json(config)), sort_keys=True)
    digest = hashlib.sha256()
    # An adapter's base may be an adapter, which stands on a base of its own.
    record = find_file(name, RECORD_FILE, **hub_kwargs)
    if record is not None:
        digest.update(_read_record(record).base_weights.encode())
    for key, sample in sorted(weight_samples(files)):
        digest.update(key.encode())
        digest.update(sample)
    return AdapterRecord(name, hashlib.sha256(settings.encode()).hexdigest(), digest.hexdigest())


def gather_replaced_weights(model: PeftModel, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """
    The weights that are neither the base's nor the adapter's: taken from a teacher, then frozen.

    Under ZeRO-3 the Trainer gathers what trains, and these not; every process must come here.

    Args:
        model (`PeftModel`): around an AuroraModel.
        keep (`bool`, *optional*, defaults to `True`): whether this process needs them; one that writes nothing only
            helps to gather.

    Returns:
        `dict[str, torch.Tensor]`: by their names in the base, on the CPU; empty where they are not kept.
    """
    aurora: AuroraModel = model.get_base_model()
    # One that trains is in PEFT's file, and goes by another name here.
    named = {**dict(aurora.named_parameters()), **dict(aurora.named_buffers())}
    weights = {}
    for name, value in named.items():
        if name in aurora.replaced_weights:
            with gathered([value]):
                if keep:
                    # What is in parts is gone after the block.
                    whole = value.detach().clone() if is_partitioned([value]) else value.detach()
                    weights[name] = whole.cpu().contiguous()
    return weights


def save_adapter(
    model: PeftModel, folder: str | Path, record: AdapterRecord, replaced: dict[str, torch.Tensor]
) -> None:
    """
    Add to a folder that `PeftModel.save_pretrained` wrote what `AuroraModel.from_pretrained` needs.

    Args:
        model (`PeftModel`): around an AuroraModel.
        folder (`str` or `Path`): where PEFT has written.
        record (`AdapterRecord`): of the model's base, from `describe_base`.
        replaced (`dict[str, torch.Tensor]`): from `gather_replaced_weights`.
    """
    folder = Path(folder)
    model.get_base_model().config.save_pretrained(folder)
    if replaced:
        save_file(replaced, folder / REPLACED_FILE, metadata={"format": "pt"})
    (folder / RECORD_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n")


def load_adapter(name: str | Path, *, base_model_name_or_path: str | None = None, **kwargs: Any) -> PeftModel:
    """
    Load a base and put an adapter on it, unmerged.

    Under ZeRO-3 the base is loaded in parts, as any other checkpoint. PEFT's own weights, and its copies of what
    trained in full, are whole on every process until a trainer's engine splits them.

    Args:
        name (`str` or `Path`): an adapter's folder or Hub repository.
        base_model_name_or_path (`str`, *optional*): where the base is, if not where it was in training.
        **kwargs: for [`AuroraModel.from_pretrained`]; `revision` and `subfolder` are the adapter's.

    Returns:
        `PeftModel`: around the AuroraModel.

    Raises:
        `ValueError`: where the base is missing or another one, or the adapter is not whole.
    """
    name = str(name)
    hub_kwargs = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    base_kwargs = {key: value for key, value in hub_kwargs.items() if key not in ("revision", "subfolder")}
    record, weights_file, keys = check_adapter_files(name, **hub_kwargs)
    base = str(base_model_name_or_path or record.base_model_name_or_path)
    _check_base(name, base, record, base_kwargs)
    model: AuroraModel = model_class().from_pretrained(base, **base_kwargs, **kwargs)
    config_file = find_file(name, CONFIG_FILE, **hub_kwargs)
    if config_file is not None:  # the phase may have added to its base
        own = read_own_config(type(model.config), config_file)
        model.set_mask_source(own.mask_source)
        model.set_seg_source(own.seg_source, own.num_queries)
        model.add_seg_parts(own.seg_layers, own.spatial_prompt, own.existence_output)
        model.config.quality_trained = own.quality_trained
    replaced_file = find_file(name, REPLACED_FILE, **hub_kwargs)
    if replaced_file is not None:
        read_header(replaced_file)
        replaced = load_file(replaced_file)
        copy_tensors(replaced, model, str(replaced_file))
        model.replaced_weights = set(replaced)
    try:
        adapted = PeftModel.from_pretrained(model, str(Path(weights_file).parent))
    except KeyError as error:  # PEFT's answer to a module without its weights
        raise DataError(f"{weights_file}: not a whole adapter of {base}: missing {error.args[0]}") from None
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # and to other shapes or values
        raise DataError(f"{weights_file}: not an adapter of {base} ({one_line(error)}); copy it again") from error
    expected = set(get_peft_model_state_dict(adapted))
    if keys != expected:
        wrong = sorted(keys ^ expected)
        raise DataError(
            f"{weights_file}: not a whole adapter of {base}: "
            f"{'missing' if wrong[0] in expected else 'unexpected'} {wrong[0]} (one of {len(wrong)})"
        )
    require_finite(name, adapted)
    return adapted


def check_adapter_files(name: str, **hub_kwargs: Any) -> tuple[AdapterRecord, str, set[str]]:
    """
    See to it that an adapter is whole, before its base is read.

    Args:
        name (`str`): an adapter's folder or Hub repository.
        **hub_kwargs: `revision`, `token`, `cache_dir` and the like.

    Returns:
        `tuple`: what it remembers of its base, the path of its weights, and their names.

    Raises:
        `DataError`: names the file that is missing, cut short, or not what it should be.
    """
    record_file = find_file(name, RECORD_FILE, **hub_kwargs)
    if record_file is None:
        raise DataError(
            f"{name}: {RECORD_FILE} is missing, so its base is not known; save the adapter with one of our trainers"
        )
    record = _read_record(record_file)
    config_file = find_adapter(name, **hub_kwargs)
    weights_file = find_file(name, ADAPTER_WEIGHTS_FILE, **hub_kwargs)
    if config_file is None or weights_file is None:
        pickled = next((file for file in PICKLED_WEIGHTS if find_file(name, file, **hub_kwargs)), None)
        instead = "" if pickled is None else f", and {pickled} is a pickle, which could run code"
        raise DataError(
            f"{name}: {ADAPTER_WEIGHTS_FILE} is missing{instead}; the adapter was not saved or copied whole"
        )
    whole = next((file for file in WHOLE_WEIGHTS if find_file(name, file, **hub_kwargs)), None)
    if whole is not None:
        raise DataError(f"{name}: holds an adapter and {whole}, a whole model; take one of the two away")
    kind = read_json(config_file).get("peft_type")
    if kind != "LORA":
        raise DataError(f"{config_file}: its `peft_type` is {kind!r}, not 'LORA'; copy the adapter again")
    return record, weights_file, set(read_header(weights_file))


def _read_record(file: str) -> AdapterRecord:
    content = read_json(file)
    names = [entry.name for entry in fields(AdapterRecord)]
    if sorted(content) != sorted(names) or not all(isinstance(value, str) for value in content.values()):
        raise DataError(f"{file}: it should hold {', '.join(names)}, each a text; copy the adapter again")
    return AdapterRecord(**content)


def load_merged(name: str | Path, **kwargs: Any) -> "AuroraModel":
    """
    Load an adapter merged into its base: an AuroraModel like any other. The arguments are those of `load_adapter`.

    `W x + s B (A x)` becomes `(W + s B A) x`: the same masks, logits that differ by rounding. Under ZeRO-3 no process
    holds the base: one weight at a time is brought together, merged, and split again.
    """
    adapted = load_adapter(name, **kwargs)
    if is_partitioned(adapted.parameters()):
        _merge_in_parts(adapted)
    model = adapted.merge_and_unload()
    # What is trained on it next names this folder, and finds its base through it.
    model.name_or_path = model.config.name_or_path = str(name)
    model.replaced_weights = set()
    return model


@torch.no_grad()
def _merge_in_parts(adapted: PeftModel) -> None:
    """Merge an adapter into a base that ZeRO-3 has split, which PEFT does not (0.21); it has the layers to unload."""
    written: set[int] = set()
    for name, module in list(adapted.named_modules()):
        if isinstance(module, BaseTunerLayer):
            with gathered(module.get_base_layer().parameters()):
                module.merge()
        elif isinstance(module, ModulesToSaveWrapper):
            original = {id(parameter) for parameter in module.original_module.parameters()}
            # Weights that were tied have trained apart: the second of them stays PEFT's copy.
            if not original & written:
                (adapter,) = module.active_adapters
                copy_tensors(module.modules_to_save[adapter].state_dict(), module.original_module, name)
                module.modules_to_save[adapter] = module.original_module
            written |= original


def _check_base(name: str, base: str, record: AdapterRecord, hub_kwargs: dict[str, Any]) -> None:
    try:
        found = describe_base(base, **hub_kwargs)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{name}: its base {base} can not be loaded ({str(error).splitlines()[0]}); put it there, or make a whole "
            f"model with `aurora merge {name} --base WHERE`; in Python `base_model_name_or_path` says where it is"
        ) from error
    for what in ("config", "weights"):
        if getattr(found, f"base_{what}") != getattr(record, f"base_{what}"):
            raise DataError(
                f"{name}: an adapter for another base: the {what} of {base} are not those that it was trained on "
                f"({record.base_model_name_or_path}); make a whole model of them with "
                f"`aurora merge {name} --base WHERE`; in Python `base_model_name_or_path` names the base"
            )


def _weight_files(name: str, **hub_kwargs: Any) -> list[str]:
    """The safetensors of a checkpoint: one, its shards, or an adapter's."""
    if find_adapter(name, **hub_kwargs) is None:
        return find_weight_files(name, **hub_kwargs)
    found = [find_file(name, file, **hub_kwargs) for file in (ADAPTER_WEIGHTS_FILE, REPLACED_FILE)]
    return [file for file in found if file is not None]


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(item) for key, item in value.items() if key not in _VOLATILE}
    return [_without_volatile(item) for item in value] if isinstance(value, list) else value
