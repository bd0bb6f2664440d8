"""The published recipes' YAMLs, phase by phase with small overrides on a tiny policy, as adapters on adapters."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from launching import accelerate_launch, launch_environment

from aurora_trl import AuroraModel, AuroraPipeline
from aurora_trl.cli import main
from aurora_trl.data import save_json
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint

RECIPES = REPOSITORY / "recipes"
SMALL = (
    "--use_cpu true --gradient_accumulation_steps 1 --max_steps 2 --save_steps 1 --warmup_steps 0 "
    "--learning_rate 1e-2 --dataloader_num_workers 0"
)


def run_phase(policy: str, phase: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    script = "grpo" if phase == "grpo" else "sft"
    monkeypatch.syspath_prepend(str(RECIPES))
    config = str(RECIPES / policy / f"{phase}.yaml")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--config", config, *SMALL.split(), *flags])
    importlib.import_module(script).main()


def base_of(policy: str, request: pytest.FixtureRequest) -> Path:
    """The tiny checkpoint of a recipe's policy."""
    if policy.endswith("_omni"):
        return request.getfixturevalue("qwen_checkpoints")["omni3" if policy == "qwen3_omni" else True]
    return request.getfixturevalue("videollama3_checkpoint" if policy == "videollama3" else "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["videollama2", "videollama2/strong", "qwen_omni", "qwen3_omni", "videollama3"])
def test_the_four_phases_as_adapters(policy, request, world, cot_rows, tmp_path, monkeypatch):
    """In bf16, as the YAMLs say; cut and resumed in the middle; merged at the end."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs" / policy
    shutil.copytree(base_of(policy, request), root / "base")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "refavs").symlink_to(world)
    for name in ("cot", "reflective"):
        save_json(cot_rows, root / f"{name}.jsonl")

    layers = ["--seg_layers", "2"] if policy == "videollama2/strong" else []  # the tiny model has no more
    run_phase(policy, "teacher", monkeypatch, *layers)
    run_phase(policy, "sft", monkeypatch, *layers)
    last = json.loads((root / "sft" / "trainer_state.json").read_text())
    assert last["global_step"] == 2
    shutil.rmtree(root / "sft" / "checkpoint-2")
    run_phase(policy, "sft", monkeypatch, *layers, "--max_steps", "3")  # `resume_from_checkpoint: "true"`: from step 1
    run_phase(policy, "reflective", monkeypatch)
    run_phase(policy, "grpo", monkeypatch, "--max_completion_length", "8")

    for phase, base in (("teacher", "base"), ("sft", "base"), ("reflective", "sft"), ("grpo", "reflective")):
        record = json.loads((root / phase / "aurora_adapter.json").read_text())
        assert record["base_model_name_or_path"] == f"outputs/{policy}/{base}"
        assert not (root / phase / "model.safetensors").exists()
        assert "* Steps: " in (root / phase / "README.md").read_text()
    decoder = "mask_decoder.mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    weights = {phase: load_weights(f"outputs/{policy}/{phase}") for phase in ("teacher", "sft", "reflective")}
    assert torch.equal(weights["teacher"][decoder], weights["sft"][decoder])  # taken over, and frozen
    assert not torch.equal(weights["sft"][decoder], weights["reflective"][decoder])
    if layers:
        assert all(weights["reflective"][name].any() for name in ("seg_layer_mix.gates", "seg_spatial.mark"))

    assert main(["merge", f"outputs/{policy}/grpo", "--output", "merged"]) == 0
    row = cot_rows[0]
    clip = {"frames": row["frames"], "audio": row["audio"], "max_new_tokens": 8}
    merged = AuroraPipeline.from_pretrained("merged")(row["reference"], **clip)
    adapter = AuroraPipeline.from_pretrained(f"outputs/{policy}/grpo")(row["reference"], **clip)
    unmerged = load_adapter(f"outputs/{policy}/grpo").get_base_model()
    processor = AuroraPipeline.from_pretrained("merged").processor
    plain = AuroraPipeline(unmerged, processor)(row["reference"], **clip)
    for other in (adapter, plain):
        assert merged.reasoning == other.reasoning
        assert (merged.masks == other.masks).all()


@pytest.mark.slow
@pytest.mark.distributed
def test_zero3_from_an_adapter_with_a_teacher(checkpoint, world, tmp_path, monkeypatch):
    """Two processes that hold parts: the adapter below is merged, and the teacher's frozen decoder is saved whole."""
    teacher = create_tiny_checkpoint(tmp_path / "teacher", image_size=32, hidden_size=64, num_layers=2, seed=4)
    recipe = {
        "dataset_path": str(world),
        "targets": "answer",
        "use_lora": True,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.syspath_prepend(str(RECIPES))
    first = ["--config", str(tmp_path / "recipe.yaml"), "--model_name_or_path", str(checkpoint)]
    monkeypatch.setattr(sys, "argv", ["sft.py", *first, "--output_dir", str(tmp_path / "first")])
    importlib.import_module("sft").main()

    flags = ["--config", str(tmp_path / "recipe.yaml"), "--model_name_or_path", str(tmp_path / "first")]
    flags += ["--output_dir", str(tmp_path / "second"), "--freeze_mask_decoder", "true"]
    flags += ["--teacher_model_name_or_path", str(teacher)]
    command = [*accelerate_launch("zero3"), str(RECIPES / "sft.py"), *flags]
    result = subprocess.run(command, env=launch_environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]

    expected, found = load_weights(str(teacher)), load_weights(str(tmp_path / "second"))
    for name in expected:
        if name.startswith("mask_decoder."):
            assert torch.equal(found[name], expected[name]), name
    before = load_weights(str(tmp_path / "first"))
    name = "policy.model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(found[name], before[name])  # the second adapter, on the first
    assert not torch.equal(before[name], load_weights(str(checkpoint))[name])


def load_weights(folder: str) -> dict[str, torch.Tensor]:
    return AuroraModel.from_pretrained(folder).state_dict()
