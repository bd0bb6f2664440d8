"""
A vLLM server that samples from prompt embeddings, and the language model that it serves.

    python -m aurora_trl.generation.engines.vllm_server CHECKPOINT FOLDER

writes the language model of a checkpoint as a folder, and says how to serve it. The server runs in an environment of
its own, with nothing in it but vLLM.
"""

import argparse
import base64
import io
import json
import shlex
import shutil
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ...models.language_model import save_language_model, save_weights

# The version that the tests run.
VLLM = "vllm==0.32.0"
_REQUESTS_AT_ONCE = 64
# What vLLM calls its weights until somebody gives them a name.
_UNNAMED = "default"

# The ids that were sampled, and the log-prob of each.
Sampled = tuple[list[int], list[float]]


class VLLMServer:
    """
    A client of `vllm serve`, in its development mode: weights come as files of a folder that both can see.

    Args:
        url (`str`): such as `http://127.0.0.1:8000`.
        timeout (`float`): how long to wait until it answers, in seconds.

    Raises:
        `ValueError`: where it does not answer, or was started without a flag that is needed.
    """

    serves_all = True  # one for all processes, of which one sends the weights

    def __init__(self, url: str, timeout: float):
        self.url = url.rstrip("/")
        self._weights_name = ""
        self._wait(timeout)
        self.name = self._ask("/v1/models")["data"][0]["id"]
        try:
            config = self._ask("/server_info?config_format=json")["vllm_config"]["model_config"]
        except urllib.error.HTTPError:
            raise ValueError(
                f"{self._asked('VLLM_SERVER_DEV_MODE=1')} before the command: it takes no weights"
            ) from None
        if not config["enable_prompt_embeds"]:
            raise ValueError(f"{self._asked('--enable-prompt-embeds')}: it takes no clips")
        self.logprobs_mode: str = config["logprobs_mode"]
        self.max_model_length: int = config["max_model_len"]

    def require_logprobs(self, mode: str) -> None:
        """Raise `ValueError` where the server gives other log-probs than the trainer compares."""
        if self.logprobs_mode != mode:
            raise ValueError(f"{self._asked(f'--logprobs-mode {mode}')}: it has {self.logprobs_mode}")

    def sample(self, prompts: Sequence[tuple[torch.Tensor, int]], settings: dict[str, Any]) -> list[list[Sampled]]:
        """
        Sample completions.

        Args:
            prompts (`list[tuple[torch.Tensor, int]]`): embeddings `(L, D)` of each, and how many completions it gets.
            settings (`dict`): keywords of vLLM's `SamplingParams`.

        Returns:
            `list[list[Sampled]]`: those of each prompt.
        """
        with ThreadPoolExecutor(max_workers=_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(lambda each: self._complete(each[0], each[1], settings), prompts))

    def _complete(self, embeds: torch.Tensor, count: int, settings: dict[str, Any]) -> list[Sampled]:
        buffer = io.BytesIO()
        torch.save(embeds.cpu().contiguous(), buffer)
        reply = self._ask(
            "/v1/completions",
            {
                "model": self.name,
                "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(),
                "n": count,
                "return_token_ids": True,
                **settings,
            },
        )
        return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in reply["choices"]]

    def holds_own_weights(self) -> bool:
        """
        Whether the server's weights are those that this client has sent last.

        Raises:
            `ValueError`: where another run has sent its own meanwhile.
        """
        name = self._ask("/weight_info")["weight_version"]
        if self._weights_name and name not in (self._weights_name, _UNNAMED):
            raise ValueError(f"another run sends its weights to the vLLM server at {self.url}: give each its own")
        return name == self._weights_name

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
        """
        Send weights.

        Args:
            weights (`Iterable[tuple[str, torch.Tensor]]`): by the names of the class that is served.
            folder (`Path`): what the server sees under the same path; is there for the time of the call.
        """
        try:
            save_weights(iter(weights), folder)
            if not any(folder.glob("*.safetensors")):  # the language model is frozen
                return
            self._ask(
                "/collective_rpc",
                {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}},
                f"it could not read the weights in {folder.resolve()}, where it must see the same files",
            )
            if not self._ask("/reset_prefix_cache", {})["success"]:
                raise RuntimeError(f"the vLLM server at {self.url} is busy with other requests: give each run its own")
            self._weights_name = uuid.uuid4().hex
            self._ask("/update_weight_version", {"new_version": self._weights_name})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            try:
                self._open("/health", None).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise ValueError(
                        f"no vLLM server answers at {self.url}: {error}; see docs/vllm.md for how to start one"
                    ) from None
            time.sleep(min(1.0, timeout / 10))

    def _asked(self, flag: str) -> str:
        return f"start the vLLM server at {self.url} with `{flag}`"

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request)

    def _ask(self, path: str, body: dict[str, Any] | None = None, otherwise: str = "") -> Any:
        try:
            with self._open(path, body) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            if body is None:
                raise
            said = otherwise or " ".join(error.read().decode(errors="replace").split())[:400]
            raise RuntimeError(f"the vLLM server at {self.url} refused {path} ({error.code}): {said}") from None
        except OSError as error:
            raise RuntimeError(f"the vLLM server at {self.url} does not answer: {error}") from None


def serve_command(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What to add to the environment, and the command, to serve a folder that `save_language_model` wrote."""
    flags = ("--enable-prompt-embeds", "--generation-config", "vllm", "--host", "127.0.0.1")
    return {"VLLM_SERVER_DEV_MODE": "1"}, ["vllm", "serve", str(folder), *flags]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the language model of a checkpoint, and say how to serve it."""
    from ..answers import load

    parser = argparse.ArgumentParser(description="Write a checkpoint's language model as a folder for `vllm serve`.")
    parser.add_argument("checkpoint", help="a phase's folder, or a Hub repository")
    parser.add_argument("folder", type=Path, help="where to; must not be there")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} is there already: name another folder, or remove it")
    model, processor = load(options.checkpoint, "cpu")
    save_language_model(model, processor.tokenizer, options.folder)
    environment, command = serve_command(options.folder)
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    sys.stdout.write(f"{settings} {shlex.join(command)}\n")


if __name__ == "__main__":
    main()
