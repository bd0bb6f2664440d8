"""The datasets that a recipe names: one by its path, or several with weights."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..data.formats.expressions import OBJECTS
from ..data.formats.registry import FORMATS, SUBSETS, find_beside, find_source
from ..errors import DataError
from .options import say_idle

ALL_SUBSETS = tuple(dict.fromkeys(name for known in SUBSETS.values() for name in known))
CHOICES: dict[str, tuple[str, ...]] = {"format": FORMATS, "subset": ALL_SUBSETS, "objects": OBJECTS}


@dataclass(frozen=True)
class DatasetEntry:
    """
    A dataset of a recipe.

    Attributes:
        path (`str`): a folder or a file; for `parquet` also a Hub repository.
        name (`str`, *optional*): in logs and before the rows' ids; by default the last part of the path.
        weight (`float`, *optional*, defaults to 1.0): how often its rows are drawn, compared with the others' weights.
        format, subset, objects (`str`, *optional*): see [`~aurora_trl.data.find_source`].
        train_split, eval_split (`str`, *optional*), max_train_samples, max_eval_samples (`int`, *optional*): as in
            the recipe, whose values are the default.
    """

    path: str
    name: str = ""
    weight: float = 1.0
    format: str | None = None
    subset: str | None = None
    objects: str = "together"
    train_split: str = "train"
    eval_split: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None

    def beside(self, path: str) -> "DatasetEntry":
        """What is said here, about the dataset at another path, as far as it fits."""
        source = find_beside(path, self.format, self.subset, self.objects)
        return replace(self, path=path, format=source.format, subset=source.subset, objects=source.objects)


_KINDS: dict[str, tuple[type, ...]] = {
    "weight": (int, float),
    "max_train_samples": (int,),
    "max_eval_samples": (int,),
}
_KIND_NAMES: dict[tuple[type, ...], str] = {
    (int, float): "a number",
    (int,): "a whole number",
    (str,): "a text; put it in quotes",
}


def read_entries(given: Sequence[Any], defaults: Mapping[str, Any]) -> list[DatasetEntry]:
    """
    The entries of a recipe's `datasets`.

    Args:
        given (`Sequence`): as the YAML holds them.
        defaults (`Mapping[str, Any]`): what the recipe says for all of them.

    Raises:
        `ValueError`: names the entry, the key and what is wrong.
    """
    if not given:
        raise ValueError("`datasets` is empty; name a `path` in each of its entries, or give `dataset_path`")
    entries = [_read_entry(f"`datasets`, entry {number}", values, defaults) for number, values in enumerate(given, 1)]
    names = [entry.name for entry in entries]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"`datasets`: two entries are called {twice!r}; give each a `name` of its own")
    return entries


def say_idle_evaluation(entries: Sequence[DatasetEntry], config: TrainingArguments, **settings: Any) -> None:
    """
    Say which settings of the evaluation do nothing, since another one is missing.

    Args:
        entries (`Sequence[DatasetEntry]`): of the recipe.
        config (`TrainingArguments`): says whether there is an evaluation.
        **settings: others of the recipe that need an `eval_split`; None where they are not set.
    """
    split = next((entry.eval_split for entry in entries if entry.eval_split is not None), None)
    evaluates = getattr(config, "eval_strategy", "no") != "no" or getattr(config, "eval_on_start", False)
    if split is not None and not evaluates:
        say_idle("eval_split", split, "`eval_strategy` is `no`")
    settings["max_eval_samples"] = next((n for n in (entry.max_eval_samples for entry in entries) if n), None)
    for name, value in settings.items():
        if split is None and value is not None:
            say_idle(name, value, "`eval_split` is missing")


def require_own_split(entry: DatasetEntry) -> None:
    """Raise `DataError` where the rows to evaluate on would be those to train on: a file with one split, or none."""
    if entry.eval_split == entry.train_split or not Path(entry.path).is_file():
        return
    source = find_source(entry.path, entry.format, entry.subset, entry.objects)
    known = source.splits()
    if len(known) == 1 and (source.format == "json" or entry.eval_split not in known):
        raise DataError(
            f"{entry.path}: all its rows are of one split, and `eval_split` {entry.eval_split!r} would be the rows "
            "that are trained on; give each row its `split`, or leave `eval_split` out (null in an entry of "
            "`datasets`); `eval_dataset_path` names another file"
        )


def _read_entry(where: str, values: Any, defaults: Mapping[str, Any]) -> DatasetEntry:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be a mapping with a `path`, got {values!r}")
    known = [item.name for item in fields(DatasetEntry)]
    unknown = next((key for key in values if key not in known), None)
    if unknown is not None:
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(known)}"
        raise ValueError(f"{where}: unknown key `{unknown}`; {hint}")
    if not values.get("path"):
        raise ValueError(f"{where}: `path` is missing; name a folder or a file")
    for key, value in values.items():
        kinds = _KINDS.get(key, (str,))
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"{where}: `{key}` must be {_KIND_NAMES[kinds]}, got {value!r}")
        if key in CHOICES and value is not None and value not in CHOICES[key]:
            raise ValueError(f"{where}: `{key}` must be one of {', '.join(CHOICES[key])}, got {value!r}")
        if key in ("weight", "name", "objects", "train_split") and value is None:
            raise ValueError(f"{where}: `{key}` is empty; give it a value, or leave the key out")
    # A split of None is a choice: this dataset has no part in the evaluation.
    entry = DatasetEntry(**{**defaults, **values})
    if not (entry.weight > 0 and math.isfinite(entry.weight)):
        raise ValueError(
            f"{where}: `weight` must be above 0, got {entry.weight}; leave out a dataset that is not drawn"
        )
    for key in ("max_train_samples", "max_eval_samples"):
        if getattr(entry, key) is not None and getattr(entry, key) < 1:
            raise ValueError(f"{where}: `{key}` must be at least 1, got {getattr(entry, key)}")
    name = entry.name or Path(entry.path).name.removesuffix(".jsonl").removesuffix(".json")
    if "/" in name:
        raise ValueError(f"{where}: `name` {name!r} holds a slash, which logs put behind it; choose another")
    return replace(entry, name=name)
