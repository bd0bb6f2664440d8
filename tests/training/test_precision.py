"""What trains is float32, whatever a checkpoint is stored in."""

import pytest
import torch
from grpo_helpers import build as build_grpo
from safetensors.torch import load_file
from sft_helpers import build as build_sft
from transformers import TrainerCallback

from aurora_trl import AuroraModel
from aurora_trl.chain.memory_estimate import TrainingSetup, estimate_memory
from aurora_trl.data import DataError
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.checkpoints import find_fault
from aurora_trl.training.lora import lora_config, unwrap_aurora


class StopAt(TrainerCallback):
    """Ends training, after it has saved, as a cut would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


BUILD = {"sft": build_sft, "grpo": build_grpo}


@pytest.fixture(scope="module")
def stored(checkpoint, processor, tmp_path_factory):
    """The tiny checkpoint in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    AuroraModel.from_pretrained(checkpoint).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def changed_share(before, model):
    """Of the weights that draw and project, those that moved at all."""
    names = [name for name in before if name.startswith("seg_projector") or ".transformer." in name]
    moved = [(model.state_dict()[name].float() != before[name].float()).float().mean() for name in names]
    return float(torch.stack(moved).mean())


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("phase", ["sft", "grpo"])
def test_small_steps_arrive(phase, bf16, stored, cot_rows, processor, tmp_path):
    """In bfloat16 most steps of 1e-5 are lost; what is frozen keeps its dtype where autocast joins the two."""
    model = AuroraModel.from_pretrained(stored)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"learning_rate": 1e-5, "max_steps": 3, "bf16": bf16}
    trainer = BUILD[phase](model, cot_rows, processor, tmp_path, save_strategy="steps", save_steps=3, **settings)
    trainer.train()
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16 if bf16 else torch.float32}
    assert changed_share(before, model) > (0.6 if phase == "sft" else 0.3)
    # To resume from: the master weights. The phase's result: as it was stored.
    name = "seg_projector.0.weight"
    assert load_file(tmp_path / "checkpoint-3" / "model.safetensors")[name].dtype == torch.float32
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.bfloat16}
    assert AuroraModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_with_lora(stored, cot_rows, processor, tmp_path):
    model = AuroraModel.from_pretrained(stored)
    peft_config = lora_config(model, LoraArguments(use_lora=True), {"language_model", "seg_projector", "mask_decoder"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = build_sft(
        model, cot_rows, processor, tmp_path, peft_config=peft_config, learning_rate=1e-5, bf16=True, max_steps=3
    )
    trainer.train()
    assert {p.requires_grad: p.dtype for p in trainer.model.parameters()} == {
        True: torch.float32,
        False: torch.bfloat16,
    }
    trainer.save_model()
    assert changed_share(before, AuroraModel.from_pretrained(tmp_path, dtype=torch.float32)) > 0.6
    assert AuroraModel.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("phase", ["sft", "grpo"])
def test_resumed_it_is_what_it_would_have_been(phase, stored, cot_rows, processor, tmp_path):
    weights = []
    for name, resume in (("whole", None), ("cut", True)):
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "bf16": True}
        if resume:
            first = BUILD[phase](AuroraModel.from_pretrained(stored), cot_rows, processor, tmp_path / name, **settings)
            first.add_callback(StopAt(2))
            first.train()
        trainer = BUILD[phase](AuroraModel.from_pretrained(stored), cot_rows, processor, tmp_path / name, **settings)
        trainer.train(resume_from_checkpoint=resume)
        weights.append(unwrap_aurora(trainer.model).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_estimate_counts_them(model):
    """Float32 weights, gradients and two moments, and autocast's copy: 18 bytes for each trained weight."""
    model.config.dtype = torch.bfloat16
    setup = TrainingSetup(
        groups={"seg_projector"},
        lora=LoraArguments(),
        zero_stage=None,
        num_processes=1,
        offload_optimizer=False,
        batch_size=1,
        tokens=64,
        num_frames=10,
        num_generations=1,
        gradient_checkpointing=False,
        bf16=True,
        teacher=False,
    )
    memory = estimate_memory(model.config, setup)
    trained, total = sum(memory.trainable.values()), sum(p.numel() for p in model.parameters())
    assert memory.weights == 2 * total + 4 * trained
    assert memory.gradients + memory.optimizer == 12 * trained


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_no_number_ends_a_run(max_grad_norm, checkpoint, cot_rows, processor, tmp_path):
    """Before its step, and before a checkpoint of such weights takes a good one's place; the log hides the loss."""
    model = AuroraModel.from_pretrained(checkpoint)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = build_sft(model, cot_rows, processor, tmp_path, max_grad_norm=max_grad_norm, **settings)
    weight = model.seg_projector[0].weight
    weight.register_hook(lambda gradient: gradient * (float("nan") if trainer.state.global_step == 2 else 1.0))
    with pytest.raises(DataError, match=r"gradient of step 3 is nan, and the weights would be; .*checkpoint-2 is as"):
        trainer.train()
    assert weight.isfinite().all()
    assert find_fault(tmp_path / "checkpoint-2") is None
    assert not (tmp_path / "checkpoint-3").exists()
