"""The order in which rows of a mixture are drawn: by weight, in every part of an epoch."""

from collections.abc import Iterator
from itertools import count, islice

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..data.mixture import SOURCE_COLUMN, source_weights
from .group_sampler import ClipGroupSampler


class MixtureSampler(Sampler[int]):
    """
    Draws the rows of a mixture so that each source has its share in every part of an epoch, and so in every batch,
    within two rows (within a clip's rows where these stay together).

    There is one endless order, which depends on the seed alone: the next row is of the source that is furthest behind
    its share, and each source's rows come in passes, all of them in a random order and then all of them again. An
    epoch has as many rows as the mixture, and the next one goes on where it ended: rows of a small source come several
    times in an epoch, and of a large one all come within several epochs.

    Args:
        dataset (`Dataset`): from [`~aurora_trl.data.mixture.mix_datasets`].
        seed (`int`): of the order.
        by_clip (`bool`, *optional*, defaults to `False`): keep the rows about one clip next to each other, as
            [`ClipGroupSampler`] does.
    """

    def __init__(self, dataset: Dataset, seed: int, by_clip: bool = False):
        self.seed = seed
        self.epoch = 0
        self.length = len(dataset)
        weights = source_weights(dataset)
        numbers: dict[str, list[int]] = {name: [] for name in weights}
        for number, name in enumerate(dataset[SOURCE_COLUMN]):
            numbers[name].append(number)
        self.rows = list(numbers.values())  # their numbers, by source
        self.shares = [weight / sum(weights.values()) for weight in weights.values()]
        # Each with an order of its own.
        self.clips = [
            ClipGroupSampler(dataset.select(own), seed + source) if by_clip else None
            for source, own in enumerate(self.rows)
        ]

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return islice(self._rows(), self.epoch * self.length, (self.epoch + 1) * self.length)

    def _rows(self) -> Iterator[int]:
        passes = [self._groups(number) for number in range(len(self.rows))]
        drawn = [0] * len(passes)
        while True:
            source = self._next_source(drawn)
            group = next(passes[source])
            drawn[source] += len(group)
            yield from group

    def _next_source(self, drawn: list[int]) -> int:
        total = sum(drawn) + 1
        behind = [share * total - own for share, own in zip(self.shares, drawn, strict=True)]
        return behind.index(max(behind))

    def _groups(self, source: int) -> Iterator[list[int]]:
        """The rows of a source that come together, pass after pass."""
        rows, clips = self.rows[source], self.clips[source]
        for number in count():
            if clips is None:
                generator = torch.Generator().manual_seed((self.seed + source) * 100003 + number)
                order = torch.randperm(len(rows), generator=generator).tolist()
                yield from ([rows[i]] for i in order)
            else:
                yield from ([rows[i] for i in group] for group in clips.draw_groups(number))
