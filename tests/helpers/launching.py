"""How tests start processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def forked_commands(folder: Path) -> Iterator[dict[str, str]]:
    """
    Make `aurora` and `accelerate` in a folder, which start without importing anything: see `fork_server.py`.

    Yields:
        `dict[str, str]`: the environment in which they start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("aurora", "accelerate"):
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
        yield environment
    finally:
        server.kill()
        server.wait()
