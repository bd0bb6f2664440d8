"""Scalars of a step, logged as the mean over all processes."""

import torch
from transformers import Trainer


class GatheredLog(Trainer):
    """Stands before TRL's class among a trainer's bases, which keeps a list of values for each name until it logs."""

    def log_gathered(self, values: dict[str, torch.Tensor]) -> None:
        """Append the mean over processes of each scalar to TRL's metrics."""
        mode = "train" if self.model.training else "eval"
        stacked = torch.stack([value.detach().float() for value in values.values()])[None]
        for name, value in zip(values, self.accelerator.gather(stacked).mean(dim=0).tolist(), strict=True):
            self._metrics[mode][name].append(value)
