"""An order of rows in which those about one clip stand together."""

from collections import Counter
from collections.abc import Iterator

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..data.schema import REFERENCE_MEDIA, view_key


class ClipGroupSampler(Sampler[int]):
    """
    Draws clips at random, and the rows of each clip at random within it. A row that is in the dataset several times is
    drawn as often, each time as if with another clip.

    Args:
        dataset (`Dataset`): rows with the columns of `aurora_trl.data.schema`.
        seed (`int`): of the order; each epoch has its own.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.seed = seed
        self.epoch = 0
        names = ("frames", "video", "audio", *REFERENCE_MEDIA)
        media = dataset.select_columns([name for name in names if name in dataset.column_names])
        seen: Counter[str] = Counter()
        groups: dict[tuple[object, int], list[int]] = {}
        for index, (row, name) in enumerate(zip(media, dataset["id"], strict=True)):
            groups.setdefault((view_key(row), seen[name]), []).append(index)
            seen[name] += 1
        self.groups = list(groups.values())
        # How many groups a clip has: more than one where rows are there several times.
        counts = Counter(clip for clip, _ in groups)
        self.copies = [(number, counts[clip]) for clip, number in groups]
        self.length = len(dataset)

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for group in self.draw_groups(self.epoch):
            yield from group

    def draw_groups(self, epoch: int) -> Iterator[list[int]]:
        """The rows of an epoch, those about one clip together."""
        generator = torch.Generator().manual_seed(self.seed * 100003 + epoch)
        order = torch.randperm(len(self.groups), generator=generator)
        if any(count > 1 for _, count in self.copies):
            order = self._keep_copies_apart(generator)
        for group in order.tolist():
            rows = self.groups[group]
            yield [rows[position] for position in torch.randperm(len(rows), generator=generator).tolist()]

    def _keep_copies_apart(self, generator: torch.Generator) -> torch.Tensor:
        """A random order in which the groups of one clip lie in different parts of the epoch."""
        numbers, counts = torch.tensor(self.copies, dtype=torch.float64).T
        moments = torch.rand(len(self.groups), dtype=torch.float64, generator=generator)
        return ((numbers + moments) / counts).argsort()
