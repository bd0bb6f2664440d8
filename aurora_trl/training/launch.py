"""What every recipe does before and after `train`."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME

from ..disk import naming
from ..errors import DataError
from ..locks import LOCK_FILE, hold, release
from ..models.checkpoints.hub import RECIPE_FILE, WEIGHT_FILES
from ..progress import Progress
from .arguments import fail, recipe_settings
from .checkpoints import find_checkpoints, last_complete, require_usable, state_of_trained
from .same_run import require_same_settings


def prepare_run(args: TrainingArguments, configs: tuple[Any, ...] = (), argv: list[str] | None = None) -> str | None:
    """
    Decide where training starts, and see to it that nothing is written over, and that nobody else writes there.

    Args:
        args (`TrainingArguments`): `output_dir` and `resume_from_checkpoint`: a checkpoint's folder, `"true"` for the
            last complete one in `output_dir`, or None.
        configs (`tuple`, *optional*), argv (`list[str]`, *optional*): of a recipe, see
            [`~aurora_trl.training.arguments.recipe_settings`]; a run that goes on is compared with what it was begun
            with.

    Returns:
        `str` or `None`: the checkpoint to resume from.

    Raises:
        `DataError`: where the output folder holds a finished model or checkpoints that would be mixed up with new
            ones, where another run is writing it, the checkpoint can not be resumed from, or the recipe is not the one
            that the run was begun with.
    """
    if args.device.type == "cpu":
        torch.set_num_threads(_num_threads())
    output_dir = Path(str(args.output_dir))
    file = next((path for path in (output_dir, *output_dir.parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise DataError(f"{file}: is a file, and `output_dir` {output_dir} is to be a folder; choose another")
    _hold_for_all(output_dir, args)
    resume = args.resume_from_checkpoint
    if resume is not None and str(resume).lower() in ("false", "none", ""):
        resume = None
    going_on = resume is not None and str(resume).lower() == "true"
    begun = output_dir if going_on else None if resume is None else Path(resume).parent
    if configs and begun is not None and (find_checkpoints(begun) or _holds_model(begun)):
        require_same_settings(begun, recipe_settings(configs, argv), configs)
    if going_on:
        last = last_complete(output_dir, args)
        if last is None and _holds_model(output_dir):
            _require_own_rest(output_dir, args)
        return last
    if resume is not None:
        require_usable(resume, args)
        return str(resume)
    if find_checkpoints(output_dir) or _holds_model(output_dir):
        raise DataError(
            f"{output_dir}: holds a model already; continue it with `--resume_from_checkpoint true`, or choose "
            "another `output_dir`"
        )
    return None


def _holds_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in WEIGHT_FILES)


def _require_own_rest(output_dir: Path, args: TrainingArguments) -> None:
    """A model without a checkpoint is trained anew only where it is what this run has left that was cut."""
    state = state_of_trained(output_dir)
    if state is not None:
        _end_trained(output_dir, state, args)
    if not any((output_dir / name).exists() for name in (RECIPE_FILE, TRAINING_ARGS_NAME)):
        raise DataError(f"{output_dir}: holds a model that is not of this run; choose another `output_dir`")


def _end_trained(output_dir: Path, state: dict[str, Any], args: TrainingArguments) -> NoReturn:
    """A run that kept no checkpoint and has taken all its steps is not begun once more."""
    more = args.max_steps > state["max_steps"]
    if args.max_steps <= 0:
        more = args.num_train_epochs > state.get("num_train_epochs", args.num_train_epochs)
    if more:
        raise DataError(
            f"{output_dir}: holds the model of {state['global_step']} steps, and no checkpoint to take more from; "
            "choose another `output_dir`"
        )
    if args.push_to_hub:
        raise DataError(f"{output_dir}: all steps are taken already; `aurora push {output_dir} NAME` pushes the model")
    if args.process_index == 0:
        sys.stderr.write(f"{output_dir}: all steps are taken already, there is nothing to do\n")
    raise SystemExit(0)


def _num_threads() -> int:
    """
    As many threads as `OMP_NUM_THREADS` says, else a process's share of the cores that it may use.

    `accelerate launch` sets one thread where nobody has set any (1.15), so one thread is had by `taskset -c 0`.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 1:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _hold_for_all(output_dir: Path, args: TrainingArguments) -> None:
    """One process holds the folder for those that a launcher started with it; all hear where it can not."""
    refusal: list[str | None] = [None]
    if args.process_index == 0:
        try:
            with naming(output_dir):
                hold(output_dir / LOCK_FILE)
        except (DataError, OSError) as error:
            refusal = [str(error)]
    if args.world_size > 1:
        broadcast_object_list(refusal)
    if refusal[0] is not None:
        if args.process_index > 0:
            raise SystemExit(1)  # one of them says it
        raise DataError(refusal[0])


def train_and_finish(trainer: Trainer, resume: str | None) -> None:
    """
    Train; save the model with its processor, the trainer's state and a model card; push where the config says so. What
    goes wrong with a file on the way ends in one line and exit code 1.

    Args:
        trainer (`Trainer`): from a recipe.
        resume (`str` or `None`): what `prepare_run` returned.
    """
    output_dir = str(trainer.args.output_dir)
    if not sys.stderr.isatty() and not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LineProgress)
    try:
        with naming(output_dir):
            trainer.train(resume_from_checkpoint=resume)
            finish(trainer)
    except DataError as error:
        fail(error, after_progress=True)
    release(Path(output_dir, LOCK_FILE))


class LineProgress(PrinterCallback):
    """What transformers' bar says, in a log file: a line now and then in place of one that is drawn over."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress = Progress(state.max_steps, quiet=not state.is_world_process_zero, unit="steps")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress.step("training")


def finish(trainer: Trainer) -> None:
    """Save the model with its processor, the trainer's state and a model card; push where the config says so."""
    if trainer.args.push_to_hub:
        trainer.save_state()
        trainer.push_to_hub()  # saves the model and writes the card first
        return
    trainer.save_model()
    trainer.save_state()  # after the model: it says that all steps were taken
    trainer.create_model_card()
