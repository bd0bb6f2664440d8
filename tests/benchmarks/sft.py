"""An SFT step with masks, and with distillation, against TRL's own without."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from setting import Ratio, bench_model, bench_processor, compare, step_of
from trl import SFTConfig, SFTTrainer

from aurora_trl import AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator

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


def our_trainer(
    rows: Dataset, folder: Path, batch_size: int, *, distilled: bool, kept: bool = False
) -> AuroraSFTTrainer:
    """Ours, with the features of all rows in `folder` where they are to be kept."""
    processor = bench_processor()
    args = AuroraSFTConfig(
        output_dir=str(folder),
        media_cache_clips=100,
        group_by_clip=batch_size > 1,
        feature_cache=str(folder / "features") if kept else None,
        **settings(batch_size),
    )
    teacher = bench_model(processor) if distilled else None
    trainer = AuroraSFTTrainer(
        bench_model(processor), args, train_dataset=rows, processing_class=processor, teacher=teacher
    )
    trainer.keep_features(rows)
    return trainer


def first_epoch_step(rows: Dataset, folder: Path, batch_size: int) -> Callable[[], object]:
    """A step that needs the teacher's features of rows that have not come before, and keeps none on disk."""
    trainer = our_trainer(rows, folder, batch_size, distilled=True)
    step = step_of(trainer)

    def first_epoch() -> object:
        trainer._kept.teacher.clear()
        return step()

    return first_epoch


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """Compare steps of one reference, and of four about one clip."""
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for batch_size, what in ((1, "one reference"), (4, "four references about a clip")):
            stock = stock_step(rows, folder, batch_size)
            kinds = {
                "masks": step_of(our_trainer(rows, folder, batch_size, distilled=False)),
                "masks and distillation, features kept on disk": step_of(
                    our_trainer(rows, folder, batch_size, distilled=True, kept=True)
                ),
                "masks and distillation, first epoch and none kept": first_epoch_step(rows, folder, batch_size),
            }
            for kind, ours in kinds.items():
                title = f"SFT step with {kind} / stock TRL without, {what}"
                ratios.append(compare(title, stock, ours, repeats=repeats, bound=BOUND))
    return ratios
