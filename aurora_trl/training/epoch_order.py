"""The order of an epoch's rows, which their sampler draws: it hears which epoch it is."""

from typing import Any, TypeVar

from torch.utils.data import Sampler
from transformers import Trainer

AnySampler = TypeVar("AnySampler", bound=Sampler[int])


class EpochOrder(Trainer):
    """
    Stands before TRL's class among a trainer's bases.

    Of several processes accelerate forgets the sampler where a run goes on in the middle of an epoch (1.15, with
    `skip_first_batches`): it would draw the first epoch's rows.
    """

    _row_sampler: Any = None

    def _keep_sampler(self, sampler: AnySampler) -> AnySampler:
        """The sampler of the training rows, with a `set_epoch`."""
        self._row_sampler = sampler
        return sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Tell the sampler, on every process."""
        if self._row_sampler is not None:
            self._row_sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)
