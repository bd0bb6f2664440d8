"""What the test of several processes runs on each: annotate rows by the world's truth, then mine with a checkpoint.

    torchrun --nproc_per_node 2 annotate_step.py WORLD ROWS CHECKPOINT FOLDER [FAILING_ID]

Asked about the row of that id, the annotator stops the run.
"""

import sys
from pathlib import Path

import torch

from aurora_trl.annotation import WorldAnnotator, annotate_file, mine_file
from aurora_trl.data import DataError, load_json
from aurora_trl.evaluation.evaluate import process_state
from aurora_trl.generation.answers import load

MINING = {"batch_size": 2, "max_new_tokens": 10}


class OwnAnnotator(WorldAnnotator):
    """Each process holds it."""

    local = True
    failing_id: str | None = None

    def reasoning(self, row, **settings):
        if row["id"] == self.failing_id:
            raise DataError(f"stopped at {row['id']}")
        return super().reasoning(row, **settings)


def main() -> None:
    world, rows_file, checkpoint, folder = sys.argv[1:5]
    annotator = OwnAnnotator(world)
    annotator.failing_id = sys.argv[5] if len(sys.argv) > 5 else None
    rows = load_json(rows_file).to_list()
    annotate_file(rows, annotator, Path(folder, "cot.jsonl"))
    model, processor = load(checkpoint, process_state().device)
    rows = [row for row in load_json(Path(folder, "cot.jsonl")) if not row["is_null"]]
    mine_file(model, processor, rows, Path(folder, "hard.jsonl"), checkpoint=checkpoint, **MINING)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
