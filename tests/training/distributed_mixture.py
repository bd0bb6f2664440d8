"""
What the test of mixtures runs on each of two processes: a run over two epochs, and one that goes on in its second.

    torchrun --nproc_per_node 2 distributed_mixture.py CHECKPOINT ROWS OUTPUT
"""

import json
import sys
from pathlib import Path

from sft_helpers import build

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.data import load_json
from aurora_trl.data.mixture import SOURCE_COLUMN, Source, mix_datasets


def run(checkpoint: str, rows_file: str, output: Path, resume: str | None) -> tuple[int, dict[str, object]]:
    """The rank, and what its batches were and the log said."""
    rows = load_json(rows_file)
    mixture = mix_datasets([Source("a", 3.0, rows.select(range(6))), Source("b", 1.0, rows.select(range(6, 20)))])
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 4}
    processor = AuroraProcessor.from_pretrained(checkpoint)
    trainer = build(AuroraModel.from_pretrained(checkpoint), mixture, processor, output, **settings)
    batches, collate = [], trainer.data_collator

    def collate_and_keep(batch):
        batches.append([[row[SOURCE_COLUMN], row["id"]] for row in batch])
        return collate(batch)

    trainer.data_collator = collate_and_keep
    trainer.train(resume_from_checkpoint=resume)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return trainer.args.process_index, {"batches": batches, "logs": logs}


if __name__ == "__main__":
    checkpoint, rows_file, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    rank, whole = run(checkpoint, rows_file, output / "run", None)
    rank, again = run(checkpoint, rows_file, output / "run", str(output / "run" / "checkpoint-4"))
    (output / f"{rank}.json").write_text(json.dumps([whole, again]))
