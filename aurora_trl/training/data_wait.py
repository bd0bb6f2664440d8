"""How long training waits for its data: a run that is bound by reading says so."""

import time
from typing import Any

from accelerate.logging import get_logger
from transformers import Trainer

logger = get_logger(__name__)

# From here on the log says what to do about it.
MUCH = 0.2


class DataWaitLog(Trainer):
    """Stands before TRL's class among a trainer's bases: logs `data_wait`, the share of the time spent on waiting."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._waited_seconds = 0.0
        self._last_log: float | None = None
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Time how long the batches of a step take to come."""
        started = time.perf_counter()
        if self._last_log is None:
            self._last_log = started
        batches = super().get_batch_samples(*args, **kwargs)
        self._waited_seconds += time.perf_counter() - started
        return batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share to what is logged about training steps; what is logged about an evaluation has none."""
        if "loss" in logs and self._last_log is not None:
            now = time.perf_counter()
            share = self._waited_seconds / max(now - self._last_log, 1e-9)
            logs["data_wait"] = share
            if share > MUCH:
                logger.warning(
                    f"step {self.state.global_step}: {share:.0%} of the time went by in waiting for data, "
                    f"{self._waited_seconds:.1f} s since the last log. `dataloader_num_workers` is "
                    f"{self.args.dataloader_num_workers}: more of them read ahead, up to the cores that there are; "
                    "`media_cache_clips` keeps clips that come again; smaller media files are read faster"
                )
            self._waited_seconds, self._last_log = 0.0, now
        super().log(logs, start_time)
