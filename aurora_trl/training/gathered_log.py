"""Scalars of a step, logged as the mean over all processes."""

import torch
from transformers import Trainer


class GatheredLog(Trainer):
    """Stands before TRL's class among a trainer's bases, which keeps a list of values for each name until it logs."""

    def log_gathered(self, values: dict[str, torch.Tensor], rows: int = 1) -> None:
        """
        Append the mean over processes of each scalar to TRL's metrics.

        Args:
            values (`dict[str, torch.Tensor]`): scalars by name.
            rows (`int`, *optional*, defaults to 1): how many rows each is the mean of. In an evaluation, whose last
                batch has fewer than the others, each row counts as much: TRL takes the mean of its list.
        """
        mode = "train" if self.model.training else "eval"
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if mode == "train":
            for name, value in zip(values, self.accelerator.gather(stacked[None]).mean(dim=0).tolist(), strict=True):
                self._metrics[mode][name].append(value)
            return
        counts = self.accelerator.gather(torch.tensor([rows], device=stacked.device))
        means = (self.accelerator.gather(stacked[None]) * counts[:, None]).sum(dim=0) / counts.sum()
        for name, value in zip(values, means.tolist(), strict=True):
            self._metrics[mode][name].extend([value] * int(counts.sum()))
