"""The checkpoints in a run's folder: which are complete, and what makes one so."""

import json
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..disk import digest_of_ends, written_whole
from ..errors import DataError
from ..text_files import parse_json

# Written last: what a checkpoint holds. A copy that was cut short does not agree with it.
MANIFEST = "complete.json"
# Where a checkpoint is written before it is complete. The Hub gets nothing whose name begins so.
UNFINISHED = "_unfinished"
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_STATE = "trainer_state.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "latest")
_OPTIMIZER = ("optimizer.pt", "latest")  # the latter is DeepSpeed's, whose folder holds weights and optimizer


def step_of(folder: Path) -> int:
    """The optimizer step after which a checkpoint was saved; -1 for what has another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """All that is named like a checkpoint in a folder, whatever it is; the newest first."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if step_of(path) >= 0] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def list_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files in a folder, by their path in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def write_manifest(
    folder: Path, files: dict[str, int], *, weights_only: bool, data: dict[str, int | str] | None = None
) -> None:
    """
    Say that a folder is a complete checkpoint.

    Args:
        folder (`Path`): the checkpoint, of which nothing is written afterwards.
        files (`dict[str, int]`): what all processes have written, with sizes.
        weights_only (`bool`): whether training can not be continued from it.
        data (`dict`, *optional*): what its place in the data hangs on, see
            [`~aurora_trl.training.same_run.data_of`].
    """
    files = {name: size for name, size in sorted(files.items()) if name != MANIFEST}
    seen = {name: folder / name for name in files if (folder / name).is_file()}
    digests = {name: digest_of_ends(path) for name, path in seen.items()}
    with written_whole(folder / MANIFEST) as file:
        content = {"weights_only": weights_only, "data": data or {}, "files": files, "digests": digests}
        json.dump(content, file, indent=2)


def find_fault(folder: Path) -> str | None:
    """
    Why training can not be continued from a folder.

    Its files are compared with its manifest. One without (of another library, or an earlier version) must hold what
    the Trainer writes. In either case archives and tables of weights must reach to their files' ends.

    Args:
        folder (`Path`): named like a checkpoint.

    Returns:
        `str` or `None`: None where it is complete.
    """
    if not folder.is_dir():
        return "it is no folder"
    try:
        files = list_files(folder)
        if not files:
            return "it is empty"
        missing = _against_manifest(folder, files) if MANIFEST in files else _against_the_trainer(folder, files)
        return missing or next((fault for name in sorted(files) if (fault := _file_fault(folder, name))), None)
    except OSError as error:
        return f"it can not be read: {error}"


def _against_manifest(folder: Path, files: dict[str, int]) -> str | None:
    try:
        content = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        expected: dict[str, int] = dict(content["files"])
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is cut short"
    for name, size in expected.items():
        if name not in files:
            return f"{name} is missing"
        if files[name] != size:
            return f"{name} has {files[name]:,} of {size:,} bytes"
    for name, digest in content.get("digests", {}).items():
        if name in files and (fault := _file_fault(folder, name)) is not None:
            return fault
        if name in files and digest_of_ends(folder / name) != digest:
            return f"{name} is not what was written"
    return _WEIGHTS_ONLY if content.get("weights_only") else None


_WEIGHTS_ONLY = "it holds weights alone (`save_only_model`)"


def _against_the_trainer(folder: Path, files: dict[str, int]) -> str | None:
    if not any(name in files for name in _WEIGHTS):
        return f"{_WEIGHTS[0]} is missing"
    if "model.safetensors.index.json" in files:
        shard_map = (_read_json(folder / "model.safetensors.index.json") or {}).get("weight_map")
        shards = set(map(str, shard_map.values())) if isinstance(shard_map, dict) else {"the list of shards"}
        lost = sorted(shard for shard in shards if shard not in files)
        if lost:
            return f"{lost[0]} is missing"
    ranks = [name for name in files if re.fullmatch(r"rng_state(_\d+)?\.pth", name)]
    if _STATE in files and not ranks and not any(name in files for name in (*_OPTIMIZER, "scheduler.pt")):
        return _WEIGHTS_ONLY
    if not any(name in files for name in _OPTIMIZER):
        return f"{_OPTIMIZER[0]} is missing"
    wanted = ["rng_state.pth"] if len(ranks) <= 1 else [f"rng_state_{i}.pth" for i in range(len(ranks))]
    if "latest" in files:
        tag = (folder / "latest").read_text().strip()
        parts = Counter({f"{tag}/…_optim_states.pt": 0})
        for name in files:  # of each kind of part one from each process
            if name.startswith(f"{tag}/") and re.search(r"pp_rank_\d+_", name):
                parts[f"{tag}/…{name.partition('mp_rank')[2][3:]}"] += 1
        few = next((f"{kind} of {count} processes" for kind, count in parts.items() if count < len(ranks)), None)
        if few is not None:
            return f"{few}, of {len(ranks)}"
    else:
        wanted.append("scheduler.pt")
    return next((f"{name} is missing" for name in (_STATE, *wanted) if name not in files), None)


def _file_fault(folder: Path, name: str) -> str | None:
    """What can be seen to be wrong with a file from its ends."""
    path = folder / name
    if name == _STATE:
        state = _read_json(path)
        return None if state is not None and isinstance(state.get("global_step"), int) else f"{name} is cut short"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                return None
        except SafetensorError:
            return f"{name} is cut short, or no safetensors file"
    if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
        return f"{name} is cut short, or not what torch saves"
    return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def last_complete(output_dir: str | Path, args: TrainingArguments | None = None) -> str | None:
    """
    The newest checkpoint that is complete for all processes, which all come here. A line on stderr says which were
    passed over.

    Args:
        output_dir (`str` or `Path`): a run's folder.
        args (`TrainingArguments`, *optional*): of the run that goes on from it. Where it has no step left to take,
            weights alone are enough.

    Returns:
        `str` or `None`: None where there is none.

    Raises:
        `DataError`: where the run could not read its optimizer.
    """
    state = PartialState()
    faults = {path.name: find_fault(path) for path in find_checkpoints(output_dir)}
    if args is not None and not uses_deepspeed(args):  # DeepSpeed loads nothing without its own parts
        for name, fault in faults.items():
            if fault == _WEIGHTS_ONLY and has_all_steps(Path(output_dir, name), args):
                faults[name] = None
    of_all = gather_object([faults]) if state.num_processes > 1 else [faults]
    passed: list[str] = []
    last = None
    for name in sorted({name for one in of_all for name in one}, key=lambda name: -step_of(Path(name))):
        fault = next((one.get(name, "a process does not see it") for one in of_all if one.get(name, "")), None)
        if fault is None and all(name in one for one in of_all):
            last = name
            break
        passed.append(f"{name} ({fault or 'a process does not see it'})")
    if passed and state.is_main_process:
        goes_on = f"training continues from {last}" if last else "training begins anew"
        sys.stderr.write(f"{output_dir}: passed over {', '.join(passed)}; {goes_on}\n")
        sys.stderr.flush()
    if last is None:
        return None
    if args is not None:
        require_readable_optimizer(Path(output_dir, last), args)
    return str(Path(output_dir, last))


def state_of_trained(output_dir: str | Path) -> dict[str, Any] | None:
    """The state of a run that has taken all its steps, which is written after its model; None where it has not."""
    state = _read_json(Path(output_dir, _STATE)) if Path(output_dir, _STATE).is_file() else None
    taken, planned = ((state or {}).get(name) for name in ("global_step", "max_steps"))
    return state if isinstance(taken, int) and isinstance(planned, int) and taken >= planned > 0 else None


def has_all_steps(folder: Path, args: TrainingArguments) -> bool:
    """Whether a checkpoint has taken all steps of a run, so that no optimizer is needed any more."""
    state = (_read_json(folder / _STATE) if (folder / _STATE).is_file() else None) or {}
    taken, planned = state.get("global_step"), state.get("max_steps")
    if not isinstance(taken, int) or args.max_steps > 0:
        return isinstance(taken, int) and taken >= args.max_steps
    same_epochs = args.num_train_epochs <= state.get("num_train_epochs", 0)
    return isinstance(planned, int) and taken >= planned > 0 and same_epochs


def uses_deepspeed(args: TrainingArguments) -> bool:
    """Whether a run's launcher or its settings ask for DeepSpeed."""
    return args.deepspeed_plugin is not None


def require_readable_optimizer(folder: Path, args: TrainingArguments) -> None:
    """Raise `DataError` where training would go on with a new optimizer, since another kind of run saved the old."""
    by_deepspeed, by_trainer = (folder / "latest").is_file(), (folder / "optimizer.pt").is_file()
    if by_deepspeed == by_trainer or by_deepspeed == uses_deepspeed(args):
        return
    raise DataError(
        f"{folder}: saved {'with' if by_deepspeed else 'without'} DeepSpeed, and this run is "
        f"{'without' if by_deepspeed else 'with'}, and can not read its optimizer; launch with the accelerate config "
        "that the run was begun with"
    )


def require_complete(folder: str | Path, *, num_processes: int) -> None:
    """
    Raise where a checkpoint that was asked for can not be continued from.

    Args:
        folder (`str` or `Path`): the checkpoint.
        num_processes (`int`): of this run.

    Raises:
        `DataError`: says what is wrong with it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: no such checkpoint to resume from; `--resume_from_checkpoint true` takes the last")
    fault = find_fault(folder)
    if fault is not None:
        raise DataError(
            f"{folder}: can not be resumed from: {fault}; `--resume_from_checkpoint true` takes the last that can"
        )
    shards = list(folder.glob("*/*_optim_states.pt"))
    if shards and len(shards) != num_processes:
        raise DataError(
            f"{folder}: saved by {len(shards)} processes, whose parts of the optimizer (ZeRO) fit no other number "
            f"than theirs, and these are {num_processes}; start as many, or begin anew from its weights in "
            "another `output_dir`"
        )


def require_usable(folder: str | Path, args: TrainingArguments) -> None:
    """Raise `DataError` where a run can not go on from a checkpoint that was asked for."""
    if uses_deepspeed(args) or find_fault(Path(folder)) != _WEIGHTS_ONLY or not has_all_steps(Path(folder), args):
        require_complete(folder, num_processes=args.world_size)
    require_readable_optimizer(Path(folder), args)
