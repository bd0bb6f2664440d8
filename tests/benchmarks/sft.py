"""An SFT step with masks and distillation against TRL's own without."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from setting import Ratio, bench_model, bench_processor, compare, step_of
from trl import SFTConfig, SFTTrainer

from aurora_trl import AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.collator import ClipLoader, SFTCollator

BOUND = 1.15


class StockCollator:
    """The same text and media, one entry of media per row."""

    def __init__(self, loader: ClipLoader):
        self._collate = SFTCollator(loader)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        clips = batch.pop("clip_index")
        for name in ("masks", "seg_positions", "mask_frames"):
            del batch[name]
        for name in ("pixel_values_videos", "audio_values"):
            batch[name] = batch[name][clips]
        return batch


def settings(batch_size: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": batch_size,
        "learning_rate": 1e-6,
        "max_steps": 1000,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 1,
    }


def stock_step(rows: Dataset, folder: Path, batch_size: int) -> Any:
    processor = bench_processor()
    policy = bench_model(processor).policy
    for name, module in policy.trainable_modules().items():
        module.requires_grad_(name == "language_model")
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(
            output_dir=str(folder),
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **settings(batch_size),
        ),
        data_collator=StockCollator(ClipLoader(processor, cache_clips=100)),
        train_dataset=rows,
        processing_class=processor.tokenizer,
    )
    return step_of(trainer)


def our_step(rows: Dataset, folder: Path, batch_size: int) -> Any:
    processor = bench_processor()
    args = AuroraSFTConfig(
        output_dir=str(folder),
        media_cache_clips=100,
        group_by_clip=batch_size > 1,
        **settings(batch_size),
    )
    teacher = bench_model(processor)
    trainer = AuroraSFTTrainer(bench_model(processor), args, rows, processing_class=processor, teacher=teacher)
    # A feature is kept once it is known: here every step has to make its own, as in a first epoch.
    step = step_of(trainer)

    def first_epoch() -> object:
        trainer._teacher_features.clear()
        return step()

    return first_epoch


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """Compare steps of one reference, and of four about one clip."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for batch_size, name in ((1, "one reference"), (4, "four references about a clip")):
            name = f"SFT step with masks and distillation / stock TRL without, {name}"
            stock, ours = (make(rows, Path(folder), batch_size) for make in (stock_step, our_step))
            ratios.append(compare(name, stock, ours, repeats=repeats, bound=BOUND))
    return ratios
