"""The order of GRPO's questions, in which the media of a rollout are read once."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset
from trl.trainer.utils import RepeatSampler

from ..generation.collators import AGAIN


class RolloutSampler(RepeatSampler):
    """
    TRL's order, with two differences.

    The rows of a rollout come again for each of its micro-steps, though only the first time is anything generated for
    them: from the second time on row `i` goes by `~i`, and [`RolloutRows`] says so. Each epoch has an order of its own
    that depends on nothing but the seed: a run that is resumed in a later epoch sees that epoch's questions.
    """

    @classmethod
    def like(cls, sampler: RepeatSampler) -> "RolloutSampler":
        """With the settings of TRL's."""
        return cls(
            sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch; the first is TRL's own."""
        if self.shuffle and self.seed is not None:
            self.generator.manual_seed(self.seed + 100_003 * epoch)

    def __iter__(self) -> Iterator[int]:
        rollout = self.batch_size * self.mini_repeat_count
        for position, index in enumerate(super().__iter__()):
            yield index if position % (rollout * self.repeat_count) < rollout else ~index


class RolloutRows(Dataset[dict[str, Any]]):
    """
    Rows for [`RolloutSampler`]: those that come again are marked with `AGAIN`, and nothing is read for them.

    Args:
        rows (`Dataset`): dataset rows.
    """

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index if index >= 0 else ~index], AGAIN: index < 0}
