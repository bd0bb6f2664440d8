"""The examples run."""

import importlib.util
import sys

import pytest
import torch
from conftest import REPOSITORY

from aurora_trl import AuroraModel, AuroraProcessor


@pytest.fixture(scope="module")
def custom_policy():
    """The example as a module of its own, as a project outside the package has it."""
    spec = importlib.util.spec_from_file_location("custom_policy", REPOSITORY / "examples" / "custom_policy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_policy"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["custom_policy"]


@pytest.mark.slow
def test_custom_policy_trains(custom_policy, tmp_path):
    sft, grpo = custom_policy.main(str(tmp_path), steps=12)
    losses = [entry["loss"] for entry in sft.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    logged = set().union(*grpo.state.log_history)
    assert {"rewards/iou_reward/mean", "seg_share", "iou"} <= logged
    assert any(entry.get("seg_share", 0) > 0 for entry in grpo.state.log_history)
    again = AuroraModel.from_pretrained(tmp_path / "grpo")
    assert type(again.policy) is custom_policy.GlimpseForConditionalGeneration
    for name, value in grpo.model.state_dict().items():
        assert torch.equal(value.cpu(), again.state_dict()[name]), name
    assert type(AuroraProcessor.from_pretrained(tmp_path / "grpo").policy_processor) is custom_policy.GlimpseProcessor
