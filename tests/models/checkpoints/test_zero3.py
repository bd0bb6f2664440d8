"""Under ZeRO-3 no process holds a model whole, however it comes into a run, and it is the model that one loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from published_checkpoints import write_videollama2
from published_sams import small_sam
from safetensors.torch import load_file, save_file

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data import DataError, save_json
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.checkpoints.adapters import REPLACED_FILE, load_adapter
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.checkpoints import MANIFEST, UNFINISHED, find_fault, require_complete
from aurora_trl.training.lora import lora_config

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
SCRIPT = Path(__file__).with_name("zero3_loading.py")


@pytest.fixture(scope="module")
def root(checkpoint, cot_rows, tmp_path_factory):
    """A LoRA phase that took another decoder, a published policy and SAM, and rows."""
    root = tmp_path_factory.mktemp("zero3")
    teacher = create_tiny_checkpoint(root / "teacher", image_size=32, hidden_size=64, num_layers=2, seed=9)
    args = AuroraSFTConfig(
        output_dir=str(root / "adapter"),
        max_steps=1,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = AuroraSFTTrainer(
        model,
        args,
        train_dataset=cot_rows,
        processing_class=AuroraProcessor.from_pretrained(checkpoint),
        teacher=AuroraModel.from_pretrained(teacher),
        peft_config=lora_config(model, LoraArguments(use_lora=True), args.trainable_groups()),
    )
    trainer.train()
    trainer.save_model()
    assert (root / "adapter" / REPLACED_FILE).is_file()
    shutil.copytree(checkpoint, root / "unexpected")
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {**weights, "other": torch.zeros(2)}, root / "unexpected" / "model.safetensors", metadata={"format": "pt"}
    )
    write_videollama2(root / "policy")
    torch.save(small_sam().state_dict(), root / "sam.pth")
    save_json(cot_rows, root / "rows.jsonl")
    return root


@pytest.fixture(scope="module")
def launched(forked, root, checkpoint):
    """What two processes wrote."""
    output = root / "output"
    output.mkdir()
    inputs = [checkpoint, *(root / name for name in ("unexpected", "adapter", "policy", "sam.pth", "rows.jsonl"))]
    result = forked.run(forked.accelerate("zero3", forked.script(SCRIPT, *inputs, output)))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return output


@pytest.mark.parametrize("way", ["whole", "adapter", "unmerged", "published"])
def test_a_process_holds_its_part(way, launched):
    for rank in (0, 1):
        numbers = json.loads((launched / f"rank{rank}.json").read_text())[way]
        split = numbers["total"] - numbers["whole"]
        assert numbers["parts"] == pytest.approx(split / 2, rel=0.01)
        # PEFT's weights are whole until the engine splits them, its copies of what trains in full among them.
        assert numbers["whole"] < numbers["total"] / 3 if way == "unmerged" else numbers["whole"] == 0
        # Of a tiny model one layer is much; a published SAM is read before it is split, and of this one it is half.
        share = 2 if way == "published" else 4
        assert numbers["peak"] - numbers["whole"] < numbers["total"] / share


@pytest.mark.parametrize("way", ["whole", "adapter", "unmerged", "published"])
def test_it_is_the_model_that_one_process_loads(way, launched, root, checkpoint):
    found = torch.load(launched / f"{way}.pt")
    model = {
        "whole": lambda: AuroraModel.from_pretrained(checkpoint),
        "adapter": lambda: AuroraModel.from_pretrained(root / "adapter"),
        "unmerged": lambda: load_adapter(root / "adapter"),
        "published": lambda: AuroraModel.from_policy(root / "policy", root / "sam.pth"),
    }[way]()
    expected = model.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        # The one part that is new between a published policy and a published SAM is drawn at random.
        assert torch.equal(found[name], value) or (way == "published" and "seg_projector" in name), name


def test_a_weight_too_many_is_an_error(launched):
    for rank in (0, 1):
        message = (launched / f"unexpected{rank}.txt").read_text()
        assert "not a whole AuroraModel checkpoint, unexpected keys: other;" in message


def test_what_is_trained_on_an_adapter_reloads_to_the_same_masks(launched, root, processor, cot_rows):
    batch = SFTCollator(ClipLoader(processor))(cot_rows.to_list()[:2])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    with torch.no_grad():
        reloaded = AuroraModel.from_pretrained(launched / "trained").eval()(**inputs)["mask_logits"]
        before = AuroraModel.from_pretrained(root / "adapter").eval()(**inputs)["mask_logits"]
    trained = torch.load(launched / "mask_logits.pt")
    torch.testing.assert_close(reloaded, trained, atol=1e-4, rtol=0)
    assert torch.equal(reloaded > 0, trained > 0)
    assert not torch.allclose(before, trained, atol=1e-2)  # the comparison can fail


def test_a_checkpoint_is_complete_with_the_parts_of_all_processes(launched):
    for name in ("trained", "resumed"):  # there it was written anew, over the one that was cut short
        folder = launched / name / "checkpoint-2"
        assert find_fault(folder) is None
        listed = json.loads((folder / MANIFEST).read_text())["files"]
        assert len([file for file in listed if file.endswith("_optim_states.pt")]) == 2
        assert {"rng_state_0.pth", "rng_state_1.pth", "adapter_model.safetensors"} <= set(listed)
        assert not (launched / name / UNFINISHED).exists()
    with pytest.raises(DataError, match="checkpoint-2: saved by 2 processes, whose parts of the optimizer"):
        require_complete(folder, num_processes=1)
    for lost in ("rng_state_1.pth", *(file for file in listed if "rank_1_" in file)):
        shutil.copytree(folder, launched / "cut")
        (launched / "cut" / MANIFEST).unlink()  # of another trainer
        assert find_fault(launched / "cut") is None
        (launched / "cut" / lost).unlink()
        assert find_fault(launched / "cut") is not None
        shutil.rmtree(launched / "cut")


def test_resumed_it_ends_where_it_would_have(launched):
    whole, resumed = (load_file(launched / name / "adapter_model.safetensors") for name in ("trained", "resumed"))
    assert set(whole) == set(resumed)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-4, msg=name)
