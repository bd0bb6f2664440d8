"""Adapters: what a LoRA phase leaves, that it resumes, merges and loads to the same masks, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from grpo_helpers import letter_reward
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from aurora_trl import (
    AuroraGRPOConfig,
    AuroraGRPOTrainer,
    AuroraModel,
    AuroraProcessor,
    AuroraSFTConfig,
    AuroraSFTTrainer,
)
from aurora_trl.cli import main
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.checkpoints.adapters import REPLACED_FILE, describe_base, load_adapter
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config
from aurora_trl.training.rewards import format_reward, iou_reward

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "save_steps": 1,
    "learning_rate": 1e-2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 5,
}
# Of the logits of merged and unmerged, which add in another order (measured: 1e-6); the masks are the same to the bit.
TOLERANCE = 1e-5


def train_sft(base: Path, rows, folder: Path, resume=None, teacher=None, **settings) -> AuroraSFTTrainer:
    args = AuroraSFTConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    model = AuroraModel.from_pretrained(base)
    trainer = AuroraSFTTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=AuroraProcessor.from_pretrained(base),
        teacher=teacher,
        peft_config=lora_config(model, LoraArguments(use_lora=True), args.trainable_groups()),
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Another decoder than the base's."""
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    return create_tiny_checkpoint(folder, image_size=32, hidden_size=64, num_layers=2, seed=9)


@pytest.fixture(scope="module")
def trained(checkpoint, teacher, cot_rows, tmp_path_factory):
    """A LoRA phase that took the teacher's decoder and trained everything but its encoder."""
    folder = tmp_path_factory.mktemp("lora") / "sft"
    return folder, train_sft(checkpoint, cot_rows, folder, teacher=AuroraModel.from_pretrained(teacher))


@pytest.fixture(scope="module")
def batch(cot_rows, processor):
    batch = SFTCollator(ClipLoader(processor))(cot_rows.to_list()[:3])
    return {name: value for name, value in batch.items() if name not in ("labels", "masks")}


@torch.no_grad()
def mask_logits(model, batch):
    return model.eval()(**batch)["mask_logits"]


def test_the_folder_holds_no_base(trained, checkpoint):
    folder, trainer = trained
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        keys = set(file.keys())
    for part in ("lora_A", "lora_B", "embed_tokens", "lm_head", "seg_projector", "mask_decoder.mask_decoder"):
        assert any(part in key for key in keys), part
    for part in ("vision_tower", "audio_tower", "language_model.layers.0.mlp", "image_encoder"):
        assert not any(part in key for key in keys), part
    # The teacher's frozen encoder is neither in the base nor trained.
    replaced = load_file(folder / REPLACED_FILE)
    assert "mask_decoder.image_encoder.blocks.0.attn.qkv.weight" in replaced
    assert all(name.startswith("mask_decoder.") for name in replaced)
    assert not (folder / "model.safetensors").exists()
    assert (folder / "aurora_processor.json").is_file()
    assert json.loads((folder / "aurora_adapter.json").read_text())["base_model_name_or_path"] == str(checkpoint)


def test_it_loads_on_its_base_to_the_same_masks(trained, batch):
    folder, trainer = trained
    before = mask_logits(trainer.model.get_base_model(), batch)
    unmerged = mask_logits(load_adapter(folder).get_base_model(), batch)
    assert torch.equal(before, unmerged)
    merged = mask_logits(AuroraModel.from_pretrained(folder), batch)
    assert torch.equal(merged > 0, before > 0)
    torch.testing.assert_close(merged, before, atol=TOLERANCE, rtol=0)
    base = mask_logits(AuroraModel.from_pretrained(Path(trained[1].model.get_base_model().name_or_path)), batch)
    assert not torch.allclose(base, before, atol=1e-2)  # the comparison can fail


def test_the_auto_classes_load_it(trained, batch):
    folder, _ = trained
    model = AutoModel.from_pretrained(folder)
    assert type(model) is AuroraModel
    assert torch.equal(mask_logits(model, batch), mask_logits(AuroraModel.from_pretrained(folder), batch))
    assert type(AutoProcessor.from_pretrained(folder)) is AuroraProcessor


def test_merge_writes_a_whole_model_in_shards(trained, batch, tmp_path, capsys):
    folder, _ = trained
    command = ["merge", str(folder), "--output", str(tmp_path / "merged"), "--max-shard-size", "500KB"]
    assert main(command) == 0
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
    merged = AuroraModel.from_pretrained(tmp_path / "merged")
    in_memory = AuroraModel.from_pretrained(folder)
    weights = merged.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in in_memory.state_dict().items())
    logits = mask_logits(in_memory, batch)
    # Where a weight lies in memory decides which kernel multiplies it: the last bit of a logit may differ.
    torch.testing.assert_close(mask_logits(merged, batch), logits, atol=1e-5, rtol=0)
    assert torch.equal(mask_logits(merged, batch) > 0, logits > 0)
    AuroraProcessor.from_pretrained(tmp_path / "merged")
    # The shards are one model to the fingerprint, however it is cut or stored.
    merged.to(torch.bfloat16).save_pretrained(tmp_path / "whole")
    assert describe_base(str(tmp_path / "whole")).base_weights == describe_base(str(tmp_path / "merged")).base_weights
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "merged"), "--output", str(tmp_path / "again")]) == 1
    assert "holds no adapter" in capsys.readouterr().err


def test_resumed_it_ends_where_it_would_have(trained, checkpoint, teacher, cot_rows, tmp_path):
    folder, trainer = trained
    shutil.copytree(folder / "checkpoint-1", tmp_path / "out" / "checkpoint-1")
    resumed = train_sft(
        checkpoint,
        cot_rows,
        tmp_path / "out",
        resume=str(tmp_path / "out" / "checkpoint-1"),
        teacher=AuroraModel.from_pretrained(teacher),
    )
    assert resumed.state.global_step == 2
    whole = load_file(folder / "adapter_model.safetensors")
    again = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert set(whole) == set(again)
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_next_phase_starts_from_it(trained, rows, batch, tmp_path):
    """GRPO with LoRA on the merged SFT phase: its folder loads through the first adapter's to the base."""
    folder, _ = trained
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    args = AuroraGRPOConfig(
        output_dir=str(tmp_path / "grpo"), num_generations=4, max_completion_length=8, **{**SETTINGS, "max_steps": 1}
    )
    trainer = AuroraGRPOTrainer(
        model=model,
        reward_funcs=[format_reward, iou_reward],
        args=args,
        train_dataset=rows,
        processing_class=processor,
        peft_config=lora_config(model, LoraArguments(use_lora=True), args.trainable_groups()),
    )
    trainer.train()
    trainer.save_model()
    before = mask_logits(trainer.model.get_base_model(), batch)
    assert torch.equal(mask_logits(load_adapter(tmp_path / "grpo").get_base_model(), batch), before)
    record = json.loads((tmp_path / "grpo" / "aurora_adapter.json").read_text())
    assert record["base_model_name_or_path"] == str(folder)
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
    record = json.loads((tmp_path / "other" / "aurora_adapter.json").read_text())
    (tmp_path / "other" / "aurora_adapter.json").write_text(json.dumps({**record, "base_weights": "0" * 64}))
    with pytest.raises(ValueError, match="the weights of .*other are not those"):
        AuroraModel.from_pretrained(tmp_path / "grpo", base_model_name_or_path=tmp_path / "other")


def changed(before, model):
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_an_adapter_goes_on_training_unmerged(method, trained, rows, cot_rows, tmp_path):
    """What trains is what is saved: no weight of the base, and none of what a flag has frozen since."""
    folder, _ = trained
    model, processor = load_adapter(folder), AuroraProcessor.from_pretrained(folder)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = {**SETTINGS, "save_strategy": "no", "freeze_mask_decoder": True, "output_dir": str(tmp_path / "on")}
    if method == "sft":
        args = AuroraSFTConfig(**settings)
        trainer = AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor)
    else:
        args = AuroraGRPOConfig(num_generations=4, max_completion_length=8, **{**settings, "max_steps": 1})
        trainer = AuroraGRPOTrainer(model, [letter_reward], args, rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    moved = changed(before, trainer.model)
    drawn = ("seg_projector.modules_to_save",) if method == "sft" else ()  # no completion has a [SEG]
    for part in ("lora_B", "lm_head.modules_to_save", *drawn):
        assert any(part in name for name in moved), part
    assert all("lora_" in name or ".modules_to_save.default." in name for name in moved)
    assert not any("mask_decoder" in name for name in moved)
    weights = trainer.model.merge_and_unload().state_dict()
    again = AuroraModel.from_pretrained(tmp_path / "on").state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=0, msg=name)


def test_an_adapter_that_would_lose_what_trains(trained, checkpoint, rows, cot_rows, tmp_path):
    base, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    layers = {"target_modules": base.policy.lora_target_modules, "task_type": "CAUSAL_LM"}
    tables = ["embed_tokens", "lm_head"]

    def start(model, **settings):
        args = AuroraSFTConfig(output_dir=str(tmp_path), **{**SETTINGS, **settings})
        return AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor)

    frozen = {"freeze_mask_decoder": True, "freeze_seg_projector": True}
    message = "does not hold .*embed_tokens.*, which is to be trained and would be lost: .* as `peft_config`, which is"
    with pytest.raises(ValueError, match=message) as caught:
        start(get_peft_model(base, LoraConfig(**layers)), **frozen)
    assert "\n" not in str(caught.value)
    assert "freeze_language_model" not in str(caught.value)
    base = AuroraModel.from_pretrained(checkpoint)
    adapted = get_peft_model(base, LoraConfig(**layers, modules_to_save=tables, bias="lora_only", use_dora=True))
    with pytest.raises(ValueError, match=r"does not hold .*seg_projector.*, or set `freeze_seg_projector: true`"):
        start(adapted, freeze_mask_decoder=True)
    before = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    start(adapted, **frozen).train()
    kinds = ("lora_A", "lora_B", "lora_magnitude_vector", ".base_layer.bias", "modules_to_save.default.")
    moved = changed(before, adapted)
    assert all(any(kind in name for name in moved) for kind in kinds)
    assert all(any(kind in name for kind in kinds) for name in moved)
    adapted.add_adapter("other", LoraConfig(**layers))
    with pytest.raises(ValueError, match="has the adapters default, other: it needs a single one, with the name"):
        start(adapted, **frozen)


def test_what_an_adapter_does_not_go_with(trained, checkpoint, rows, cot_rows, tmp_path):
    folder, _ = trained
    args = AuroraSFTConfig(output_dir=str(tmp_path), **SETTINGS)
    for message, given in (
        ("has an adapter already, and `peft_config` asks for another", {"peft_config": LoraConfig()}),
        ("set `use_teacher_mask_decoder: false`", {"teacher": AuroraModel.from_pretrained(checkpoint)}),
    ):
        with pytest.raises(ValueError, match=message):
            AuroraSFTTrainer(load_adapter(folder), args, None, cot_rows, **given)
    args = AuroraGRPOConfig(str(tmp_path), num_generations=4, beta=0.1, **SETTINGS)
    with pytest.raises(ValueError, match="`beta: 0.1` compares with the model without its adapter, and `model` has"):
        AuroraGRPOTrainer(load_adapter(folder), [iou_reward], args, rows)


def test_in_bf16(trained, batch, tmp_path):
    """Loaded and merged in bf16: the same answer within its precision, in the folder's own dtype after a save."""
    folder, _ = trained
    model = AuroraModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits = mask_logits(model, batch)
    assert logits.isfinite().all()
    model.save_pretrained(tmp_path / "bf16")
    again = AuroraModel.from_pretrained(tmp_path / "bf16")
    assert next(again.parameters()).dtype == torch.bfloat16
    assert torch.equal(mask_logits(again, batch), logits)


@pytest.fixture
def copied(trained, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(trained[0], folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    return folder


def test_a_missing_base(copied):
    record = json.loads((copied / "aurora_adapter.json").read_text())
    (copied / "aurora_adapter.json").write_text(json.dumps({**record, "base_model_name_or_path": "no/such"}))
    with pytest.raises(ValueError, match="adapter: its base no/such can not be loaded .*`base_model_name_or_path`"):
        AuroraModel.from_pretrained(copied)
    moved = AuroraModel.from_pretrained(copied, base_model_name_or_path=record["base_model_name_or_path"])
    assert moved.name_or_path == str(copied)


def test_a_wrong_path(tmp_path):
    with pytest.raises(ValueError, match="no/such/folder: no such folder, and no name of a Hub repository"):
        AuroraModel.from_pretrained("no/such/folder")
    with pytest.raises(ValueError, match="/no/such: no such folder"):
        AuroraModel.from_pretrained("/no/such")


def test_another_base(copied, teacher, tmp_path):
    with pytest.raises(ValueError, match="another base: the weights of .* are not those that it was trained on"):
        AuroraModel.from_pretrained(copied, base_model_name_or_path=teacher)
    wider = create_tiny_checkpoint(tmp_path / "wider", image_size=32, hidden_size=96, num_layers=2)
    with pytest.raises(ValueError, match="another base: the config of .*wider"):
        AuroraModel.from_pretrained(copied, base_model_name_or_path=wider)


@pytest.mark.parametrize("file", ["aurora_adapter.json", "adapter_model.safetensors"])
def test_a_file_is_missing(file, copied):
    (copied / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        AuroraModel.from_pretrained(copied)


def test_a_weight_is_missing(copied):
    weights = load_file(copied / "adapter_model.safetensors")
    name = next(key for key in weights if "seg_projector" in key)
    save_file({k: v for k, v in weights.items() if k != name}, copied / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="not a whole adapter of .*: missing .*seg_projector"):
        AuroraModel.from_pretrained(copied)


def test_a_file_that_was_cut(copied, checkpoint, tmp_path):
    content = (copied / "adapter_model.safetensors").read_bytes()
    (copied / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="adapter_model.safetensors: cut short, .*; download or copy it again"):
        AuroraModel.from_pretrained(copied)
    (copied / "adapter_model.safetensors").write_bytes(content)
    AuroraModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    next((tmp_path / "shards").glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="its base .*shards can not be loaded .*model-00002-.*: no such file"):
        AuroraModel.from_pretrained(copied, base_model_name_or_path=tmp_path / "shards")


def test_a_base_that_is_in_memory_only(checkpoint, cot_rows, tmp_path):
    model = AuroraModel(AuroraModel.from_pretrained(checkpoint).config)
    model.name_or_path = model.config.name_or_path = ""
    args = AuroraSFTConfig(output_dir=str(tmp_path), **SETTINGS)
    with pytest.raises(ValueError, match="an adapter does not hold its base: save the base"):
        AuroraSFTTrainer(
            model=model,
            args=args,
            train_dataset=cot_rows,
            processing_class=AuroraProcessor.from_pretrained(checkpoint),
            peft_config=lora_config(model, LoraArguments(use_lora=True), args.trainable_groups()),
        )
