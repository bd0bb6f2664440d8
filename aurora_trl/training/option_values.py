"""Values of options that TRL, transformers and torch would look at in the middle of training, or not at all."""

import copy
import difflib
import importlib.util
import inspect
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, get_scheduler
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.training_args import trainer_log_levels

from .options import check_launch

logger = logging.getLogger(__name__)

_VLLM_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "both": {"log_level": tuple(trainer_log_levels), "log_level_replica": tuple(trainer_log_levels)},
    "sft": {"loss_type": ("nll", "dft", "chunked_nll")},
    "grpo": {
        "importance_sampling_level": ("token", "sequence"),
        "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
        "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
        "scale_rewards": ("group", "batch", "none", True, False),
        "vllm_importance_sampling_mode": _VLLM_MODES,
    },
}
# By what is said of them: whether a number is one, and the options that take such numbers.
_RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "at least 1": (
        lambda value: value >= 1,
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "dataloader_prefetch_factor",
            "ddp_timeout",
            "generation_batch_size",
            "max_completion_length",
            "num_generations_eval",
            "num_iterations",
            "ref_model_sync_steps",
            "steps_per_generation",
        ),
    ),
    "at least 2": (lambda value: value >= 2, ("num_generations",)),
    "at least 0": (lambda value: value >= 0, ("dataloader_num_workers", "top_k")),
    "a number from 0 on": (
        lambda value: 0 <= value < math.inf,
        (
            "adam_epsilon",
            "beta",
            "delta",
            "epsilon",
            "epsilon_high",
            "eval_steps",
            "learning_rate",
            "max_grad_norm",
            "neftune_noise_alpha",
            "num_train_epochs",
            "temperature",
            "warmup_steps",
            "weight_decay",
        ),
    ),
    "a number above 0": (
        lambda value: 0 < value < math.inf,
        ("repetition_penalty", "sapo_temperature_neg", "sapo_temperature_pos"),
    ),
    "a number from 0 to 1": (
        lambda value: 0 <= value <= 1,
        ("label_smoothing_factor", "min_p", "ref_model_mixup_alpha", "top_entropy_quantile"),
    ),
    "a number above 0 and at most 1": (lambda value: 0 < value <= 1, ("top_p", "vllm_gpu_memory_utilization")),
    "a number from 0 on and below 1": (lambda value: 0 <= value < 1, ("adam_beta1", "adam_beta2")),
    "a whole number from 0 to 4294967295": (lambda value: 0 <= value < 2**32, ("seed",)),
}
# What decides whether a number of steps is used.
_STRATEGIES = {"save_steps": "save_strategy", "logging_steps": "logging_strategy"}
# Optimizers that are built around a model's layers.
_AROUND_A_MODEL = ("galore", "apollo", "lomo", "adalomo", "loro")
# Of TRL and transformers, and the one that torch hides.
_CHECKPOINTING = {"selective", "every_n_layers", "offload", "preserve_rng_state"}
# What `from_pretrained` takes beside the arguments in its signature.
_LOADING = {"attn_implementation", "base_model_name_or_path", "device_map", "dtype", "experts_implementation"}
_LOADING |= {"max_memory", "offload_buffers", "offload_folder", "quantization_config", "subfolder", "torch_dtype"}
# Packages of the trackers, where they are not called what `report_to` calls them.
_TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "comet_ml": ("comet_ml",), "azure_ml": ("azureml",)}
_NO_TRACKERS = {"none", "all", "codecarbon", "flyte", "dagshub"}


def check_values(config: Any, method: str) -> None:
    """
    Raise for a value with which nothing could be trained, and for a tracker that is not installed.

    They are looked at before TRL's own checks, which divide by some of them.

    Args:
        config (`SFTConfig` or `GRPOConfig`): before TRL has read it.
        method (`str`): `"sft"` or `"grpo"`.

    Raises:
        `ValueError`: names the option, what it takes and what it got.
    """
    check_launch(config)
    for name, choices in {**CHOICES["both"], **CHOICES[method]}.items():
        value = getattr(config, name)
        if value not in choices:
            shown = ", ".join(choice for choice in choices if isinstance(choice, str))
            raise ValueError(f"`{name}` must be one of {shown}, got {value!r}")
    check_ranges({item.name: getattr(config, item.name, None) for item in fields(config)})
    for item in fields(config):
        value = getattr(config, item.name, None)
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"`{item.name}` must be a number, got nan")
    if getattr(config, "temperature", 1.0) == 0:
        raise ValueError("`temperature: 0` gives every answer of a group the same: there is nothing to compare")
    _check_length(config)
    dispatching = config.accelerator_config
    if isinstance(dispatching, dict) and dispatching.get("dispatch_batches"):
        raise ValueError("`accelerator_config: dispatch_batches` is refused: each process reads its own clips")
    _check_trackers(config.report_to)


def check_ranges(values: Mapping[str, Any], option: str = "") -> None:
    """
    Raise `ValueError` for a number that is out of its option's range.

    Args:
        values (`Mapping[str, Any]`): by option; what is no number is left to others.
        option (`str`, *optional*): that holds them, where it is one.
    """
    for wanted, (holds, names) in _RANGES.items():
        for name in names:
            value = values.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not holds(value):
                place = f"{option}: {name}" if option else name
                raise ValueError(f"`{place}` must be {wanted}, got {value}")


def _check_length(config: Any) -> None:
    """Raise where no step would be taken, or counted."""
    if config.max_steps < -1 or config.max_steps == 0:
        raise ValueError(
            f"`max_steps` must be at least 1, or -1 for all of `num_train_epochs`, got {config.max_steps}"
        )
    if config.max_steps == -1 and config.num_train_epochs == 0:
        raise ValueError("`num_train_epochs: 0` takes no step: set it above 0, or `max_steps`")
    for name, strategy in _STRATEGIES.items():
        value, when = getattr(config, name), getattr(config, strategy)
        if getattr(when, "value", when) == "steps" and isinstance(value, int | float) and value <= 0:
            raise ValueError(f'`{name}` must be above 0, got {value}; `{strategy}: "no"` is for never')


def _check_trackers(report_to: Any) -> None:
    for tracker in report_to if isinstance(report_to, list) else [report_to]:
        if not isinstance(tracker, str):
            raise ValueError(f"`report_to` names trackers, got {tracker!r}; `none` is for no tracker")
        if tracker not in {*INTEGRATION_TO_CALLBACK, *_NO_TRACKERS}:
            raise ValueError(f"`report_to: {tracker}` is no tracker; use {', '.join(sorted(INTEGRATION_TO_CALLBACK))}")
        packages = _TRACKERS.get(tracker, (tracker,))
        if tracker not in _NO_TRACKERS and not any(importlib.util.find_spec(package) for package in packages):
            raise ValueError(f"`report_to: {tracker}` needs the package {packages[0]}: install it, or set `none`")


def check_building(config: Any) -> None:
    """
    Raise where the optimizer, the schedule, checkpointing or the model could not be made with these values.

    Args:
        config (`SFTConfig` or `GRPOConfig`): after TRL has read it.

    Raises:
        `ValueError`: names the option.
    """
    _build_optimizer(config)
    _build_schedule(config)
    torchs = {
        name for name, item in inspect.signature(checkpoint).parameters.items() if item.kind is item.KEYWORD_ONLY
    }
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        known = torchs | _CHECKPOINTING
        unknown = next((key for key in getattr(config, name, None) or {} if key not in known), None)
        if unknown is not None:
            raise ValueError(f"`{name}` has no `{unknown}`; use {', '.join(sorted(known))}")
    loading = {*_LOADING, *inspect.signature(PreTrainedModel.from_pretrained).parameters}
    for key in config.model_init_kwargs or {}:  # others may be the model's config's
        close = difflib.get_close_matches(key, loading, n=1, cutoff=0.8)
        if key not in loading and close:
            raise ValueError(f"`model_init_kwargs` has no `{key}`; did you mean `{close[0]}`?")


def _build_optimizer(config: Any) -> None:
    """Build it around a single number."""
    name = str(getattr(config.optim, "value", config.optim))
    try:
        optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(config)
        optimizer_class([torch.nn.Parameter(torch.zeros(1))], **kwargs)
        plain = copy.copy(config)
        plain.optim_args = None
        idle = config.optim_args and Trainer.get_optimizer_cls_and_kwargs(plain)[1] == kwargs
    except (ValueError, TypeError, ImportError) as error:
        if name.startswith(_AROUND_A_MODEL) and not isinstance(error, ImportError):
            return  # it asks for the model, which is not there yet
        given = f" with `optim_args: {config.optim_args}`" if config.optim_args else ""
        raise ValueError(f"`optim: {name}`{given} can not be made: {_one_line(error)}") from error
    except (RuntimeError, AssertionError, AttributeError):
        return  # for a device that this machine does not have
    if idle and os.environ.get("RANK", "0") == "0":
        logger.warning(f"`optim_args: {config.optim_args}` has no effect here: `optim: {name}` takes none of them")


def _build_schedule(config: Any) -> None:
    """Build it, and ask for the learning rate of a few steps."""
    name = str(getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type))
    steps = config.max_steps if config.max_steps > 0 else 10**6  # enough for whatever the data give
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    try:
        schedule = get_scheduler(
            config.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=config.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=copy.copy(config.lr_scheduler_kwargs),
        )
        for rate in getattr(schedule, "lr_lambdas", ()):
            float(rate(steps // 2) + rate(steps - 1))
    except (ValueError, TypeError, ArithmeticError) as error:
        given = f" with `lr_scheduler_kwargs: {config.lr_scheduler_kwargs}`" if config.lr_scheduler_kwargs else ""
        raise ValueError(f"`lr_scheduler_type: {name}`{given} can not be made: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
