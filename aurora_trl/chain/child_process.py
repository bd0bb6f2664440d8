"""Commands that a chain runs, and that must not outlive it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil


def search_path() -> str:
    """Where commands are looked for: in this environment, whether or not it is activated, then as the shell does."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """
    Let the processes that are started in the block end when this one is told to.

    A Ctrl-C reaches all processes of a terminal, a SIGTERM (from `kill`, `docker stop`) this one alone: it is passed
    on to all that were started here, launchers and training processes. Otherwise they would train on, and the
    command, run again, would write where they write.
    """

    def end_all(_number: int, _frame: object) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()

    if threading.current_thread() is not threading.main_thread():  # only the main one receives signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end_all)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """
    Run a command to its end; it does not outlive this process, see `ending_together`.

    Args:
        command (`Sequence[str]`): the command and its arguments.
        environment (`Mapping[str, str]`): its environment.

    Returns:
        `int`: its exit code; negative where a signal ended it.
    """
    child = subprocess.Popen(list(command), env=dict(environment))
    with ending_together():
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.wait()  # it heard of it, too; the chain's lock is held until nobody writes any more
            raise
