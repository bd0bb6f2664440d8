"""A line on stderr now and then."""

import sys
import time


class Progress:
    """
    Says how far a long run is, and how long it still takes; nothing about a short one.

    Args:
        total (`int`): steps in all.
        every_seconds (`float`, *optional*, defaults to 15.0): between two lines.
        quiet (`bool`, *optional*, defaults to `False`): say nothing.
        unit (`str`, *optional*, defaults to `"answers"`): what is counted.
    """

    def __init__(self, total: int, every_seconds: float = 15.0, quiet: bool = False, unit: str = "answers"):
        self.total, self.every, self.quiet, self.unit = total, every_seconds, quiet, unit
        self.done = 0
        self.started = self.last = time.time()

    def step(self, what: str, count: int = 1) -> None:
        """`count` more are done, as part of `what`."""
        self.done += count
        now = time.time()
        short = now - self.started < self.every
        if self.quiet or short or (now - self.last < self.every and self.done < self.total):
            return
        self.last = now
        left = (now - self.started) / self.done * (self.total - self.done)
        sys.stderr.write(f"    {self.done}/{self.total} {self.unit} ({what}), {left:.0f} s left\n")
        sys.stderr.flush()
