"""What every recipe does before and after `train`."""

import os
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..errors import DataError


def prepare_run(args: TrainingArguments) -> str | None:
    """
    Decide where training starts, and see to it that nothing is written over.

    Args:
        args (`TrainingArguments`): `output_dir` and `resume_from_checkpoint`: a checkpoint's folder, `"true"` for the
            last one in `output_dir`, or None.

    Returns:
        `str` or `None`: the checkpoint to resume from.

    Raises:
        `DataError`: where the output folder holds a finished model or checkpoints that would be mixed up with new
            ones.
    """
    if args.device.type == "cpu":
        # `accelerate launch` allows each process one thread where it finds no GPU (OMP_NUM_THREADS, accelerate 1.15).
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // args.world_size))
    output_dir = str(args.output_dir)
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    resume = args.resume_from_checkpoint
    if resume is not None and str(resume).lower() in ("false", "none", ""):
        resume = None
    if resume is not None and str(resume).lower() == "true":
        return last
    if resume is not None:
        if not Path(resume).is_dir():
            raise DataError(
                f"{resume}: no such checkpoint to resume from; `--resume_from_checkpoint true` takes the last"
            )
        return str(resume)
    weights = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
    if last is not None or any((Path(output_dir) / name).exists() for name in weights):
        raise DataError(
            f"{output_dir}: holds a model already; continue it with `--resume_from_checkpoint true`, or choose "
            "another `output_dir`"
        )
    return None


def finish(trainer: Trainer) -> None:
    """Save the model with its processor, the trainer's state and a model card; push where the config says so."""
    trainer.save_state()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()  # saves the model and writes the card first
    else:
        trainer.save_model()
        trainer.create_model_card()
