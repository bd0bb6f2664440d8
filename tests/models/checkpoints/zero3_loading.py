r"""What the tests of loading under ZeRO-3 run on each process: every way in which a model comes into a run.

    accelerate launch --config_file recipes/accelerate/zero3.yaml zero3_loading.py \
        CHECKPOINT UNEXPECTED ADAPTER POLICY SAM ROWS OUTPUT

Each process writes `rankN.json`, with the numbers of parameters that it held. Process 0 writes `WAY.pt`, the weights
after each way. UNEXPECTED is a checkpoint with a weight too many. A phase of LoRA is trained on the adapter, and again
from its first step on.
"""

import json
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data import load_json
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.models.checkpoints.zero3 import full_shape, gathered
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "save_steps": 1,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 5,
}


class LiveParameters:
    """How many numbers of parameters a process holds whole at once: those of all modules that were made."""

    def __init__(self) -> None:
        self.peak = 0
        self._known: list[weakref.ref[nn.Parameter]] = []
        register_module_parameter_registration_hook(self._registered)
        enter = deepspeed.zero.GatheredParameters.__enter__

        def enter_and_count(context: Any) -> None:
            enter(context)
            self.count()

        deepspeed.zero.GatheredParameters.__enter__ = enter_and_count

    def _registered(self, _module: nn.Module, _name: str, parameter: nn.Parameter) -> None:
        self._known.append(weakref.ref(parameter))
        self.count()

    def count(self) -> None:
        self._known = [known for known in self._known if known() is not None]
        parameters = {id(parameter): parameter for known in self._known if (parameter := known()) is not None}
        whole = sum(p.numel() for p in parameters.values() if not p.is_meta)
        self.peak = max(self.peak, whole)


def describe(model: nn.Module, live: LiveParameters) -> dict[str, int]:
    """Numbers of parameters: of the model, of this process's parts, of what it holds whole, and the most it held."""
    live.count()
    parameters = list(model.parameters())
    return {
        "total": sum(full_shape(parameter).numel() for parameter in parameters),
        "parts": sum(parameter.ds_tensor.numel() for parameter in parameters if hasattr(parameter, "ds_id")),
        "whole": sum(parameter.numel() for parameter in parameters if not hasattr(parameter, "ds_id")),
        "peak": live.peak,
    }


def collect(model: nn.Module) -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in model.state_dict(keep_vars=True).items():
        with gathered([value]):
            weights[name] = value.detach().clone()
    return weights


def train(adapter: str, rows_file: str, output: Path, resume: str | None = None) -> AuroraSFTTrainer:
    args = AuroraSFTConfig(output_dir=str(output), **SETTINGS)
    model = AuroraModel.from_pretrained(adapter)
    peft_config = lora_config(model, LoraArguments(use_lora=True), args.trainable_groups())
    processor = AuroraProcessor.from_pretrained(adapter)
    trainer = AuroraSFTTrainer(
        model, args, train_dataset=load_json(rows_file), processing_class=processor, peft_config=peft_config
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


@torch.no_grad()
def mask_logits(trainer: AuroraSFTTrainer, rows_file: str) -> torch.Tensor:
    rows = load_json(rows_file).to_list()[:2]
    batch = SFTCollator(ClipLoader(trainer.processing_class))(rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    trainer.model.eval()
    return trainer.model_wrapped(**inputs)["mask_logits"]


def main() -> None:
    checkpoint, unexpected, adapter, policy, sam, rows_file, folder = sys.argv[1:8]
    output = Path(folder)
    # Before any model, as in a recipe: it is what switches transformers to loading in parts.
    args = AuroraSFTConfig(output_dir=str(output / "unused"), **SETTINGS)
    live = LiveParameters()
    ways = {
        "whole": lambda: AuroraModel.from_pretrained(checkpoint),
        "adapter": lambda: AuroraModel.from_pretrained(adapter),
        "unmerged": lambda: load_adapter(adapter),
        "published": lambda: AuroraModel.from_policy(policy, sam),
    }
    numbers = {}
    for way, load in ways.items():
        live.peak = 0
        model = load()
        numbers[way] = describe(model, live)
        weights = collect(model)
        if args.process_index == 0:
            torch.save(weights, output / f"{way}.pt")
        del model
    (output / f"rank{args.process_index}.json").write_text(json.dumps(numbers))
    try:
        AuroraModel.from_pretrained(unexpected)
    except ValueError as error:
        (output / f"unexpected{args.process_index}.txt").write_text(str(error))

    trainer = train(adapter, rows_file, output / "trained")
    logits = mask_logits(trainer, rows_file)
    if args.process_index == 0:
        torch.save(logits, output / "mask_logits.pt")
        shutil.copytree(output / "trained" / "checkpoint-1", output / "resumed" / "checkpoint-1")
    trainer.accelerator.wait_for_everyone()
    train(adapter, rows_file, output / "resumed", resume=str(output / "resumed" / "checkpoint-1"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
