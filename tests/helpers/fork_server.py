"""Runs the project's commands in forks of one process that has imported everything: a command starts in no time.

    python fork_server.py SOCKET        # and commands, as links to this file called `aurora` and `accelerate`

A command is in the process group of whoever called it, or watches it, and is killed with it. For tests that start
many.
"""

import atexit
import contextlib
import os
import pickle
import runpy
import socket
import sys
import threading
import time
from pathlib import Path

SOCKET_VARIABLE = "FORK_SERVER_SOCKET"


def serve(path: str) -> None:
    import deepspeed  # noqa: F401
    import torch
    from trl import GRPOTrainer, SFTTrainer  # noqa: F401

    from aurora_trl import AuroraGRPOTrainer, AuroraPipeline, AuroraSFTTrainer  # noqa: F401
    from aurora_trl.annotation import mine_file  # noqa: F401
    from aurora_trl.data.synthetic import SyntheticAnnotator  # noqa: F401
    from aurora_trl.evaluation.evaluate import evaluate_model  # noqa: F401
    from aurora_trl.tiny.videollama2 import create_tiny_checkpoint  # noqa: F401

    # On several threads sums come in any order. A recipe takes as many as there are cores that it may use. Tests that
    # run beside each other take one each.
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    torch.set_num_threads(1)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.settimeout(1.0)
    parent = os.getppid()
    while os.getppid() == parent:  # with the tests that started it, it ends
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        content, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        process = os.fork()
        if process == 0:
            server.close()
            connection.close()
            run(*pickle.loads(content), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        threading.Thread(target=answer, args=(connection, process), daemon=True).start()


def answer(connection: socket.socket, process: int) -> None:
    _, status = os.waitpid(process, 0)
    with connection, contextlib.suppress(OSError):  # whoever asked was killed, too
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def follow(caller: int) -> None:
    while is_alive(caller):
        time.sleep(0.5)
    os._exit(1)


def run(
    argv: list[str], folder: str, environment: dict[str, str], group: int, caller: int, descriptors: list[int]
) -> None:
    """What a command does, in the fork; it ends as a process does."""
    code = 1
    try:
        try:
            os.setpgid(0, group)
        except PermissionError:  # of another session, as torch's launcher has one for each process
            threading.Thread(target=follow, args=(caller,), daemon=True).start()
        if not is_alive(caller):
            os._exit(1)  # the group was killed before this process was in it
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        if Path(argv[0]).name == "accelerate":
            sys.argv = argv[2:]  # accelerate launch SCRIPT …
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        else:
            from aurora_trl.cli import main

            sys.argv = argv
            code = main(argv[1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call() -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET_VARIABLE])
        content = pickle.dumps((sys.argv, os.getcwd(), dict(os.environ), os.getpgrp(), os.getpid()))
        socket.send_fds(connection, [content], [0, 1, 2])
        return int(connection.recv(100) or b"1")


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[0]).name == "fork_server.py":
        serve(sys.argv[1])
    sys.exit(call())
