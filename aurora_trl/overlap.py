"""Work that goes on beside other work, with the results of doing one after the other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], *, most_waiting: int) -> Iterator[Result]:
    """
    What a function makes of items, one after the other in a thread, while the next items are being made.

    Args:
        function (`Callable`): called with one item at a time, in their order.
        items (`Iterable`): made in the caller's thread.
        most_waiting (`int`): items that may wait for the function, at least 1; then the caller waits for it.

    Yields:
        The results, in order. Where an item can not be made, those before it come first, then the error.
    """
    source = iter(items)
    waiting: deque[Future[Result]] = deque()
    error: Exception | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        try:
            while error is None:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except StopIteration:
                    break
                except Exception as raised:
                    error = raised
                while len(waiting) > most_waiting or (waiting and waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if error is not None:
        raise error
