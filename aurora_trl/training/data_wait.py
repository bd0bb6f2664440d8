"""How long training waits for its data: a run that is bound by reading says so."""

import time
from typing import Any

from accelerate.logging import get_logger
from transformers import Trainer

logger = get_logger(__name__)

# From this share of the time on, and from so many seconds in all, a line says what to do about it; once in a run.
MUCH = 0.2
MANY_SECONDS = 60.0


class DataWaitLog(Trainer):
    """Stands before TRL's class among a trainer's bases: logs `data_wait`, the share of the time spent on waiting."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._waited_seconds, self._waited_in_all = 0.0, 0.0
        self._first_batch: float | None = None
        self._last_log = 0.0
        self._has_said = False
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Time how long the batches of a step take to come."""
        started = time.perf_counter()
        if self._first_batch is None:
            self._first_batch = self._last_log = started
        batches = super().get_batch_samples(*args, **kwargs)
        self._waited_seconds += time.perf_counter() - started
        return batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share to what is logged about training steps; what is logged about an evaluation has none."""
        if "loss" in logs and self._first_batch is not None:
            now = time.perf_counter()
            logs["data_wait"] = self._waited_seconds / max(now - self._last_log, 1e-9)
            self._waited_in_all += self._waited_seconds
            self._say_once(self._waited_in_all, now - self._first_batch)
            self._waited_seconds, self._last_log = 0.0, now
        super().log(logs, start_time)

    def _say_once(self, waited: float, seconds: float) -> None:
        if self._has_said or waited < MANY_SECONDS or waited < MUCH * seconds:
            return
        self._has_said = True
        logger.warning(
            f"step {self.state.global_step}: training has waited for data for {waited:.0f} s, {waited / seconds:.0%} "
            f"of its time. `dataloader_num_workers` is {self.args.dataloader_num_workers}: more of them read ahead, "
            "up to the cores that there are; `media_cache_clips` keeps clips that come again; smaller media files are "
            "read faster"
        )
