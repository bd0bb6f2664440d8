"""A vLLM server that lives as long as the run that asks it."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from ..errors import DataError
from .annotators import ChatAnnotator, get_annotator

# What a request shows at most, see `CORRECTION_FRAMES`; vLLM keeps room for as much.
_MEDIA_LIMITS = '{"image": 10, "audio": 1}'
_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0
_LAST_WORDS = 300


@contextmanager
def serve_model(
    model: str,
    log: str | Path,
    *,
    command: str = "vllm",
    replicas: int = 1,
    arguments: Sequence[str] = (),
    serve_timeout_seconds: float = 1800.0,
) -> Iterator[str]:
    """
    Start `vllm serve` on a free port of this machine, wait until it answers, and stop it at the end of the block.

    Args:
        model (`str`): a checkpoint folder or Hub repository.
        log (`str` or `Path`): file for what the server says.
        command (`str`, *optional*, defaults to `"vllm"`): the program, by its name on the path or by its file. vLLM
            wants its own torch, so it usually stands in another environment.
        replicas (`int`, *optional*, defaults to 1): GPUs that each hold the model; requests are dealt out to them.
        arguments (`Sequence[str]`, *optional*): more arguments of `vllm serve`.
        serve_timeout_seconds (`float`, *optional*, defaults to 1800.0): how long it may load.

    Yields:
        `str`: the base URL of its OpenAI-compatible endpoint.

    Raises:
        `DataError`: where there is no such program, it ends or says nothing before the time is over, or an argument
            would give it a key, which would stand in the log.
    """
    if any(word.split("=")[0] == "--api-key" for word in arguments):
        raise DataError("--api-key: the server is this machine's alone and asks for no key; leave it out")
    program = find_program(command)
    port = _free_port()
    words = [program, "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--limit-mm-per-prompt", _MEDIA_LIMITS]
    if replicas > 1:
        words += ["--data-parallel-size", str(replicas)]
    words += arguments
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"starting {shlex.join(words)}; {log} has what it says\n")
    sys.stderr.flush()
    with open(log, "wb") as file, _stopped_by_sigterm():
        # A session of its own: a Ctrl-C lets the run keep the answers under way, which the server has to give.
        server = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_until_ready(server, f"http://127.0.0.1:{port}/health", Path(log), serve_timeout_seconds)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(server)


@contextmanager
def served_annotator(
    model: str,
    log: str | Path,
    *,
    start: bool = True,
    temperature: float | None = None,
    max_output_tokens: int | None = None,
    timeout_seconds: float = 120.0,
    **server: Any,
) -> Iterator[ChatAnnotator]:
    """
    An annotator behind a server that `serve_model` starts for the block.

    Args:
        model (`str`), log (`str` or `Path`), **server: see `serve_model`.
        start (`bool`, *optional*, defaults to `True`): whether anything will be asked; an estimate needs no server.
        temperature, max_output_tokens, timeout_seconds: see `get_annotator`.

    Yields:
        [`ChatAnnotator`]: a run is continued whatever port the server has.
    """
    with serve_model(model, log, **server) if start else nullcontext("http://127.0.0.1/v1") as url:
        annotator = get_annotator(
            f"openai:{model}",
            base_url=url,
            temperature=temperature,
            max_output_tokens=max_output_tokens,
            timeout_seconds=timeout_seconds,
        )
        assert isinstance(annotator, ChatAnnotator)
        annotator.settings = {**annotator.settings, "annotator": f"vllm:{model}", "base_url": None}
        yield annotator


def find_program(command: str) -> str:
    """
    The file of a program on the path, or beside this Python.

    Raises:
        `DataError`: where there is none.
    """
    search_path = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    found = shutil.which(command, path=search_path)
    if found is None:
        raise DataError(
            f"{command}: no such program; install vLLM in an environment of its own (`python -m venv vllm && "
            "vllm/bin/pip install vllm`), and name it: --vllm vllm/bin/vllm"
        )
    return found


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path, timeout_seconds: float) -> None:
    # No proxy stands between a machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout_seconds
    while True:
        if server.poll() is not None:
            raise DataError(f"the vLLM server ended with exit code {server.returncode}: {_last_words(log)}; see {log}")
        try:
            with opener.open(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            pass  # it is not there yet, or loads
        if time.monotonic() > deadline:
            raise DataError(
                f"the vLLM server was not ready after {timeout_seconds:.0f} s; see {log}, or give it more with "
                "--serve-timeout"
            )
        time.sleep(_POLL_SECONDS)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:_LAST_WORDS] if lines else "it said nothing"


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it has started."""
    try:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
    except psutil.NoSuchProcess:
        return
    server.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for process in alive:
        process.kill()
    server.wait()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let a SIGTERM unwind the block, so that the server does not outlive the run."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
