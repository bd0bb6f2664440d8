"""The order of GRPO's questions, in which the media of a rollout are read once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from trl.trainer.utils import RepeatSampler

from ..generation.collators import AGAIN
from ..generation.mixture_sampler import MixtureSampler


class RolloutSampler(RepeatSampler):
    """
    TRL's order, or that of a mixture, with two differences.

    The rows of a rollout come again for each of its micro-steps, though only the first time is anything generated for
    them: from the second time on row `i` goes by `~i`, and [`RolloutRows`] says so. The order of an epoch depends on
    nothing but seed and epoch: a run that is resumed in a later one sees that epoch's questions, not the first's.
    """

    mixture: MixtureSampler | None = None

    @classmethod
    def like(cls, sampler: RepeatSampler, mixture: MixtureSampler | None = None) -> "RolloutSampler":
        """With the settings of TRL's, and the order of a mixture where its rows are one."""
        own = cls(
            sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle and mixture is None,
            seed=sampler.seed,
        )
        own.mixture = mixture
        return own

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch: the order is TRL's, also where the run begins here."""
        if self.mixture is not None:
            self.mixture.set_epoch(epoch)
        if self.shuffle and self.seed is not None:
            self.generator.manual_seed(self.seed)
            for _ in range(epoch):
                torch.randperm(self.num_samples, generator=self.generator)

    def __iter__(self) -> Iterator[int]:
        rollout = self.batch_size * self.mini_repeat_count
        order = None if self.mixture is None else list(self.mixture)
        for position, index in enumerate(super().__iter__()):
            index = index if order is None else order[index]
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
