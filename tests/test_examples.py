"""The examples run."""

import importlib.util
import json
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from aurora_trl import AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.cli import main
from aurora_trl.data.masks import load_masks

EXAMPLES = REPOSITORY / "examples"


@contextmanager
def example(name):
    """An example as a module of its own, as a project outside the package has it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def custom_policy():
    with example("custom_policy") as module:
        yield module


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


def test_custom_mask_decoder_trains(tmp_path):
    with example("custom_mask_decoder") as module:
        trainer = module.main(str(tmp_path), steps=30)
        ious = [entry["iou"] for entry in trainer.state.log_history if "iou" in entry]
        assert max(ious[-5:]) > max(ious[:5])
        pipe = AuroraPipeline.from_pretrained(tmp_path / "model")
        assert type(pipe.model.mask_decoder) is module.DotDecoder
        row = trainer.train_dataset[0]
        result = pipe(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=12)
        assert result.masks.shape == (10, 48, 48)


def test_custom_dataset_is_read(tmp_path, capsys):
    with example("custom_dataset") as module:
        dataset = module.main(str(tmp_path))
    assert dataset["reference"][:2] == ["the red square", "the blue square"]
    red, blue = (load_masks(dataset[i]) for i in range(2))
    assert red.sum() == blue.sum() == 10 * 13 * 13
    assert not (red & blue).any()
    assert main(["check-data", str(tmp_path / "rows.jsonl")]) == 0
    assert "8 rows, all is well" in capsys.readouterr().out


def test_the_notebook_runs(drawing_checkpoint, world, tmp_path, monkeypatch, capsys):
    """Its code cells in order, with a small checkpoint in the place of the demo's."""
    cells = json.loads((EXAMPLES / "checkpoint_to_overlay.ipynb").read_text())["cells"]
    tiny = tmp_path / "outputs" / "tiny"
    tiny.mkdir(parents=True)
    (tiny / "grpo").symlink_to(drawing_checkpoint)
    (tiny / "data").symlink_to(world)
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "clear the outputs before a commit"
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["result"].reasoning in capsys.readouterr().out
    assert np.asarray(names["strip"]).shape == (48, 5 * 48, 3)
    assert (tmp_path / "outputs" / "notebook" / "overlay.mp4").is_file()
