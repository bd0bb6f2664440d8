"""An order of rows in which those about one clip stand together."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..data.schema import clip_key


class ClipGroupSampler(Sampler[int]):
    """
    Draws clips at random, and the rows of each clip at random within it.

    Args:
        dataset (`Dataset`): rows with the columns of `aurora_trl.data.schema`.
        seed (`int`): of the order; each epoch has its own.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.seed = seed
        self.epoch = 0
        media = dataset.select_columns([name for name in ("frames", "video", "audio") if name in dataset.column_names])
        groups: dict[object, list[int]] = {}
        for index, row in enumerate(media):
            groups.setdefault(clip_key(row), []).append(index)
        self.groups = list(groups.values())
        self.length = len(dataset)

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100003 + self.epoch)
        for group in torch.randperm(len(self.groups), generator=generator).tolist():
            rows = self.groups[group]
            for position in torch.randperm(len(rows), generator=generator).tolist():
                yield rows[position]
