"""The media of the rows that come next, read while the model is at those before them."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..data.schema import Row, view_key
from ..models.processing_aurora import AuroraProcessor
from .clip_loader import ClipLoader

_THREADS = 4


class ReadAheadLoader(ClipLoader):
    """
    A [`ClipLoader`] that knows which rows come. While the model works on some of them, threads read the next clips.
    Every clip is what `ClipLoader` makes of it, and one that can not be read is an error when its turn comes.

    Use it as a context manager: at the end of the block nothing is read any more.

    Args:
        processor (`AuroraProcessor`): makes the inputs.
        rows (`Iterable[dict]`): the rows, in the order in which they will be asked for.
        ahead (`int`): clips that are read before they are asked for, at most.
        cache_clips (`int`, *optional*, defaults to 0): see [`ClipLoader`].
    """

    def __init__(self, processor: AuroraProcessor, rows: Iterable[Row], *, ahead: int, cache_clips: int = 0):
        super().__init__(processor, cache_clips)
        self._rows: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            self._rows.setdefault(view_key(row), row)
        self._turn = {key: number for number, key in enumerate(self._rows)}
        self._order = list(self._rows)
        self._ahead, self._begun = ahead, 0
        self._reading: dict[tuple[Any, ...], Future[dict[str, torch.Tensor]]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    def __enter__(self) -> "ReadAheadLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def clip(self, row: Row) -> dict[str, torch.Tensor]:
        """See [`ClipLoader.clip`]."""
        key = view_key(row)
        for other in self._order[self._begun : self._turn.get(key, -1) + 1 + self._ahead]:
            self._reading[other] = self._pool.submit(super().clip, self._rows[other])
            self._begun += 1
        reading = self._reading.pop(key, None)
        return super().clip(row) if reading is None else reading.result()
