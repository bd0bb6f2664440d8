"""Runs the project's commands in forks of one process that has imported everything: a command starts in no time.

    python fork_server.py SOCKET        # and commands: copies of this file called `aurora`, `accelerate`, `torchrun`

A command is in the process group of whoever called it, or watches it, and is killed with it. The launchers are the
real ones. What they start is another such command; `accelerate launch SCRIPT` without options runs the script itself.
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
    import torch.distributed.run
    from accelerate.commands import accelerate_cli  # noqa: F401
    from trl import GRPOTrainer, SFTTrainer  # noqa: F401

    from aurora_trl import AuroraGRPOTrainer, AuroraPipeline, AuroraSFTTrainer  # noqa: F401
    from aurora_trl.annotation import mine_file  # noqa: F401
    from aurora_trl.data.synthetic import SyntheticAnnotator  # noqa: F401
    from aurora_trl.evaluation.evaluate import evaluate_model  # noqa: F401
    from aurora_trl.tiny.videollama2 import create_tiny_checkpoint  # noqa: F401

    # On several threads sums come in any order, and a recipe takes as many as there are cores that it may use.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
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
        code = main(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(argv: list[str]) -> int:
    sys.argv = argv
    match Path(argv[0]).name:
        case "torchrun":
            from torch.distributed.run import main as launch

            launch()
        case "accelerate" if argv[2].startswith("--"):
            from accelerate.commands.accelerate_cli import main as launch

            launch()
        case "accelerate":
            sys.argv = argv[2:]
            sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))  # as Python does for a script
            runpy.run_path(sys.argv[0], run_name="__main__")
        case _:
            from aurora_trl.cli import main as command

            return command(argv[1:])
    return 0


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
