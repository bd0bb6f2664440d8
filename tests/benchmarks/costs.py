"""What each reward, loss and part adds to a GRPO step: the same step with it and without."""

import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from grpo import our_trainer
from setting import Ratio, compare, one_row_per_clip, step_of

from aurora_trl import AuroraGRPOTrainer

BOUND = 1.2
GROUP = 4
# By what is named in the table: rewards beside the paper's three, and settings.
ADDED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "boundary reward": (("boundary_reward",), {}),
    "consistency reward": (("consistency_reward",), {}),
    "length, synonym and quality rewards": (("length_reward", "synonym_class_reward", "mask_quality_reward"), {}),
    "loss of the mask decoder's score": ((), {"mask_quality_loss_weight": 1.0}),
    "stronger [SEG], all four parts": (
        (),
        {"seg_layers": 4, "spatial_prompt": True, "existence_output": True, "alignment_loss_weight": 0.1},
    ),
}


def run(rows: Dataset, *, new_tokens: int = 150, repeats: int = 3) -> list[Ratio]:
    """
    Compare steps.

    Args:
        rows (`Dataset`): from `bench_rows`.
        new_tokens (`int`): length of every completion.
        repeats (`int`): timed steps of each.

    Returns:
        `list[Ratio]`.
    """
    rows = one_row_per_clip(rows)
    with tempfile.TemporaryDirectory() as folder:

        def build(more_rewards: tuple[str, ...] = (), **settings: Any) -> Any:
            shape = (rows, Path(folder), GROUP, new_tokens)
            return step_of(our_trainer(AuroraGRPOTrainer, *shape, more_rewards, **settings))

        plain = build()
        return [
            compare(f"GRPO step with {name} / without", plain, build(added, **settings), repeats=repeats, bound=BOUND)
            for name, (added, settings) in ADDED.items()
        ]
