"""A GRPO trainer with small numbers."""

from pathlib import Path

from datasets import Dataset
from quick import QUICK

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraProcessor
from aurora_trl.training.rewards import class_reward, completion_text, format_reward, iou_reward

SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 12,
    "max_steps": 2,
    **QUICK,
}


def letter_reward(prompts, completions, **columns):
    """Something that differs between random completions."""
    return [(sum(map(ord, completion_text(completion))) % 7) / 7 for completion in completions]


def build(model, rows: Dataset, processor: AuroraProcessor, folder: Path, **settings) -> AuroraGRPOTrainer:
    rewards = settings.pop("rewards", [format_reward, iou_reward, class_reward, letter_reward])
    extra = {name: settings.pop(name) for name in ("peft_config", "eval_dataset") if name in settings}
    args = AuroraGRPOConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    return AuroraGRPOTrainer(
        model=model, reward_funcs=rewards, args=args, train_dataset=rows, processing_class=processor, **extra
    )


def logged(trainer, *names):
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "reward" in entry]
