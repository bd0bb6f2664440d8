"""Rollouts by vLLM: `make test-vllm` makes an environment, and names a Python that has vLLM in `VLLM_PYTHON`."""

import importlib.util
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from grpo_helpers import SETTINGS, build, letter_reward, logged
from sft_helpers import build as build_sft
from transformers import LogitsProcessor, LogitsProcessorList

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraProcessor
from aurora_trl.generation.engines.vllm_server import main, serve_command
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config
from aurora_trl.training.rewards import format_reward, iou_reward

PYTHON = os.environ.get("VLLM_PYTHON")
HERE = importlib.util.find_spec("vllm") is not None
MODES = [
    pytest.param("server", marks=pytest.mark.skipif(not PYTHON, reason="no `VLLM_PYTHON`: run `make test-vllm`")),
    pytest.param("colocate", marks=pytest.mark.skipif(not HERE, reason="no vLLM in this environment")),
]
# On a CPU vLLM takes a share of all memory for its cache, and a core of its own, unless it is told.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def checkpoint_that_draws(cot_rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learned to write `It is [SEG].`; vLLM's attention on a CPU takes heads of 32, not of 16."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny = create_tiny_checkpoint(folder / "tiny", image_size=32, hidden_size=128, num_layers=2)
    settings = {"targets": "answer", "max_steps": 25}
    processor = AuroraProcessor.from_pretrained(tiny)
    trainer = build_sft(AuroraModel.from_pretrained(tiny), cot_rows, processor, folder / "drawing", **settings)
    trainer.train()
    trainer.save_model()
    return folder / "drawing"


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health").close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def server(checkpoint_that_draws: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the checkpoint's language model, started as the module's command says."""
    folder = tmp_path_factory.mktemp("served") / "language_model"
    main([str(checkpoint_that_draws), str(folder)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment, command = serve_command(folder)
    # The package of the CPU build has another name, by which its command `vllm` does not find itself.
    module = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command = [*module, *command[2:], "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "256", "--max-num-seqs", "8"]
    environment = {**os.environ, **ENVIRONMENT, **environment}
    environment.pop("PYTHONPATH", None)  # nothing of this environment is in its own
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def vllm_settings(mode: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict:
    if mode == "server":
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": request.getfixturevalue("server"),
        }
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 256}


class Seen:
    """A reward that keeps what it is shown."""

    __name__ = "seen_reward"

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, completion_ids, pred_masks, **columns):
        self.calls.append((completion_ids, pred_masks))
        return letter_reward(prompts, completions)


class Forced(LogitsProcessor):
    """Leaves one token to sample: that of completions which are given."""

    def __init__(self, completion_ids, eos_token_id):
        self.completion_ids, self.eos_token_id = completion_ids, eos_token_id
        self.prompt_length = None

    def __call__(self, input_ids, scores):
        if self.prompt_length is None:
            self.prompt_length = input_ids.size(1)
        step = input_ids.size(1) - self.prompt_length
        only = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.completion_ids):
            only[row, ids[step] if step < len(ids) else self.eos_token_id] = 0.0
        return only


def make(checkpoint, rows, processor, folder, **settings):
    model, seen = AuroraModel.from_pretrained(checkpoint), Seen()
    if settings.pop("lora", False):
        groups = AuroraGRPOConfig(output_dir=str(folder), **SETTINGS).trainable_groups()
        settings["peft_config"] = lora_config(model, LoraArguments(use_lora=True), groups)
    settings = {"rewards": [format_reward, iou_reward, seen], "max_completion_length": 16, **settings}
    return build(model, rows, processor, folder, **settings), seen


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", MODES)
def test_log_probs_are_the_trainers_before_and_after_steps(
    lora, vllm_settings, checkpoint_that_draws, cot_rows, processor, tmp_path
):
    """Three rollouts, each with the weights of its step."""
    settings = {"max_steps": 3, "temperature": 1.0, "top_p": 0.9, "lora": lora, **vllm_settings}
    trainer, _ = make(checkpoint_that_draws, cot_rows, processor, tmp_path, **settings)
    trainer.train()
    worst = logged(trainer, "sampling/sampling_logp_difference/max")
    assert len(worst) == 3
    assert max(value for (value,) in worst) < CLOSE, worst
    ratios = logged(trainer, "sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/max")
    assert all(abs(value - 1.0) < 16 * CLOSE for pair in ratios for value in pair)
    assert not list(tmp_path.glob(".vllm*"))
    # What trains has changed much, adapters among it: as long as it is not sent log-probs are others.
    engine, rows = trainer.vllm_generation, cot_rows.select(range(4))
    torch.manual_seed(0)
    for parameter in trainer.aurora.policy.parameters():
        if parameter.requires_grad:
            parameter.data += (0.2 if lora else 0.05) * torch.randn_like(parameter)
    sync, engine.sync_weights = engine.sync_weights, lambda: None
    trainer.evaluate(rows)
    engine.sync_weights, trainer._last_loaded_step = sync, -1
    trainer.evaluate(rows)
    name = "eval_sampling/sampling_logp_difference/max"
    late, synced = (entry[name] for entry in trainer.state.log_history if name in entry)
    assert synced < CLOSE < 1e-2 < late


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vllm_importance_sampling_correction": False},
        {"mask_truncated_completions": True},
        {"shared_prefix": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", MODES)
def test_rewards_are_those_of_eager_for_the_same_tokens(
    settings, vllm_settings, checkpoint_that_draws, cot_rows, processor, tmp_path
):
    common = {"max_steps": 1, "max_completion_length": 12}
    trainer, seen = make(
        checkpoint_that_draws, cot_rows, processor, tmp_path / "vllm", **{**common, **settings, **vllm_settings}
    )
    settings = {name: value for name, value in settings.items() if not name.startswith("vllm_")}
    trainer.train()
    eager, seen_by_eager = make(checkpoint_that_draws, cot_rows, processor, tmp_path / "eager", **common, **settings)
    (completion_ids, pred_masks) = seen.calls[0]
    generate = eager.aurora.generate

    def forced(*args, **kwargs):
        only = Forced(completion_ids, processor.tokenizer.eos_token_id)
        return generate(*args, logits_processor=LogitsProcessorList([only]), **kwargs)

    eager.aurora.generate = forced
    eager.train()
    assert seen_by_eager.calls[0][0] == completion_ids
    assert sum(masks is not None for masks in pred_masks) > len(pred_masks) // 2
    for ours, reference in zip(pred_masks, seen_by_eager.calls[0][1], strict=True):
        assert (ours is None) == (reference is None)
        if ours is not None:
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
    names = ["rewards/format_reward/mean", "rewards/iou_reward/mean", "rewards/seen_reward/mean", "reward", "iou"]
    assert logged(trainer, *names)[0] == pytest.approx(logged(eager, *names)[0], abs=1e-4)
