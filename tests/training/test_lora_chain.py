"""The published recipe's YAMLs, phase by phase with small overrides on the tiny policy, as adapters on adapters."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from conftest import REPOSITORY

from aurora_trl import AuroraModel, AuroraPipeline
from aurora_trl.cli import main
from aurora_trl.data import save_json
from aurora_trl.models.adapters import load_adapter

RECIPES = REPOSITORY / "recipes"
SMALL = (
    "--use_cpu true --gradient_accumulation_steps 1 --max_steps 2 --save_steps 1 --warmup_steps 0 "
    "--learning_rate 1e-2 --dataloader_num_workers 0"
)


def run_phase(phase: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    script = "grpo" if phase == "grpo" else "sft"
    monkeypatch.syspath_prepend(str(RECIPES))
    config = str(RECIPES / "videollama2" / f"{phase}.yaml")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--config", config, *SMALL.split(), *flags])
    importlib.import_module(script).main()


@pytest.mark.slow
def test_the_four_phases_as_adapters(checkpoint, world, cot_rows, tmp_path, monkeypatch):
    """In bf16, as the YAMLs say; cut and resumed in the middle; merged at the end."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs" / "videollama2"
    shutil.copytree(checkpoint, root / "base")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "refavs").symlink_to(world)
    for name in ("cot", "reflective"):
        save_json(cot_rows, root / f"{name}.jsonl")

    run_phase("teacher", monkeypatch)
    run_phase("sft", monkeypatch)
    last = json.loads((root / "sft" / "trainer_state.json").read_text())
    assert last["global_step"] == 2
    shutil.rmtree(root / "sft" / "checkpoint-2")
    run_phase("sft", monkeypatch, "--max_steps", "3")  # `resume_from_checkpoint: "true"`: from step 1
    run_phase("reflective", monkeypatch)
    run_phase("grpo", monkeypatch, "--max_completion_length", "8")

    for phase, base in (("teacher", "base"), ("sft", "base"), ("reflective", "sft"), ("grpo", "reflective")):
        record = json.loads((root / phase / "aurora_adapter.json").read_text())
        assert record["base_model_name_or_path"] == f"outputs/videollama2/{base}"
        assert not (root / phase / "model.safetensors").exists()
        assert "* Steps: " in (root / phase / "README.md").read_text()
    decoder = "mask_decoder.mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    weights = {phase: load_weights(f"outputs/videollama2/{phase}") for phase in ("teacher", "sft", "reflective")}
    assert torch.equal(weights["teacher"][decoder], weights["sft"][decoder])  # taken over, and frozen
    assert not torch.equal(weights["sft"][decoder], weights["reflective"][decoder])

    assert main(["merge", "outputs/videollama2/grpo", "--output", "merged"]) == 0
    row = cot_rows[0]
    clip = {"frames": row["frames"], "audio": row["audio"], "max_new_tokens": 8}
    merged = AuroraPipeline.from_pretrained("merged")(row["reference"], **clip)
    adapter = AuroraPipeline.from_pretrained("outputs/videollama2/grpo")(row["reference"], **clip)
    unmerged = load_adapter("outputs/videollama2/grpo").get_base_model()
    processor = AuroraPipeline.from_pretrained("merged").processor
    plain = AuroraPipeline(unmerged, processor)(row["reference"], **clip)
    for other in (adapter, plain):
        assert merged.reasoning == other.reasoning
        assert (merged.masks == other.masks).all()


def load_weights(folder: str) -> dict[str, torch.Tensor]:
    return AuroraModel.from_pretrained(folder).state_dict()
