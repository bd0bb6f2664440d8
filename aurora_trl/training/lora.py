"""The adapter of the authors' recipe, and the model inside one."""

import copy
import math
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.save_and_load import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from ..models.configuration_aurora import AuroraConfig
from ..models.modeling_aurora import AuroraModel
from .arguments import FREEZE_FLAGS, LoraArguments

# `[SEG]` has a row in each.
_TOKEN_TABLES = ("lm_head", "embed_tokens")


def unwrap_aurora(model: PreTrainedModel | PeftModel) -> AuroraModel:
    """The AuroraModel inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def set_trainable(model: AuroraModel | PeftModel, peft_config: Any, groups: set[str]) -> Any:
    """
    Train what is to be trained and freeze everything else, in a model that has an adapter, gets one, or does without.

    In a `PeftModel` the adapter trains, with what PEFT saves beside it, and no weight that would not be saved.

    Args:
        model (`AuroraModel` or `PeftModel`): to be trained.
        peft_config (`PeftConfig`, *optional*): of the adapter that it gets.
        groups (`set[str]`): the groups of `AuroraModel.trainable_modules()` that train.

    Returns:
        `PeftConfig` or `None`: completed, see `complete_adapter`.

    Raises:
        `ValueError`: where a `PeftModel` could not be saved as it is trained, or gets a second adapter.
    """
    aurora = unwrap_aurora(model)
    _require_adapter_that_trains(model)
    aurora.set_trainable(groups)
    if not any(parameter.requires_grad for parameter in aurora.parameters()):
        raise ValueError("all parts of the model are frozen: set one of `freeze_*` to false")
    if not isinstance(model, PeftModel):
        return None if peft_config is None else complete_adapter(aurora, peft_config, groups)
    if peft_config is not None:
        raise ValueError(
            "`model` has an adapter already, and `peft_config` asks for another: leave it out to train the first, or "
            "give the name of the first one's folder as `model`, which merges it"
        )
    _require_language_model(groups)
    if list(model.peft_config) != ["default"]:
        raise ValueError(
            f"`model` has the adapters {', '.join(model.peft_config)}: it needs a single one, with the name `default`"
        )
    config = model.peft_config["default"]
    _require_lora(config)
    saved = get_peft_model_state_dict(model, model.state_dict(keep_vars=True), save_embedding_layers=False)
    kept = {id(value) for value in saved.values()}
    _require_saved(aurora, config, groups, kept)
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
    return None


def _require_adapter_that_trains(model: AuroraModel | PeftModel) -> None:
    """Raise for layers of an adapter without the model that saves them, or that add nothing to the model's own."""
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    if not isinstance(model, PeftModel):
        if layers:
            raise ValueError(
                "`model` holds the layers of an adapter that was put into it before, and would be saved as no model: "
                "give the PeftModel, such as an earlier trainer's `trainer.model`, or load the checkpoint anew"
            )
        return
    if any(layer.merged for layer in layers):
        raise ValueError(
            "the adapter of `model` is merged, and would not train: call `model.unmerge_adapter()` first, or take "
            "`model.merge_and_unload()`"
        )
    if any(layer.disable_adapters for layer in layers):
        raise ValueError("the adapter of `model` is disabled: call `model.base_model.enable_adapter_layers()` first")


def _require_saved(model: AuroraModel, config: Any, groups: set[str], kept: set[int]) -> None:
    """Raise for a part that is to be trained in full and is not among what an adapter keeps, given by id."""
    parts = {group: model.trainable_modules()[group] for group in sorted(groups - {"language_model"})}
    if token_tables(model.config):
        tables = [model.get_output_embeddings()]
        if not getattr(config, "trainable_token_indices", None):
            tables.insert(0, model.get_input_embeddings())
        parts["language_model"] = nn.ModuleList(tables)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group, part in parts.items():
        for name, parameter in part.named_parameters():
            if parameter.requires_grad and id(parameter) not in kept and "original_module" not in name:
                freeze = group in FREEZE_FLAGS and group != "language_model"
                raise ValueError(
                    f"`model` is a PeftModel whose adapter does not hold {names[id(parameter)]}, which is to be "
                    "trained and would be lost: give the model without its adapter, and the adapter's config as "
                    "`peft_config`, which is completed" + (f", or set `freeze_{group}: true`" if freeze else "")
                )


def _require_lora(config: Any) -> None:
    kind = getattr(config, "peft_type", None)
    if kind != "LORA":
        name = getattr(kind, "value", type(config).__name__)
        raise ValueError(f"an adapter of the kind {name} would not be read again: use a `peft.LoraConfig`")


def _require_language_model(groups: set[str]) -> None:
    if "language_model" not in groups:
        raise ValueError("an adapter is the language model's: leave `freeze_language_model` off")


def lora_config(model: AuroraModel, arguments: LoraArguments, groups: set[str]) -> LoraConfig | None:
    """
    The adapter of the authors' recipe: LoRA on the language model's attention, `[SEG]`'s rows and whatever else
    trains in full.

    Args:
        model (`AuroraModel`): says which of its layers are the language model's.
        arguments (`LoraArguments`): rank, scale, dropout.
        groups (`set[str]`): the groups of `AuroraModel.trainable_modules()` that train.

    Returns:
        `LoraConfig` or `None` where `use_lora` is off.

    Raises:
        `ValueError`: where the language model is frozen.
    """
    if not arguments.use_lora:
        return None
    if "language_model" not in groups:
        raise ValueError("`use_lora` adapts the language model: leave `freeze_language_model` off")
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        # A plain list of names would also hit the towers and the mask decoder.
        target_modules=model.policy.lora_target_modules,
        modules_to_save=[*token_tables(model.config), *_trained_in_full(model, groups)],
        task_type="CAUSAL_LM",
    )


def complete_adapter(model: AuroraModel, config: Any, groups: set[str]) -> Any:
    """
    An adapter's config of one's own, with what a composite model needs beside it: adapters stay in the language model,
    and `[SEG]`'s rows, the projector and whatever else is not frozen train in full. With learned queries the tables of
    tokens stay as they are, whatever the config names.

    Args:
        model (`AuroraModel`): what the adapter is for.
        config (`PeftConfig`): such as `LoraConfig(target_modules=["q_proj", "v_proj"])` or `"all-linear"`.
        groups (`set[str]`): as in `lora_config`.

    Returns:
        `PeftConfig`: a copy; one that `lora_config` made stays as it is.

    Raises:
        `ValueError`: where the language model is frozen, or the config is not of LoRA, or names a layer that is not
            the language model's, or trains what is frozen.
    """
    _require_language_model(groups)
    _require_lora(config)
    if config.bias == "all":
        raise ValueError("`bias: all` would train biases of what `freeze_*` freezes: use `lora_only` or `none`")
    _require_useful(config, model)
    config = copy.deepcopy(config)
    config.inference_mode = False  # as it is in the config of an adapter that was saved
    layers = _language_layers(model)
    wanted = getattr(config, "target_modules", None)
    if wanted is None:
        config.target_modules = model.policy.lora_target_modules
    elif wanted == "all-linear":
        config.target_modules = layers
    elif isinstance(wanted, str):
        _require_language_layers(model, config, layers, repr(wanted))
    else:
        kept: set[str] = set()
        for name in sorted(wanted):
            inside = [layer for layer in layers if layer == name or layer.endswith(f".{name}")]
            if not inside:
                raise ValueError(f"`target_modules` names {name!r}, which is no layer of the language model")
            kept.update(inside)
        config.target_modules = kept
    _choose_blocks(config, layers)
    tables = _tables_in_full(model, config)
    # `lora_config` may have seen a projector that the phase has let go since, or a `[SEG]` that nobody writes now.
    gone = {"seg_projector"} if model.seg_projector is None else set()
    gone |= set(_TOKEN_TABLES) if model.seg_queries is not None else set()
    given = [name for name in getattr(config, "modules_to_save", None) or () if name not in gone]
    ours = [*tables, *_trained_in_full(model, groups)]
    _require_trained(model, [name for name in given if name not in ours])
    config.modules_to_save = list(dict.fromkeys([*given, *ours]))
    config.task_type = config.task_type or "CAUSAL_LM"
    return config


def _require_useful(config: Any, model: AuroraModel) -> None:
    """Raise for a setting of PEFT with which an adapter would do nothing, or reach beyond the language model."""
    if not config.lora_alpha or not math.isfinite(config.lora_alpha):
        raise ValueError(f"`lora_alpha: {config.lora_alpha}` scales all that an adapter learns: set another number")
    if getattr(config, "alora_invocation_tokens", None):
        raise ValueError("`alora_invocation_tokens` is refused: prompts that are read once have no such place")
    own = {id(weight) for weight in model.trainable_modules()["language_model"].parameters()}
    for wanted in getattr(config, "target_parameters", None) or ():
        hits = [(name, weight) for name, weight in model.named_parameters() if name.endswith(wanted)]
        outside = next((name for name, weight in hits if id(weight) not in own), None)
        if outside is not None or not hits:
            what = f"hits {outside}, which is not the language model's" if outside else "hits nothing"
            raise ValueError(f"`target_parameters` names {wanted!r}, which {what}")


def _choose_blocks(config: Any, layers: list[str]) -> None:
    """Keep the blocks that `layers_to_transform` counts, which PEFT does not look at where layers have full names."""
    blocks = getattr(config, "layers_to_transform", None)
    if blocks is None or blocks == []:
        return
    wanted = [layer for layer in layers if check_target_module_exists(_everywhere(config), layer)]
    counted = copy.copy(config)
    counted.exclude_modules = counted.modules_to_save = None
    counted.target_modules = {layer.rpartition(".")[2] for layer in wanted}
    config.target_modules = {layer for layer in wanted if check_target_module_exists(counted, layer)}
    if not config.target_modules:
        raise ValueError(f"`layers_to_transform: {blocks}` counts none of the language model's blocks, from 0 on")
    config.layers_to_transform = config.layers_pattern = None


def _everywhere(config: Any) -> Any:
    config = copy.copy(config)
    config.layers_to_transform = config.modules_to_save = None
    return config


def _tables_in_full(model: AuroraModel, config: Any) -> tuple[str, ...]:
    """The tables of tokens that train as a whole: not the one of which an adapter's config names rows."""
    tables, rows = token_tables(model.config), getattr(config, "trainable_token_indices", None)
    if not rows:
        return tables
    by_table = rows if isinstance(rows, dict) else {"embed_tokens": rows}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    other = next((name for name in by_table if not name.endswith("embed_tokens")), None)
    if tied or other is not None:
        raise ValueError(
            "`trainable_token_indices` can name rows of an `embed_tokens` of its own alone: the loss reads the whole "
            f"table of `{other or 'lm_head'}`; leave it out, and the tables train in full"
        )
    seg = model.config.seg_token_id
    if tables and not all(seg in numbers for numbers in by_table.values()):
        raise ValueError(f"`trainable_token_indices` leaves out {seg}, the row of [SEG], which would stay as it is")
    return tuple(name for name in tables if name != "embed_tokens")


def _require_trained(model: AuroraModel, names: list[str]) -> None:
    """Raise for one of the `modules_to_save` that there is not, or that holds what is frozen."""
    for name in names:
        hits = [(key, module) for key, module in model.named_modules() if key.endswith(name)]
        if not hits:
            raise ValueError(f"`modules_to_save` names {name!r}, which is no part of the model")
        for key, module in hits:
            if any(not weight.requires_grad for weight in module.parameters()):
                raise ValueError(
                    f"`modules_to_save` names {name!r}, which would train {key}, and `freeze_*` freezes that: set it "
                    "to false, or name the part more exactly"
                )


def token_tables(config: AuroraConfig) -> tuple[str, ...]:
    """The tables in which a new token has a row; a policy that writes boxes, or no `[SEG]`, needs none."""
    writes_seg = config.mask_source != "box" and config.seg_source == "token"
    return _TOKEN_TABLES if writes_seg else ()


def _trained_in_full(model: AuroraModel, groups: set[str]) -> list[str]:
    """Names of the modules that train beside an adapter."""
    names = {id(module): name for name, module in model.named_modules()}
    parts: list[nn.Module] = []
    for group, module in model.trainable_modules().items():
        if group in groups - {"language_model"}:
            # A group is a module of the model, or a list of some.
            parts += [module] if id(module) in names else list(module.children())
    return [names[id(part)] for part in parts]


def _language_layers(model: AuroraModel) -> list[str]:
    """Names of the linear layers of the language model, its head left out."""
    head = model.get_output_embeddings()
    own = {
        id(module)
        for module in model.trainable_modules()["language_model"].modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return [name for name, module in model.named_modules() if id(module) in own]


def _require_language_layers(model: AuroraModel, config: Any, layers: list[str], wanted: str) -> None:
    hits = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    outside = sorted(set(hits) - set(layers))
    if outside or not hits:
        what = f"hits {outside[0]}, which is not the language model's" if outside else "hits no layer"
        raise ValueError(f"`target_modules` {wanted} {what}; AURORA's is {model.policy.lora_target_modules!r}")
