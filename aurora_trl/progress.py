"""How far a long run is: a bar on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

Value = TypeVar("Value")
_BAR_DELAY_SECONDS = 1.0
_LINE = "    {n_fmt}/{total_fmt} {unit} ({desc}), {remaining} left"


class _Lines:
    """A stream on which a bar that is drawn anew is a line of its own: a log file has no carriage returns."""

    def __init__(self, stream: TextIO):
        self._stream, self._last = stream, ""

    def write(self, text: str) -> int:
        line = text.strip("\r\n")
        if line.strip() and line != self._last:  # a bar that is closed is drawn once more
            self._stream.write(line + "\n")
            self._last = line
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class Progress:
    """
    Says how far a long run is, and how long it still takes, by tqdm on stderr; nothing about a short one.

    Args:
        total (`int`): steps in all.
        every_seconds (`float`, *optional*, defaults to 15.0): between two lines, where stderr is no terminal.
        quiet (`bool`, *optional*, defaults to `False`): say nothing.
        unit (`str`, *optional*, defaults to `"answers"`): what is counted.
    """

    def __init__(self, total: int, every_seconds: float = 15.0, quiet: bool = False, unit: str = "answers"):
        self.total = total
        settings: dict[str, Any] = {"unit": f" {unit}", "delay": _BAR_DELAY_SECONDS, "leave": False}
        if not sys.stderr.isatty():
            settings = {"unit": unit, "delay": every_seconds, "mininterval": every_seconds, "bar_format": _LINE}
            settings["file"] = _Lines(sys.stderr)
        self._bar = tqdm(total=total, disable=quiet, miniters=1, **settings)

    def step(self, what: str, count: int = 1) -> None:
        """`count` more are done, as part of `what`."""
        self._bar.set_description_str(what, refresh=False)
        self._bar.update(count)
        if self._bar.n >= self.total:
            self._bar.close()

    def over(self, values: Iterable[Value], what: str) -> Iterator[Value]:
        """The values, each a step of `what`."""
        for value in values:
            yield value
            self.step(what)
