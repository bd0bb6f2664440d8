"""How both trainers save and resume: a checkpoint is complete or not there, and says what base it belongs to."""

import math
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..disk import bring_to_disk, is_disk_error, naming, put_in_place, remove
from ..errors import DataError
from ..locks import LOCK_FILE, require_held
from ..models.checkpoints.adapters import (
    ADAPTER_FILES,
    ADAPTER_WEIGHTS_FILE,
    AdapterRecord,
    describe_base,
    gather_replaced_weights,
    save_adapter,
)
from ..models.checkpoints.hub import CARD_FILE, check_base_is_public, is_foreign_card, write_model_card
from .checkpoints import (
    UNFINISHED,
    find_checkpoints,
    find_fault,
    last_complete,
    list_files,
    require_usable,
    step_of,
    write_manifest,
)
from .lora import unwrap_aurora
from .precision import as_stored, keep_master_weights
from .same_run import data_of, require_same_data
from .trainer_inputs import require_in_optimizer

logger = get_logger(__name__)


class AuroraCheckpoints(Trainer):
    """
    Stands before TRL's class among a trainer's bases.

    What is saved is written to `_unfinished` in the output folder and put in its place when all processes are
    through, a checkpoint with a list of its files. An adapter's folder says what base it belongs to.
    """

    _saves_checkpoint = False
    # The SFT trainer's, which may have let go of it.
    _teacher_name: str | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        require_in_optimizer(self.model, self.optimizer)
        self._stored_dtypes = keep_master_weights(self.model, bf16=self.args.bf16, deepspeed=self.is_deepspeed_enabled)
        self._adapter_record: AdapterRecord | None = None
        if isinstance(self.model, PeftModel):
            # Now, not at the first save: a base that can not be found again is known before training.
            self._adapter_record = describe_base(str(unwrap_aurora(self.model).name_or_path))
            if self.args.push_to_hub:
                check_base_is_public(
                    f"{self.args.output_dir}: `push_to_hub`", self._adapter_record.base_model_name_or_path
                )
        self.models_behind = self._look_at_models()

    def _look_at_models(self) -> dict[str, str]:
        """Digests of the models that decide the result and that no checkpoint holds; not of those in memory alone."""
        reference = getattr(self, "ref_model", None)
        names = {"teacher": self._teacher_name, "reference": getattr(reference, "name_or_path", None)}
        found = {} if self._adapter_record is None else {"base": self._adapter_record.base_weights}
        for role, name in names.items():
            with suppress(DataError):
                found |= {role: describe_base(name).base_weights} if name else {}
        return found

    @cached_property
    def _data(self) -> dict[str, int | str]:
        """What checkpoints say of the data; the rows are gone through once."""
        return data_of(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """TRL's, from a checkpoint that is complete: with `True` from the last of them."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete(str(self.args.output_dir), self.args)
            if resume_from_checkpoint is None:
                raise DataError(f"{self.args.output_dir}: no complete checkpoint to resume from; train without `True`")
        elif resume_from_checkpoint:
            require_usable(resume_from_checkpoint, self.args)
        if resume_from_checkpoint:
            require_same_data(str(resume_from_checkpoint), self.args, self._data)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer looks whether all steps are taken after a step only: a resumed run may have none left."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """
        The Trainer's, which only logs it, and leaves a loss that is no number out of the mean that it logs: one step
        later no weight would be a number, and a checkpoint of these would take the place of the last good one.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            last = next((path for path in find_checkpoints(self.args.output_dir) if find_fault(path) is None), None)
            kept = f"{last} is as it was" if last else "no checkpoint was saved yet"
            raise DataError(
                f"{self.args.output_dir}: the gradient of step {self.state.global_step + 1} is {float(norm)}, and the "
                f"weights would be; {kept}: lower `learning_rate`, or look for rows out of the ordinary with `aurora "
                "check-data`"
            )
        return norm

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _resuming(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _resuming(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:  # the state is loaded by now
            self._find_best(Path(checkpoint).parent)
            args: Any = self.args
            if getattr(args, "sync_ref_model", False) and self.state.global_step >= args.ref_model_sync_steps:
                logger.warning(
                    f"{checkpoint}: `sync_ref_model: true` has moved the reference model, which no checkpoint holds: "
                    f"it is `model_name_or_path` again, until the next of every {args.ref_model_sync_steps} steps"
                )
            self._set_learning_rate()

    def _set_learning_rate(self) -> None:
        """
        The next step's, by this run's schedule: what is loaded is that of the run that was cut, which is 0 where it
        had taken all its steps and is to take more now.
        """
        schedule = self.lr_scheduler
        if isinstance(schedule, LambdaLR) and not self.is_deepspeed_enabled:
            pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            schedule._last_lr = [rate * share(schedule.last_epoch) for rate, share in pairs]
            for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def _find_best(self, run_dir: Path) -> None:
        """The state names the best checkpoint by the path that it had: the run may have moved, or be named anew."""
        step, recorded = self.state.best_global_step, self.state.best_model_checkpoint
        if not step:
            return
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
            if recorded is None:  # transformers has said that it is gone
                logger.warning(f"{best}: stays the best checkpoint")
        elif self.args.load_best_model_at_end and recorded is None:  # it is gone, or was never saved
            logger.warning(
                f"{best}: the best checkpoint so far is not there: `load_best_model_at_end` takes the best of those "
                "that come"
            )
            self.state.best_metric = self.state.best_global_step = None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _resuming(checkpoint):
            super()._load_rng_state(checkpoint)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The Trainer's, which ends with a traceback where an evaluation has no such metric."""
        name = self.args.metric_for_best_model
        if name is not None and f"eval_{name.removeprefix('eval_')}" not in metrics:
            raise DataError(f"`metric_for_best_model: {name}` is none of {', '.join(sorted(metrics))}")
        return super()._determine_best_metric(metrics, trial)

    def _get_output_dir(self, trial: Any) -> str:
        """Where the Trainer puts checkpoints: while it writes one, aside."""
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._saves_checkpoint else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """TRL's, written aside by all processes, and put in its place with the list of what they have written."""
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = run_dir / UNFINISHED / folder.name
        with self._naming(aside):
            self._clear(aside.parent)
            self.accelerator.wait_for_everyone()
            self._saves_checkpoint = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saves_checkpoint = False
            if Path(self.state.best_model_checkpoint or "") == aside:
                self.state.best_model_checkpoint = str(folder)
                if self.args.should_save:
                    self.state.save_to_json(str(aside / "trainer_state.json"))
            # A process that writes nothing comes first, and would list files that another is still writing.
            self.accelerator.wait_for_everyone()
            # Each process lists what it sees: on a network file system one may not see yet what another has written.
            seen = gather_object([list_files(aside)]) if self.args.world_size > 1 else [list_files(aside)]
            if self.args.should_save:
                files = {name: max(one.get(name, 0) for one in seen) for name in sorted(set().union(*seen))}
                bring_to_disk(aside)
                write_manifest(aside, files, weights_only=self.args.save_only_model, data=self._data)
                require_held(run_dir / LOCK_FILE)
                put_in_place(aside, folder)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            self._rotate(run_dir, folder)

    def _rotate(self, run_dir: Path, newest: Path) -> None:
        """
        Keep `save_total_limit` checkpoints. Which can not be continued from go first, then those of an earlier run's
        later steps, then the oldest: the Trainer goes by times, or by numbers, and may take the only complete one.
        """
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        kept = {newest.resolve(), Path(self.state.best_model_checkpoint or newest).resolve()}
        others = [path for path in find_checkpoints(run_dir) if path.resolve() not in kept]
        others.sort(key=lambda path: (find_fault(path) is None, step_of(path) < step_of(newest), step_of(path)))
        for path in others[: max(0, len(others) + len(kept) - max(limit, len(kept)))]:
            # Out of the way first: what is deleted in part is no checkpoint.
            aside = run_dir / UNFINISHED / path.name
            put_in_place(path, aside)
            remove(aside)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """PEFT saves the adapter; the rest of what makes the folder loadable comes here."""
        folder = Path(output_dir or str(self.args.output_dir))
        is_model = folder == Path(str(self.args.output_dir))
        if is_model and self._stored_dtypes and not isinstance(self.model, PeftModel):
            # The phase's result; a checkpoint to resume from keeps the master weights.
            weights = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
            state_dict = as_stored(weights, self._stored_dtypes)
        aside = folder if self._saves_checkpoint else folder / UNFINISHED / "model"
        with self._naming(aside):
            if aside != folder:
                self._clear(aside.parent)
            super()._save(str(aside), state_dict)
            if self._adapter_record is not None:
                replaced = gather_replaced_weights(self.model, keep=self.args.should_save)  # every process helps
                if self.args.should_save:
                    save_adapter(self.model, aside, self._adapter_record, replaced)
            if aside != folder and self.args.should_save:
                _put_files_in_place(aside, folder)

    def _clear(self, unfinished: Path) -> None:
        """Take away what an earlier run was writing when it was cut."""
        if self.args.should_save:
            unfinished.mkdir(parents=True, exist_ok=True)
            for path in unfinished.iterdir():
                remove(path)

    @contextmanager
    def _naming(self, aside: Path) -> Iterator[None]:
        """Name the file that a full disk cut short, and give back what was written of it."""
        weights = ADAPTER_WEIGHTS_FILE if isinstance(self.model, PeftModel) else SAFE_WEIGHTS_NAME
        try:
            with naming(aside, weights_file=weights):
                yield
        except DataError as error:
            if not is_disk_error(error.__cause__ or error):
                raise
            self._clear(aside.parent)
            whole = (path for path in find_checkpoints(str(self.args.output_dir)) if find_fault(path) is None)
            last = next(whole, None)
            kept = "" if last is None else f", which continues from {last.name}"
            raise DataError(f"{error}{kept}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """What is pushed during training is `output_dir`: the Trainer copies its own files there, here are ours."""
        if self._saves_checkpoint:
            return  # when it is in its place
        if not self.is_world_process_zero():
            return
        for name in (CONFIG_NAME, *ADAPTER_FILES):
            file = Path(checkpoint_folder, name)
            if file.is_file():
                shutil.copy(file, Path(self.args.output_dir, name))
        self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Ours in place of TRL's: it says what a segmentation model's users ask. The folder says the rest."""
        folder = Path(self.args.output_dir)
        if not self.is_world_process_zero() or not (folder / "config.json").is_file():
            return  # TRL asks for a card before the first checkpoint is written
        card = folder / CARD_FILE
        if not card.is_file() or not is_foreign_card(card):
            write_model_card(folder, repo_id=getattr(self, "hub_model_id", None), method=self._name)


_UNREADABLE = (RuntimeError, ValueError, LookupError, OSError, EOFError, pickle.UnpicklingError, SafetensorError)


@contextmanager
def _resuming(checkpoint: str | None) -> Iterator[None]:
    """One line in place of what torch and transformers say of a checkpoint that they can not read."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{checkpoint}: can not be resumed from ({type(error).__name__}: {reason}); move it away, and "
            "`--resume_from_checkpoint true` takes the one before it"
        ) from error


def _put_files_in_place(source: Path, folder: Path) -> None:
    """Replace a model's files by new ones; a card that is there stays, weights of another cut into shards go."""
    new = {path.name for path in source.iterdir()}
    for path in sorted(source.iterdir()):
        if path.name != CARD_FILE or not (folder / CARD_FILE).exists():
            put_in_place(path, folder / path.name)
    if any(name.startswith("model") for name in new):
        for path in folder.glob("model*.safetensors*"):
            if path.name not in new:
                path.unlink()
    remove(source)
    with suppress(OSError):
        source.parent.rmdir()
