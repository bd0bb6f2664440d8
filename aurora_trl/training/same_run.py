"""A run that goes on is the one that was begun: what decides its result has not changed in between."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset

from ..data.schema import with_current_names
from ..errors import DataError
from ..models.checkpoints.hub import RECIPE_FILE
from ..text_files import parse_json, read_yaml
from .checkpoints import MANIFEST

# What may change: how far a run goes, what it says and keeps, and how the same work is done.
_MAY_CHANGE = frozenset(
    {
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "batch_eval_metrics",
        "debug",
        "deepspeed",
        "disable_tqdm",
        "feature_cache",
        "generation_engine",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "greater_is_better",
        "ignore_data_skip",
        "load_best_model_at_end",
        "local_rank",
        "mask_frames_at_once",
        "max_eval_samples",
        "max_steps",
        "media_cache_clips",
        "metric_for_best_model",
        "num_completions_to_print",
        "num_generations_eval",
        "num_train_epochs",
        "output_dir",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "prefill_tokens",
        "project",
        "push_to_hub",
        "report_to",
        "run_name",
        "shared_prefix",
        "skip_memory_metrics",
        "torch_empty_cache_steps",
        "use_cpu",
        # Of these the product counts, with the number of processes: see `require_same_data`.
        "auto_find_batch_size",
        "generation_batch_size",
        "gradient_accumulation_steps",
        "per_device_train_batch_size",
        "steps_per_generation",
    }
)
_MAY_CHANGE_FROM = (
    "dataloader_",
    "ddp_",
    "do_",
    "enable_",
    "eval_",
    "hub_",
    "include_",
    "log_",
    "logging_",
    "restore_",
    "resume_",
    "save_",
    "trackio_",
    "vllm_gpu_",
    "vllm_server_",
)
_DATA = {
    "samples": "samples for each step, of all processes and accumulated",
    "rollout": "completions for each rollout, of all processes",
    "rows": "rows to train on",
}
_DIGESTS = {
    "texts": "a run whose rows had other ids, references or targets than this one's",
    "labels": "a run whose rows had other classes, or others that match nothing, than this one's",
    "base": "a run whose adapter stood on a base of other weights",
    "teacher": "a run whose teacher had other weights",
    "reference": "a run whose reference model had other weights",
}
_WAYS_OUT = "set it back, choose another `output_dir`, or say `resume_with_changes: true`"


def require_same_settings(folder: str | Path, settings: Mapping[str, Any], configs: tuple[Any, ...]) -> None:
    """
    Compare a recipe with the one that a folder's run was begun with.

    Args:
        folder (`str` or `Path`): the run's, with its `recipe.yaml`; nothing is compared where there is none.
        settings (`dict`): of this recipe, what the YAML and the flags say.
        configs (`tuple`): its dataclasses, whose defaults hold where nothing is said.

    Raises:
        `DataError`: names the settings that differ.
    """
    file = Path(folder, RECIPE_FILE)
    if not file.is_file() or any(getattr(config, "resume_with_changes", False) for config in configs):
        return
    begun = with_current_names(read_yaml(file), file)
    defaults = {entry.name: _default(entry) for config in configs for entry in fields(config)}
    known = [name for name in {**begun, **settings} if name in defaults and not _may_change(name)]
    pairs = {name: [one.get(name, defaults[name]) for one in (begun, settings)] for name in known}
    changed = {name: pair for name, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])}
    if changed:
        told = [f"`{name}` {_short(was)}, and is now {_short(now)}" for name, (was, now) in list(changed.items())[:3]]
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DataError(f"{folder}: the run that is to go on was begun with {'; '.join(told)}{more}: {_WAYS_OUT}")


def _default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return None if entry.default_factory is MISSING else entry.default_factory()


def _may_change(name: str) -> bool:
    if name == "dataloader_drop_last":  # it decides which rows an epoch has
        return False
    return name in _MAY_CHANGE or name.startswith(_MAY_CHANGE_FROM) or name.endswith("_token")


def _plain(value: Any) -> Any:
    """A value as it compares: numbers in any form that YAML knows, and what is an enumeration by its value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = getattr(value, "value", value)
    if isinstance(value, bool) or value is None:
        return value
    text = str(value)
    if text.lower() in ("true", "false", "null", "none"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return float(text)
    except ValueError:
        return text


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def data_of(trainer: Any) -> dict[str, int | str]:
    """
    What a place in the data hangs on.

    Args:
        trainer (`Trainer`): of the run.

    Returns:
        `dict`: `samples` of a step and of a `rollout`, unless their number is found by trying; unless they stream, the
        number of `rows` and digests of their `texts` and `labels`; digests of the models that no checkpoint holds.
    """
    args, rows = trainer.args, trainer.train_dataset
    found: dict[str, int | str] = dict(trainer.models_behind)
    if not args.auto_find_batch_size:
        found["samples"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if getattr(args, "generation_batch_size", None) is not None:
            found["rollout"] = args.generation_batch_size
    if isinstance(rows, Dataset):
        texts, labels = (_digest(rows, names) for names in ({"id", "reference", "target"}, {"class_name", "is_null"}))
        found.update(rows=len(rows), texts=texts, labels=labels)
    return found


def _digest(rows: Dataset, names: set[str]) -> str:
    digest = xxhash.xxh3_64()
    for name in sorted(names & set(rows.column_names)):
        digest.update(json.dumps([name, rows[name][:]]).encode())
    return digest.hexdigest()


def require_same_data(checkpoint: str | Path, args: Any, now: Mapping[str, int | str]) -> None:
    """
    Raise `DataError` where a run that goes on would draw other rows than it has left to see, or learn from other
    models than before.

    Args:
        checkpoint (`str` or `Path`): it says what it was saved with; one of an earlier version, or of another library,
            does not.
        args (`AuroraSFTConfig` or `AuroraGRPOConfig`), now (`dict`): of the run that goes on, see `data_of`.
    """
    file = Path(checkpoint, MANIFEST)
    if not file.is_file() or args.resume_with_changes or args.ignore_data_skip:
        return
    before = parse_json(file.read_text(encoding="utf-8")).get("data", {})
    changed = next((name for name in now if name in before and before[name] != now[name]), None)
    if changed in _DIGESTS:
        told = _DIGESTS[changed]
    elif changed is not None:
        hint = {
            "samples": "; change `gradient_accumulation_steps` with the processes",
            "rollout": "; change `steps_per_generation` with the processes",
        }.get(changed, "")
        told = (
            f"a run with {before[changed]:,} {_DATA[changed]}, and this one has {now[changed]:,}: it would see some "
            f"rows twice and others never{hint}"
        )
    else:
        return
    raise DataError(f"{checkpoint}: was saved by {told}; {_WAYS_OUT}")
