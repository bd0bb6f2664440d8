"""What a full disk does, without one."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files_only(limit: int) -> Iterator[None]:
    """Inside the block this process can write no file that is larger than `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
