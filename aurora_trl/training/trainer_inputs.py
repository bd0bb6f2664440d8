"""What a trainer is given, as TRL's users give it: names in place of models, no processor, datasets by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from ..data.hints import HINTS, UNMARKED, is_marked
from ..data.schema import require_kinds
from ..errors import DataError
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from .lora import unwrap_aurora

logger = get_logger(__name__)


def load_model(model: Any, init_kwargs: dict[str, Any] | None, quantization_config: Any) -> Any:
    """
    The model that a trainer was given, loaded where it was given by name.

    Args:
        model (`str`, `AuroraModel` or `PeftModel`): or the path of a checkpoint.
        init_kwargs (`dict`, *optional*): the config's `model_init_kwargs`, for `from_pretrained`.
        quantization_config (`QuantizationConfigMixin`, *optional*): for `from_pretrained`, too.

    Raises:
        `ValueError`: where settings for loading come with a model that is loaded, or need a package that is not
            installed, or the model is another kind's.
    """
    settings = dict(init_kwargs or {})
    if quantization_config is not None:
        settings["quantization_config"] = quantization_config
    _require_quantizer(settings.get("quantization_config"))
    attention = str(settings.get("attn_implementation", ""))
    if attention.startswith("flash_attention") and not is_flash_attn_2_available():
        raise ValueError(
            f"`attn_implementation: {attention}` needs the package flash-attn and a GPU: install it, or leave it out"
        )
    elsewhere = next((name for name in ("revision", "subfolder") if settings.get(name)), None)
    if elsewhere is not None:
        raise ValueError(
            f"`model_init_kwargs: {elsewhere}` is refused: the processor would be another's than the weights; "
            "download what it names, and give the folder"
        )
    if isinstance(model, str | Path):
        try:
            return AuroraModel.from_pretrained(str(model), **settings)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ValueError(f"`model_init_kwargs`: {error}") from error
    if settings:
        name = next(iter(settings))
        raise ValueError(f"`{name}` is for loading, and the model is loaded: give its name, or load it with `{name}`")
    if not isinstance(unwrap_aurora(model), AuroraModel):
        raise ValueError(f"the trainer needs an AuroraModel, got {type(unwrap_aurora(model)).__name__}")
    return model


def _require_quantizer(quantization_config: Any) -> None:
    """Raise `ValueError` where weights are to be loaded in 4 or 8 bits, and what does so is not installed."""
    is_mapping = isinstance(quantization_config, dict)
    given = quantization_config.get if is_mapping else partial(getattr, quantization_config)
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if given(name, None)), None)
    if bits is not None and not is_bitsandbytes_available():
        raise ValueError(f"`{bits}` needs the package bitsandbytes: `pip install bitsandbytes`, or leave it out")


def load_processor(processing_class: Any, model: Any) -> AuroraProcessor:
    """The processor that a trainer was given, which must be its model's, or that one, from where that was loaded."""
    if processing_class is None:
        return AuroraProcessor.from_pretrained(unwrap_aurora(model).name_or_path)
    if not isinstance(processing_class, AuroraProcessor):
        raise ValueError(
            f"`processing_class` is a {type(processing_class).__name__}; give the checkpoint's `AuroraProcessor`, or "
            "leave it out"
        )
    processing_class.require_fit(unwrap_aurora(model))
    return processing_class


def load_teacher(teacher: Any, args: Any, model: Any) -> AuroraModel | None:
    """
    The teacher that a trainer was given, or that its config names, loaded where it is a name.

    Args:
        teacher (`AuroraModel` or `str`, *optional*): or the path of a checkpoint.
        args (`AuroraSFTConfig`): has a `teacher_model_name_or_path`.
        model (`AuroraModel` or `PeftModel`): the student.

    Raises:
        `ValueError`: where it is the student itself, or no AuroraModel.
    """
    teacher = args.teacher_model_name_or_path if teacher is None else teacher
    if teacher is None:
        return None
    if isinstance(teacher, str | Path):
        return AuroraModel.from_pretrained(str(teacher))
    if not isinstance(unwrap_aurora(teacher), AuroraModel):
        raise ValueError(f"`teacher` is a {type(teacher).__name__}; give an AuroraModel, or where it is")
    if unwrap_aurora(teacher) is unwrap_aurora(model):
        raise ValueError("`teacher` is the model that is trained, which it would freeze: load it once more")
    return teacher


def require_in_optimizer(model: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """
    Look whether an optimizer that a trainer was given has what is to be trained: it may have been made before an
    adapter, or before parts that the phase adds, or of another model.

    Args:
        model (`AuroraModel` or `PeftModel`): as it is trained.
        optimizer (`Optimizer`, *optional*): nothing is looked at where there is none.

    Raises:
        `ValueError`: where it has none of it. Where it has some, the log says what is left out.
    """
    if optimizer is None:
        return
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    left_out = [name for name, weight in trained.items() if id(weight) not in held]
    if not left_out:
        return
    what = f"`optimizers`: the optimizer has {{}} of what is to be trained ({left_out[0]}, …): "
    if len(left_out) == len(trained):
        raise ValueError(
            what.format("nothing") + "it is of another model, or of this one before it got an adapter; give "
            "`optimizer_cls_and_kwargs`, or make it of `trainer.model` and set it as `trainer.optimizer`"
        )
    logger.warning(what.format(f"not all, {len(left_out)} weights stay as they are,"))


def require_rows(train_dataset: Any, eval_dataset: Any, *, may_stream: bool = False) -> None:
    """
    Raise `ValueError` for what is no dataset of rows, `DataError` for a column of another kind than rows have;
    `may_stream`: those to train on may be a stream, whose rows are looked at as they come.
    """
    if train_dataset is None:
        raise ValueError("`train_dataset` is missing; `aurora_trl.data` loads one")
    for name, dataset in (
        ("train_dataset", train_dataset),
        *(("eval_dataset", each) for each in listed(eval_dataset)),
    ):
        streams = may_stream and name == "train_dataset" and isinstance(dataset, IterableDataset)
        if not isinstance(dataset, Dataset) and not streams:
            raise ValueError(
                f"`{name}` is a {type(dataset).__name__}; give a `datasets.Dataset` of rows: media are read as they "
                "are needed, so that nothing has to be streamed"
            )
        if not streams and not len(dataset):
            raise ValueError(f"`{name}` has no rows")
        if not streams:
            require_kinds(dataset, name)


def require_marked(dataset: Dataset) -> None:
    """Raise `DataError` for the first row whose object nobody has drawn or marked in any frame."""
    columns = [name for name in ("id", "is_null", "masks", *HINTS) if name in dataset.column_names]
    row = next((row for row in dataset.select_columns(columns) if not is_marked(row)), None)
    if row is not None:
        raise DataError(f"row {row['id']!r}: {UNMARKED}")


def listed(datasets: Any) -> list[Dataset]:
    """A dataset, several by name, or none, as a list."""
    if datasets is None:
        return []
    return list(datasets.values()) if isinstance(datasets, dict) else [datasets]


def map_datasets(datasets: Any, change: Callable[[Dataset], Dataset]) -> Any:
    """The dataset, or each of several by name, changed."""
    if datasets is None:
        return None
    return {k: change(v) for k, v in datasets.items()} if isinstance(datasets, dict) else change(datasets)


def refuse(**given: tuple[Any, str]) -> None:
    """Raise `ValueError` with the reason for the first argument that was given, by name: `(value, reason)`."""
    for name, (value, reason) in given.items():
        if value is not None:
            raise ValueError(f"`{name}` does not go with clips: {reason}")
