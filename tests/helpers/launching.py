"""How tests start processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fork_server
from conftest import REPOSITORY

BIN = Path(sys.executable).parent


def accelerate_launch(config: str) -> list[str]:
    """
    `accelerate launch` with a config of `recipes/accelerate`.

    Its processes meet on a port that nobody listens on: accelerate's own is one for all that run beside each other.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    file = REPOSITORY / "recipes" / "accelerate" / f"{config}.yaml"
    return [str(BIN / "accelerate"), "launch", "--config_file", str(file), "--main_process_port", port]


def launch_environment() -> dict[str, str]:
    """Of processes that have a core each, and find this checkout and its commands."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def run_with(folder: Path) -> list[str]:
    """`aurora run`, whose steps are the commands of a folder: it takes those that stand beside its Python."""
    start = (
        f"import sys; sys.executable = {str(folder / 'python')!r}\nfrom aurora_trl.cli import main; sys.exit(main())"
    )
    return [sys.executable, "-c", start, "run"]


@dataclass(frozen=True)
class ForkedCommands:
    """
    The project's commands and the launchers, which start without importing anything: see `fork_server.py`.

    Attributes:
        folder (`Path`): where they are.
        environment (`dict[str, str]`): in which they start.
    """

    folder: Path
    environment: dict[str, str]

    def aurora(self, *words: object) -> list[str]:
        return [str(self.folder / "aurora"), *map(str, words)]

    def script(self, path: str | Path, *words: object) -> list[str]:
        return [str(self.folder / "accelerate"), "launch", str(path), *map(str, words)]

    def two(self, command: list[str]) -> list[str]:
        """A command on two processes, by Python's launcher: accelerate's starts one on CPUs (1.15)."""
        return [str(self.folder / "torchrun"), "--standalone", "--nproc_per_node", "2", "--no-python", *command]

    def accelerate(self, config: str, command: list[str]) -> list[str]:
        """A command as `accelerate launch` starts it with a config of `recipes/accelerate`."""
        return [str(self.folder / "accelerate"), *accelerate_launch(config)[1:], "--no_python", *command]

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": REPOSITORY, "env": self.environment, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)


@contextmanager
def forked_commands(folder: Path) -> Iterator[ForkedCommands]:
    """
    Serve forks for as long as the block lasts.

    Args:
        folder (`Path`): gets the commands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("aurora", "accelerate", "torchrun"):
        script = folder / name
        script.write_text(f"#!{sys.executable} -S\n" + Path(fork_server.__file__).read_text())
        script.chmod(0o755)
    path = str(folder / "socket")
    environment = {**launch_environment(), fork_server.SOCKET_VARIABLE: path, "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen([sys.executable, fork_server.__file__, path], env=environment)
    try:
        while not Path(path).exists():
            assert server.poll() is None
            time.sleep(0.1)
        yield ForkedCommands(folder, environment)
    finally:
        server.kill()
        server.wait()
