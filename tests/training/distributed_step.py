"""What the distributed tests run on each process: a few steps, with the losses of rank 0 in a file.

    torchrun --nproc_per_node 2 distributed_step.py sft|grpo CHECKPOINT ROWS OUTPUT [OPTION ...] [KEY=VALUE ...]

`no_seg`: nothing that the second process sees holds `[SEG]`. `no_sound`: its clips are silent. `teacher`: with
distillation from the checkpoint itself.
`rollouts`: the model writes the completions, which are given otherwise.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from aurora_trl import (
    AuroraGRPOConfig,
    AuroraGRPOTrainer,
    AuroraModel,
    AuroraProcessor,
    AuroraSFTConfig,
    AuroraSFTTrainer,
)
from aurora_trl.data import load_json
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.training.rewards import class_reward, format_reward, iou_reward

SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_grad_norm": 0.0,
    "seed": 5,
}


class WithoutSeg(SFTCollator):
    """Batches as they are when every answer was cut before its `[SEG]`."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        batch["seg_positions"].fill_(-1)
        return batch


class WithoutSound(SFTCollator):
    """Rows as they are where clips have no sound."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([{**row, "audio": None} for row in rows])


class GivenCompletions(AuroraGRPOTrainer):
    """The completion of each sample is given: rows and processes share no random stream that could be compared."""

    without_seg = False

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        self._generation_states = []
        completions, counts = [], {}
        for row in self._rows:
            number = counts[row["id"]] = counts.get(row["id"], -1) + 1
            text = f"{'So' if number else 'Thus'} the target is the drum. It is [SEG]."
            if self.without_seg:
                text = text.replace("[SEG]", "drum")
            completions.append(self.processing_class.completion_ids(text))
        return completions, None


def main() -> None:
    phase, checkpoint, rows_file, output = sys.argv[1:5]
    options = [argument for argument in sys.argv[5:] if "=" in argument]
    settings = {key: json.loads(value) for key, value in (option.split("=", 1) for option in options)}
    config_class = AuroraSFTConfig if phase == "sft" else AuroraGRPOConfig
    defaults = SETTINGS if phase == "sft" else {"num_generations": 2, **SETTINGS}
    # Before the model, as in a recipe: under ZeRO-3 it is then loaded in parts.
    args = config_class(output_dir=output, **{**defaults, **settings})
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    rows = load_json(rows_file)
    without_seg = "no_seg" in sys.argv and args.process_index == 1
    if phase == "sft":
        teacher = AuroraModel.from_pretrained(checkpoint) if "teacher" in sys.argv else None
        trainer = AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor, teacher=teacher)
        if without_seg:
            trainer.data_collator = WithoutSeg(trainer.loader)
        if "no_sound" in sys.argv and args.process_index == 1:
            trainer.data_collator = WithoutSound(trainer.loader)
    else:
        rewards = [format_reward, iou_reward, class_reward, first_letter_reward]
        trainer_class = AuroraGRPOTrainer if "rollouts" in sys.argv else GivenCompletions
        trainer = trainer_class(model, rewards, args, rows, processing_class=processor)
        trainer.without_seg = without_seg
    trainer.train()
    trainer.save_model()
    if args.process_index == 0:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        Path(output, "losses.json").write_text(json.dumps([args.world_size, losses]))


def first_letter_reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Tell the two given completions of a prompt apart."""
    return [float(completion[0]["content"][0] == "S") for completion in completions]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
