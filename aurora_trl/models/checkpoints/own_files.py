"""The files of our own checkpoints: found here or on the Hub, and seen to be whole before any weight is loaded."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_utils import set_zero3_state
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ...errors import DataError
from ...text_files import read_json

CONFIG_FILE = "config.json"
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "proxies", "subfolder")
REPOSITORY_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
WHOLE_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
# A pickle can run code when it is read: none of these is.
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_PROBE_SECONDS = 10.0
_SHOWN_KEYS = 5
_SAMPLE = 16  # numbers of a weight that tell it from another
_AGAIN = "save it again with `save_pretrained`, or build it from its parts"

Header = dict[str, tuple[tuple[int, ...], str]]  # name -> shape, type as safetensors writes it


def find_file(name: str, file: str, **hub_kwargs: Any) -> str | None:
    """
    The path of a checkpoint's file, downloaded where need be.

    Args:
        name (`str`): a folder, or the name of a Hub repository.
        file (`str`): the file's name in it.
        **hub_kwargs: of `HUB_ARGUMENTS`.

    Returns:
        `str` or `None`: None where the checkpoint has no such file.

    Raises:
        `DataError`: where there is neither a folder nor a repository of that name.
    """
    if name and Path(name).is_dir():
        path = Path(name, hub_kwargs.get("subfolder") or "", file)
        return str(path) if path.is_file() else None
    require_repository(name, **hub_kwargs)
    return cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **hub_kwargs,
    )


def own_folder(name: str, **hub_kwargs: Any) -> str:
    """
    What alone names a checkpoint that `revision` or `subfolder` helped to name: its folder on this machine. What is
    trained on it is to find it again, with its processor, and not what lies at the name.

    Args:
        name (`str`): folder or Hub repository.
        **hub_kwargs: of `HUB_ARGUMENTS`.

    Returns:
        `str`: the name itself where nothing else was said.
    """
    if hub_kwargs.get("revision") in (None, "main") and not hub_kwargs.get("subfolder"):
        return name
    if Path(name).is_dir() and not hub_kwargs.get("subfolder"):
        return name  # a folder has no revisions
    file = find_file(name, CONFIG_FILE, **hub_kwargs)
    return name if file is None else str(Path(file).parent)


def require_repository(name: str, **hub_kwargs: Any) -> None:
    """
    See to it that what is no folder here is a repository on the Hub, with a single question of ten seconds at most:
    the Hub's client asks for a mistyped folder over and over where there is no network.

    Raises:
        `DataError`: says that the folder is missing, what the Hub says, and which folder may have been meant.
    """
    if Path(name).exists() or REPOSITORY_ID.fullmatch(name) is None:
        raise DataError(f"{name or repr(name)}: no such folder, and no name of a Hub repository; {_look_again(name)}")
    known = {key: hub_kwargs[key] for key in ("cache_dir", "revision") if key in hub_kwargs}
    file = "/".join(part for part in (hub_kwargs.get("subfolder"), CONFIG_FILE) if part)
    if isinstance(try_to_load_from_cache(name, file, **known), str):
        return  # downloaded before, and to be had without a network
    if hub_kwargs.get("local_files_only") or constants.HF_HUB_OFFLINE:
        raise DataError(
            f"{name}: no such folder, and not downloaded from the Hub yet, which is not asked (offline mode); "
            f"{_look_again(name)}"
        )
    _ask_hub(name, hub_kwargs.get("revision"), hub_kwargs.get("token"))


@lru_cache
def _ask_hub(name: str, revision: str | None, token: str | None) -> None:
    """What is there is asked for once; what is not there raises, and is asked for again."""
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_FILE, revision=revision), token=token, timeout=_PROBE_SECONDS)
    except EntryNotFoundError:
        return  # a repository without a config is the next one's to judge
    except RevisionNotFoundError:
        raise DataError(f"{name}: the repository has no revision {revision!r}; check the name of the branch") from None
    except (RepositoryNotFoundError, HFValidationError) as error:
        kind = "gated" if "gated" in type(error).__name__.lower() else "unknown to it, or private"
        raise DataError(
            f"{name}: no such folder, and on the Hub the repository is {kind} (`hf auth login` shows what is yours); "
            f"{_look_again(name)}"
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise DataError(
            f"{name}: no such folder, and the Hub can not be asked for a repository of that name "
            f"({one_line(error)}); {_look_again(name)}"
        ) from None


def _look_again(name: str) -> str:
    """The way out of a name that leads nowhere: the folder beside it that is spelt like it, if there is one."""
    path = Path(name)
    if path.is_file():
        return "it is a file; name the folder that holds the checkpoint"
    try:
        folders = [entry.name for entry in path.parent.iterdir() if (entry / CONFIG_FILE).is_file()]
    except OSError:
        return "check the path"
    close = difflib.get_close_matches(path.name, folders, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the path"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error of another library as a part of one of our lines."""
    text = " ".join(str(error).split()) or "no reason given"
    text = text if len(text) <= limit else text[:limit] + "…"
    # These say what is wrong by themselves.
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def read_header(path: str | Path) -> Header:
    """
    Names, shapes and types of the weights in a safetensors file, read without the weights.

    Raises:
        `DataError`: where the file is cut short or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            return {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: {_what_is(path, error)}; download or copy it again") from None


def _what_is(path: str | Path, error: Exception) -> str:
    """What stands in the place of a safetensors file."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file, which `git lfs pull` gets"
    if start.startswith((b"\x80", b"PK\x03\x04")):
        return "a pickle, which could run code, in place of a safetensors file"
    return f"cut short, or no safetensors file ({one_line(error)})"


def find_weight_files(name: str, **hub_kwargs: Any) -> list[str]:
    """
    The safetensors of a whole model: one, or its shards.

    Raises:
        `DataError`: where there is none, the index is broken, or a shard is missing or lacks a promised weight; where
            there are both, and not of one model: transformers would take the single file, whichever is older.
    """
    index, single = (find_file(name, file, **hub_kwargs) for file in (SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME))
    if index is None:
        return [single] if single is not None else _no_weights(name, hub_kwargs)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index}: it has no `weight_map`, so it lists no shards; download or copy it again")
    shards = sorted({str(shard) for shard in weight_map.values()})
    found = {shard: find_file(name, shard, **hub_kwargs) if Path(shard).name == shard else None for shard in shards}
    files = {shard: file for shard, file in found.items() if file is not None}
    if single is not None and not files:
        return [single]  # `save_pretrained` takes the shards of an earlier save away, and leaves their index
    lost = next((shard for shard in shards if shard not in files), None)
    if lost is not None:
        raise DataError(f"{name}/{lost}: no such file; the checkpoint is not whole, download or copy it again")
    held = {shard: read_header(file) for shard, file in files.items()}
    for key, shard in weight_map.items():
        if key not in held[shard]:
            raise DataError(f"{files[shard]}: the index promises {key}, which is not in it; download the shard again")
    if single is not None and dict(weight_samples([single])) != dict(weight_samples(files.values())):
        raise DataError(
            f"{name}: {SAFE_WEIGHTS_NAME} and the shards of {SAFE_WEIGHTS_INDEX_NAME} are two models; take the older "
            "of the two away"
        )
    return list(files.values())


def weight_samples(files: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Name and shape, and the first numbers in bf16, of every weight in safetensors files."""
    for path in files:
        read_header(path)  # says what is wrong with a file that is none
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                part = file.get_slice(key)
                shape = part.get_shape()
                values = part[:1] if len(shape) > 1 else part[:_SAMPLE] if shape else file.get_tensor(key)
                sample = values.flatten()[:_SAMPLE].to(torch.bfloat16).contiguous()
                yield f"{key} {shape}", sample.view(torch.uint8).numpy().tobytes()


def _no_weights(name: str, hub_kwargs: Mapping[str, Any]) -> NoReturn:
    pickled = next((file for file in PICKLED_WEIGHTS if find_file(name, file, **hub_kwargs)), None)
    if pickled is not None:
        raise DataError(
            f"{name}: holds {pickled}, a pickle, which could run code, and no {SAFE_WEIGHTS_NAME}; {_AGAIN}"
        )
    raise DataError(f"{name}: {SAFE_WEIGHTS_NAME} is missing; the checkpoint is not whole: copy or download it again")


def check_checkpoint(
    model_class: Any, name: str, *model_args: Any, config: PretrainedConfig | None = None, **hub_kwargs: Any
) -> None:
    """
    See to it that a checkpoint's config makes a model, and that the files hold its weights, each in its shape. Only
    headers are read, and the model is built without memory: 0.2 s for 7 billion weights.

    Args:
        model_class (`type`): of the model that will be loaded.
        name (`str`): folder or Hub repository.
        *model_args: of the model's constructor, after its config.
        config (`PretrainedConfig`, *optional*): in place of the checkpoint's own.
        **hub_kwargs: of `HUB_ARGUMENTS`.

    Raises:
        `DataError`: names the file, and the keys that are missing, unexpected, or of another shape.
    """
    file = find_file(name, CONFIG_FILE, **hub_kwargs)
    if file is None:
        raise DataError(f"{name}: {CONFIG_FILE} is missing; name a phase's output folder, or copy it again")
    own = read_own_config(model_class.config_class, file)
    config = own if config is None else config
    generation = find_file(name, GENERATION_CONFIG_NAME, **hub_kwargs)
    if generation is not None:
        read_json(generation)  # transformers passes over one that it can not read
    try:
        with torch.device("meta"), set_zero3_state():
            model: nn.Module = model_class(config, *model_args)
    except Exception as error:  # whatever a wrong value leads to, in whichever part
        raise _no_model(file, error) from error
    if getattr(config, "quantization_config", None):
        return  # its weights are stored in other shapes, which its quantiser knows
    header: Header = {}
    for path in find_weight_files(name, **hub_kwargs):
        header.update(read_header(path))
    _compare(name, header, model)


def read_own_config(config_class: Any, file: str) -> PretrainedConfig:
    """
    The config of a checkpoint of ours.

    Args:
        config_class (`type`): of the composite model.
        file (`str`): its `config.json`.

    Raises:
        `DataError`: where it is broken, another model's, or holds what makes no model.
    """
    content, wanted = read_json(file), config_class.model_type
    if content.get("model_type") != wanted:
        raise DataError(
            f"{file}: its `model_type` is {content.get('model_type')!r}, not {wanted!r}; "
            "`aurora init` builds a model from a published policy"
        )
    try:
        return config_class.from_dict(content)
    except Exception as error:  # whatever a wrong value leads to, in whichever part
        raise _no_model(file, error) from error


def _no_model(file: str, error: Exception) -> DataError:
    return DataError(f"{file}: no model can be built from it ({one_line(error)}); restore the file that was saved")


def _compare(name: str, header: Header, model: nn.Module) -> None:
    expected = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    wrong = []
    for key, (shape, dtype) in header.items():
        wanted = expected.get(key)
        if wanted is not None and (shape != tuple(wanted.shape) or wanted.is_floating_point() != _is_float(dtype)):
            wrong.append(f"{key} {shape} {dtype} in place of {tuple(wanted.shape)}")
    require_keys(
        name,
        mismatched_keys=wrong,
        missing_keys=[key for key in expected if key not in header and key not in tied],
        unexpected_keys=[key for key in header if key not in expected],
    )


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("F", "BF"))


def require_keys(name: str, **keys_by_kind: Collection[Any]) -> None:
    """
    Raise where a checkpoint and its model do not hold the same weights.

    Args:
        name (`str`): the checkpoint's.
        **keys_by_kind: such as `missing_keys`; empty where nothing is wrong.

    Raises:
        `DataError`: names the checkpoint and the first of the keys.
    """
    for kind, found in keys_by_kind.items():
        keys = sorted(map(str, found))
        if keys:
            shown = ", ".join(keys[:_SHOWN_KEYS])
            more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
            raise DataError(
                f"{name}: not a whole AuroraModel checkpoint, {kind.replace('_', ' ')}: {shown}{more}; {_AGAIN}"
            )


def require_finite(name: str, model: nn.Module) -> None:
    """
    See to it that a training which diverged is not continued, scored or asked: its weights are no numbers any more.
    The small ones are looked at, which are spread over the model: the projector, norms, biases, the halves of LoRA.

    Args:
        name (`str`): the checkpoint's.
        model (`nn.Module`): just loaded; what it holds elsewhere, or in parts, is left out.

    Raises:
        `DataError`: names the checkpoint and the weight.
    """
    for key, value in model.named_parameters():
        is_small = value.dim() < 2 or "seg_projector" in key or "lora_" in key
        if is_small and value.device.type != "meta" and not bool(value.isfinite().all()):
            raise DataError(
                f"{name}: {key} holds values that are no numbers: the training that left it diverged, or the file was "
                "damaged; start from an earlier checkpoint, with a lower learning rate"
            )
