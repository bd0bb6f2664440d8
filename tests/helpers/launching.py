"""How tests start processes that train together."""

import os
import socket
import sys
from pathlib import Path

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
