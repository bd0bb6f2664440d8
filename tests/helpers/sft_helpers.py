"""An SFT trainer with small numbers."""

from pathlib import Path

from datasets import Dataset
from quick import QUICK
from trl import SFTTrainer

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    **QUICK,
}


def build(model: AuroraModel, rows: Dataset, processor: AuroraProcessor, folder: Path, **settings) -> AuroraSFTTrainer:
    teacher = settings.pop("teacher", None)
    peft_config = settings.pop("peft_config", None)
    args = AuroraSFTConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    return AuroraSFTTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=processor,
        teacher=teacher,
        peft_config=peft_config,
    )


def losses(trainer: SFTTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
