"""The flags of an annotator, which of them go together, and the annotator that they ask for."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..journal import beside
from .common import number, whole

# Whose flags these are; those of a run go with every annotator.
_SERVE_FLAGS = ("vllm", "replicas", "serve_arguments", "serve_timeout")
_SERVER_FLAGS = ("timeout", "max_retries")
_MODEL_FLAGS = ("temperature", "max_output_tokens", "max_cost", "input_price", "output_price")
_RUN_FLAGS = ("concurrency", "requests_per_minute", "max_attempts", "max_requests")

_ANNOTATOR_HELP = (
    "synthetic:DIR (a synthetic world's truth), qwen-omni:CHECKPOINT (a local Qwen2.5-Omni), openai:MODEL (OpenAI, or "
    "any compatible server with --base-url), gemini:MODEL"
)


def add_annotator(command: argparse.ArgumentParser) -> None:
    """Add the flags of who writes text, and of the run that asks."""
    group = command.add_argument_group("the annotator")
    group.add_argument("--annotator", help=_ANNOTATOR_HELP)
    group.add_argument(
        "--serve",
        metavar="MODEL",
        help="in place of --annotator: start a vLLM server with this checkpoint or Hub repository, such as "
        "Qwen/Qwen2.5-Omni-7B, ask it, and stop it",
    )
    group.add_argument("--vllm", metavar="PROGRAM", help="of --serve (default: vllm on the path)")
    group.add_argument("--replicas", type=whole(1), help="of --serve: GPUs that each hold the model (default: 1)")
    group.add_argument("--serve-arguments", metavar="TEXT", help="of --serve: more for `vllm serve`")
    group.add_argument(
        "--serve-timeout",
        type=number(0, above=True),
        metavar="SECONDS",
        help="of --serve: how long the server may load (default: 1800)",
    )
    group.add_argument("--base-url", help="of a compatible server, such as http://localhost:8000/v1 for vLLM's")
    group.add_argument(
        "--key-variable",
        metavar="NAME",
        help="environment variable with the key (default: OPENAI_API_KEY for OpenAI, GEMINI_API_KEY or GOOGLE_API_KEY "
        "for Gemini, none with --base-url)",
    )
    group.add_argument("--temperature", type=number(0), help="(default: the model's)")
    group.add_argument("--max-output-tokens", type=whole(1), help="of an answer (default: by annotator)")
    group.add_argument("--timeout", type=number(0, above=True), metavar="SECONDS", help="(default: 120)")

    group = command.add_argument_group("limits")
    group.add_argument("--estimate", action="store_true", help="say what the run will take, and ask nothing")
    group.add_argument(
        "--concurrency",
        type=whole(1),
        help="requests at a time (default: 4; of qwen-omni: 32, read and answered by halves; of --serve 64 a GPU)",
    )
    group.add_argument("--requests-per-minute", type=number(0, above=True), help="(default: no limit)")
    group.add_argument("--max-attempts", type=whole(1), help="answers asked for a row (default: 3)")
    group.add_argument("--max-retries", type=whole(0), help="after rate limits and timeouts (default: 6)")
    group.add_argument("--max-requests", type=whole(0), help="stop here; the same command with more continues")
    group.add_argument("--max-cost", type=number(0), help="stop here, in the currency of the prices")
    group.add_argument("--input-price", type=number(0), help="of a million tokens that are sent")
    group.add_argument("--output-price", type=number(0), help="of a million tokens that are written")


@contextmanager
def open_annotator(arguments: argparse.Namespace, null_reasons: bool = False) -> Iterator[Any]:
    """The annotator that was asked for; a server that it needs lives as long as the block."""
    from ..annotation import get_annotator
    from ..annotation.vllm_server import served_annotator

    options = {**_given(arguments, "temperature", "max_output_tokens"), **_given(arguments, timeout="timeout_seconds")}
    if arguments.serve is None:
        yield get_annotator(
            arguments.annotator,
            base_url=arguments.base_url,
            key_variable=arguments.key_variable,
            null_reasons=null_reasons,
            **options,
        )
        return
    with served_annotator(
        arguments.serve,
        beside(arguments.output, "vllm", ".log"),
        start=not arguments.estimate,
        arguments=shlex.split(arguments.serve_arguments or ""),
        **_given(arguments, "replicas", vllm="command", serve_timeout="serve_timeout_seconds"),
        **options,
    ) as annotator:
        yield annotator


def _given(arguments: argparse.Namespace, *names: str, **renamed: str) -> dict[str, Any]:
    """The flags that were given, by the names that they have elsewhere."""
    known = {**{name: name for name in names}, **renamed}
    return {known[name]: value for name in known if (value := getattr(arguments, name)) is not None}


def require_own_flags(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` where not exactly one annotator is named, or a flag is of another kind of annotator."""
    if (arguments.annotator is None) == (arguments.serve is None):
        raise ValueError("name the annotator with --annotator, or a model for a server of its own with --serve")
    if arguments.serve is not None and arguments.base_url is not None:
        raise ValueError("--base-url is of a server that runs already, and --serve starts one: leave one of them out")
    kind = "serve" if arguments.serve is not None else arguments.annotator.partition(":")[0]
    for names, kinds, what in (
        (_SERVE_FLAGS, ("serve",), "is of a server that --serve starts: name its model there"),
        (("key_variable",), ("openai", "gemini"), "is of openai:MODEL and gemini:MODEL, which take a key"),
        (_SERVER_FLAGS, ("openai", "gemini", "serve"), "is of an annotator that is asked through a server"),
        (_MODEL_FLAGS, ("openai", "gemini", "serve", "qwen-omni"), "is of a model that is asked"),
    ):
        for name in _given(arguments, *names) if kind not in kinds else ():
            raise ValueError(f"{_flag(name)} {what}; leave it out")


def require_nobody_asked(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` for flags of an annotator, or of what it writes, where earlier corrections are taken."""
    asked = ("key_variable", "base_url", *_SERVE_FLAGS, *_SERVER_FLAGS, *_MODEL_FLAGS, *_RUN_FLAGS)
    for name in _given(arguments, *asked, "max_rows", "corrected"):
        raise ValueError(f"{_flag(name)} does not go with --answers, whose corrections are taken as they are")
    if arguments.estimate:
        raise ValueError("--estimate does not go with --answers: nobody is asked")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def get_limits(arguments: argparse.Namespace) -> Any:
    """The limits of the run."""
    from ..annotation import RunLimits

    if arguments.serve is not None:
        usual = 64 * (arguments.replicas or 1)
    else:
        usual = 32 if str(arguments.annotator).startswith("qwen-omni:") else 4
    return RunLimits(
        # The world's truth is written faster by one thread than by several that wait for each other.
        concurrency=1 if str(arguments.annotator).startswith("synthetic:") else arguments.concurrency or usual,
        requests_per_minute=arguments.requests_per_minute,
        **_given(arguments, "max_attempts", "max_retries"),
        max_requests=arguments.max_requests,
        max_cost=arguments.max_cost,
        input_price=arguments.input_price,
        output_price=arguments.output_price,
    )
