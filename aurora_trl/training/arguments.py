"""Command line and YAML of a recipe: which model, which data, and how its errors read."""

import json
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig, TrlParser

from ..data.formats.expressions import OBJECTS
from ..data.formats.registry import FORMATS
from ..data.mixture import Source, mix_datasets, prefix_ids
from ..data.schema import RENAMED, with_current_names
from ..data.validation import drop_bad_rows, find_bad_rows, require_valid
from ..disk import written_whole
from ..errors import DataError
from ..foreign_warnings import leave_out_foreign_warnings
from ..locks import release_all
from ..models.checkpoints.hub import RECIPE_FILE
from ..shell_paths import expand_home, expand_paths
from ..text_files import read_yaml
from .dataset_entries import ALL_SUBSETS, DatasetEntry, read_entries, require_own_split, say_idle_evaluation
from .field_types import require_types
from .flags import did_you_mean, given_flags, require_known_flags
from .options import check_options, say_idle

ON_BAD_SAMPLE = ("error", "skip")
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "dataset_format": (None, *FORMATS),
    "dataset_subset": (None, *ALL_SUBSETS),
    "dataset_objects": OBJECTS,
    "on_bad_sample": ON_BAD_SAMPLE,
}


# The parameter groups of `AuroraModel.trainable_modules()`, by the flag that freezes them.
FREEZE_FLAGS = (
    *("vision_tower", "audio_tower", "connector", "language_model"),
    *("seg_projector", "mask_encoder", "mask_decoder"),
)


@dataclass
class RecipeArguments:
    """
    What a recipe works on.

    Args:
        model_name_or_path (`str`): checkpoint that the phase starts from.
        dataset_path (`str`): a dataset's folder or file; for `parquet` also a Hub repository.
        dataset_format (`str`, *optional*): one of `aurora_trl.data.formats.registry.FORMATS`; by default what the
            files show, and an error where they could be two.
        dataset_subset (`str`, *optional*): of AVSBench `s4`, `ms3` or `avss`, of RefCOCO whose splits, of OmniAVS a
            kind of references.
        dataset_objects (`str`, *optional*, defaults to `"together"`): where a reference of MeViS, ReVOS or OmniAVS is
            about several objects, `"together"` draws them as one mask, `"apart"` each with a `[SEG]` of its own.
        datasets (`list[dict]`, *optional*): several datasets in place of `dataset_path`, each with its `path` and
            `weight`, see [`~aurora_trl.training.dataset_entries.DatasetEntry`]. Rows are drawn by weight, in every
            part of an epoch, which has as many rows as all datasets together. The log has losses, IoU and rewards of
            each, and an evaluation scores each.
        on_bad_sample (`str`, *optional*, defaults to `"error"`): `"error"` stops before training where headers show
            that a row can not be read; `"skip"` reads every file first, leaves out the rows that can not be read, and
            says which.
        train_split (`str`, *optional*, defaults to `"train"`): split to train on.
        eval_split (`str`, *optional*): split to evaluate on during training; none by default.
        eval_dataset_path (`str`, *optional*): where the evaluation split is, if not in `dataset_path`. Its format is
            what its files show; `dataset_format`, `dataset_subset` and `dataset_objects` hold for it where they fit.
        max_train_samples, max_eval_samples (`int`, *optional*): use the first rows of a seeded shuffle only.
        repeat_null_rows (`int`, *optional*, defaults to 1): how often a reference that matches nothing comes in an
            epoch of training. They are rare (4 % in Ref-AVS), and few of them are outvoted: a model that may answer
            that nothing matches needs more to learn when.
    """

    model_name_or_path: str = field(metadata={"help": "Checkpoint that the phase starts from."})
    dataset_path: str | None = field(
        default=None, metadata={"help": "A dataset's folder or file; with the format `parquet` also a Hub repository."}
    )
    dataset_format: str | None = field(
        default=None, metadata={"help": "Its format, where its files do not show it.", "choices": list(FORMATS)}
    )
    dataset_subset: str | None = field(
        default=None, metadata={"help": "Subset of a dataset that has any.", "choices": list(ALL_SUBSETS)}
    )
    dataset_objects: str = field(
        default="together", metadata={"help": "Several objects of a reference.", "choices": list(OBJECTS)}
    )
    datasets: list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "Several datasets with weights, in a YAML."}
    )
    on_bad_sample: str = field(
        default="error",
        metadata={"help": "What to do about rows that can not be read.", "choices": list(ON_BAD_SAMPLE)},
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on during training."})
    eval_dataset_path: str | None = field(default=None, metadata={"help": "Where the evaluation split is."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use this many rows of a seeded shuffle."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many rows."})
    repeat_null_rows: int = field(
        default=1, metadata={"help": "How often a row that matches nothing comes in an epoch of training."}
    )

    def __post_init__(self) -> None:
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if self.repeat_null_rows < 1:
            raise ValueError(f"`repeat_null_rows` must be at least 1, got {self.repeat_null_rows}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                shown = ", ".join(choice for choice in known if choice)
                raise ValueError(f"`{name}` must be one of {shown}, got {getattr(self, name)!r}")
        self.entries()  # where something is wrong with them, it is said at once

    def entries(self) -> list[DatasetEntry]:
        """The datasets that are named, with all that is said about them."""
        shared = {
            name: getattr(self, name)
            for name in ("train_split", "eval_split", "max_train_samples", "max_eval_samples")
        }
        if self.datasets is None:
            if self.dataset_path is None:
                raise ValueError("`dataset_path` is missing; name a folder or a file, or several in `datasets`")
            named = {"format": self.dataset_format, "subset": self.dataset_subset, "objects": self.dataset_objects}
            return [DatasetEntry(self.dataset_path, **named, **shared)]  # type: ignore[arg-type]
        for name in ("dataset_path", "dataset_format", "dataset_subset", "eval_dataset_path"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` and `datasets` are both there; say it in an entry of `datasets` alone")
        return read_entries(self.datasets, {**shared, "objects": self.dataset_objects})

    def load_train(self, config: TrainingArguments) -> Dataset:
        """
        The rows to train on, checked.

        Args:
            config (`TrainingArguments`): its `seed` draws the rows; with `on_bad_sample: skip`, `skipped_train.jsonl`
                in its `output_dir` names those that were left out, or `skipped_train_NAME.jsonl` of one of several.

        Raises:
            `DataError`: where there are none, or one that can not be used and is not to be skipped; where
                `repeat_null_rows` is set and none matches nothing.
        """
        if self.datasets is None:
            return self._load_train(self.entries()[0], config, "skipped_train.jsonl")
        sources = []
        for entry in self.entries():
            rows = self._load_train(entry, config, f"skipped_train_{entry.name}.jsonl")
            sources.append(Source(entry.name, entry.weight, rows))
        return mix_datasets(sources)

    def _load_train(self, entry: DatasetEntry, config: TrainingArguments, record: str) -> Dataset:
        rows = self._load(entry, entry.train_split, entry.max_train_samples, config, record)
        if self.repeat_null_rows == 1:
            return rows
        null_rows = rows.select([i for i, is_null in enumerate(rows["is_null"]) if is_null])
        if not len(null_rows):
            raise DataError(
                f"{entry.path}: `repeat_null_rows` is {self.repeat_null_rows}, and no row of "
                f"{entry.train_split!r} has a reference that matches nothing; leave it out"
            )
        return concatenate_datasets([rows, *[null_rows] * (self.repeat_null_rows - 1)])

    def load_eval(self, config: TrainingArguments) -> Dataset | dict[str, Dataset] | None:
        """
        The rows to evaluate on during training, as `load_train` has them, by the dataset's name where there are
        several; None where `eval_split` names none.
        """
        entries = self.entries()
        say_idle_evaluation(entries, config, eval_dataset_path=self.eval_dataset_path)
        if self.datasets is not None:
            splits = {}
            for entry in entries:
                if entry.eval_split is not None:
                    require_own_split(entry)
                    record = f"skipped_eval_{entry.name}.jsonl"
                    rows = self._load(entry, entry.eval_split, entry.max_eval_samples, config, record)
                    splits[entry.name] = prefix_ids(rows, entry.name)
            return splits or None
        if self.eval_split is None:
            return None
        entry = entries[0]
        if self.eval_dataset_path is not None and self.eval_dataset_path != entry.path:
            entry = entry.beside(self.eval_dataset_path)
        else:
            require_own_split(entry)
        return self._load(entry, self.eval_split, self.max_eval_samples, config, "skipped_eval.jsonl")

    def _load(
        self, entry: DatasetEntry, split: str, limit: int | None, config: TrainingArguments, record: str
    ) -> Dataset:
        rows = load_rows(
            entry.path,
            split,
            limit,
            config.seed,
            dataset_format=entry.format,
            subset=entry.subset,
            objects=entry.objects,
        )
        if self.on_bad_sample == "error":
            require_valid(rows)
            return rows
        # One process looks, the others hear of it: all train on the same rows.
        bad: list[Any] = [None]
        if config.process_index == 0:
            bad = [find_bad_rows(rows)]
        if config.world_size > 1:
            broadcast_object_list(bad)
        return drop_bad_rows(rows, bad[0], f"{config.output_dir}/{record}" if config.process_index == 0 else None)


@dataclass
class LoraArguments:
    """
    LoRA on the language model's attention; `[SEG]`'s rows, the projector and the mask decoder train in full.

    Args:
        use_lora (`bool`, *optional*, defaults to `False`): train an adapter instead of the whole language model.
        lora_r (`int`, *optional*, defaults to 8), lora_alpha (`int`, *optional*, defaults to 16) and
        lora_dropout (`float`, *optional*, defaults to 0.05): the authors' values.
    """

    use_lora: bool = field(default=False, metadata={"help": "Train a LoRA adapter of the language model."})
    lora_r: int = field(default=8, metadata={"help": "Rank."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapter's input."})

    def __post_init__(self) -> None:
        if self.lora_r < 1:
            raise ValueError(f"`lora_r` must be at least 1, got {self.lora_r}")
        if self.lora_alpha < 1:
            raise ValueError(f"`lora_alpha` must be at least 1, got {self.lora_alpha}: it scales the adapter")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must be in [0, 1), got {self.lora_dropout}")

    def say_idle(self, given: Collection[str]) -> None:
        """Say which of the settings that a recipe names do nothing, where it does not say whether LoRA is on."""
        for name in (item.name for item in fields(self) if item.name in given):
            say_idle(name, getattr(self, name), "`use_lora` is off, and all weights train that are not frozen")


def fail(message: object, *, after_progress: bool = False) -> NoReturn:
    """One line on stderr, exit code 1; `after_progress`: below a bar that is not through."""
    release_all()
    text = str(message)
    if text.startswith("Caught "):  # in a process that loads: torch puts its traceback into the message
        text = text.strip().splitlines()[-1].partition("Error: ")[2] or text
    text = " ".join(text.split())
    sys.stderr.write("\n" * after_progress + f"error: {text}\n")
    raise SystemExit(1)


def parse_recipe(config_classes: tuple[type, ...], argv: list[str] | None = None) -> tuple[Any, ...]:
    """
    Read `--config FILE.yaml` and the flags that override it.

    Args:
        config_classes (`tuple[type]`): dataclasses, each key of the YAML belongs to one.
        argv (`list[str]`, *optional*): arguments; those of the process by default.

    Returns:
        `tuple`: one instance per class.

    Raises:
        `SystemExit`: with code 1 and one line that names the file and the key.
    """
    leave_out_foreign_warnings()
    argv = [expand_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    config = argv[argv.index("--config") + 1] if "--config" in argv[:-1] else None
    content = {} if config is None else _read_recipe(Path(config), config_classes)
    try:
        require_types(with_current_names(content, str(config)), config_classes)
        with _with_current_keys(argv, config, content) as current:
            # A part of a name would be taken for the whole, and be in no recipe that is saved.
            parser = TrlParser(config_classes, allow_abbrev=False)
            require_known_flags(argv, parser)
            parser.error = _raise  # type: ignore[method-assign]  # argparse lists all flags first, 200 of them
            configs = parser.parse_args_and_config(args=current, fail_with_unknown_args=True)
        names = {entry.name for item in configs for entry in fields(item)}
        given = {*given_flags(argv, names), *with_current_names(content, str(config))}
        for item in configs:
            if isinstance(item, SFTConfig | GRPOConfig):
                check_options(item, "sft" if isinstance(item, SFTConfig) else "grpo", given=given)
            if isinstance(item, LoraArguments) and "use_lora" not in given:
                item.say_idle(given)
        return configs
    except (ValueError, TypeError, ArithmeticError, LookupError, ImportError, OSError) as error:
        fail(f"{config or 'command line'}: {error}")


def _raise(message: str) -> NoReturn:
    raise ValueError(f"{message}; --help lists what there is")


@contextmanager
def _with_current_keys(argv: list[str], config: str | None, content: dict[str, Any]) -> Iterator[list[str]]:
    """The arguments for TRL's parser, which reads the YAML itself, with a copy of one with other keys or paths."""
    if config is None or (not RENAMED.keys() & content.keys() and content == read_yaml(config)):
        yield argv
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, Path(str(config)).name)
        copy.write_text(yaml.safe_dump(with_current_names(content, str(config)), sort_keys=False))
        yield [str(copy) if word == config else word for word in argv]


def _read_recipe(path: Path, config_classes: tuple[type, ...]) -> dict[str, Any]:
    """What a recipe's YAML holds; exit with the line that names what is wrong with it."""
    if not path.is_file():
        fail(f"{path}: no such recipe")
    try:
        content = expand_paths(read_yaml(path), path)
    except DataError as error:
        fail(error)
    for name in ("model_name_or_path", "dataset_path"):
        if name in content and not content[name]:
            fail(f"{path}: `{name}` is empty; name a folder, or a repository on the Hub")
    known = {name for cls in config_classes for name in (item.name for item in fields(cls))}
    unknown = sorted(set(with_current_names(content, path)) - known)
    if unknown:
        fail(f"{path}: unknown key `{unknown[0]}`{did_you_mean(unknown[0], known)}")
    return content


def recipe_settings(configs: tuple[Any, ...], argv: list[str] | None = None) -> dict[str, Any]:
    """
    What a recipe says: the YAML with the flags that override it; no tokens.

    Args:
        configs (`tuple`): what `parse_recipe` returned.
        argv (`list[str]`, *optional*): the arguments that it parsed; those of the process by default.

    Returns:
        `dict`: by key, as a YAML holds it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    settings = {}
    if "--config" in argv[:-1]:
        config = argv[argv.index("--config") + 1]
        settings = with_current_names(expand_paths(read_yaml(config), config), config)
    values = {name: getattr(item, name) for item in configs for name in (entry.name for entry in fields(item))}
    for flag in given_flags(argv, values):
        if flag in values:
            # Paths, enumerations and the like as the text that a YAML would hold.
            plain = json.dumps(values[flag], default=lambda value: getattr(value, "value", str(value)))
            settings[flag] = json.loads(plain)
    return {name: value for name, value in settings.items() if not name.endswith("_token")}


def save_recipe(configs: tuple[Any, ...], argv: list[str] | None = None) -> None:
    """Write `recipe.yaml` to the output folder, which runs the phase again; of what [`recipe_settings`] takes."""
    training = next(item for item in configs if hasattr(item, "output_dir"))
    if training.should_save:
        with written_whole(Path(training.output_dir, RECIPE_FILE)) as file:
            yaml.safe_dump(recipe_settings(configs, argv), file, sort_keys=False)


def load_rows(
    path: str,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    dataset_format: str | None = None,
    subset: str | None = None,
    objects: str = "together",
) -> Dataset:
    """
    The rows of a dataset of any format.

    Args:
        path (`str`): a folder or a file.
        split (`str`, *optional*): the split's name.
        limit (`int`, *optional*): keep this many, drawn by seed.
        seed (`int`, *optional*, defaults to 0): of the draw.
        dataset_format, subset, objects (`str`, *optional*): see [`~aurora_trl.data.find_source`].

    Returns:
        `Dataset`: with the columns of `aurora_trl.data.schema`.

    Raises:
        `DataError`: where there is no such dataset, or its format can not be told.
    """
    from ..data import find_source

    dataset = find_source(path, dataset_format, subset, objects).load(split)
    if limit is not None and limit < len(dataset):
        dataset = dataset.shuffle(seed=seed).select(range(limit))
    return dataset
