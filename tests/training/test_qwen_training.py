"""The Qwen policies under the same trainers: what should train trains."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from quick import QUICK
from transformers import Trainer

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraProcessor, AuroraSFTConfig
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora
from aurora_trl.training.rewards import class_reward, completion_text, format_reward, iou_reward
from aurora_trl.training.sft_trainer import AuroraSFTTrainer

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    **QUICK,
}
KINDS, KIND_NAMES = [False, True, "qwen3", "omni3"], ["vl", "omni", "qwen3", "omni3"]
TOWERS = {"freeze_vision_tower": False, "freeze_audio_tower": False, "freeze_connector": False}


@pytest.fixture(params=KINDS, ids=KIND_NAMES)
def parts(request, qwen_checkpoints) -> tuple[AuroraModel, AuroraProcessor]:
    folder = qwen_checkpoints[request.param]
    return AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)


def letter_reward(prompts, completions, **columns):
    """Something that differs between random completions."""
    return [(sum(map(ord, completion_text(completion))) % 7) / 7 for completion in completions]


def sft_trainer(model, processor, rows: Dataset, folder: Path, peft_config=None, **settings) -> AuroraSFTTrainer:
    args = AuroraSFTConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    return AuroraSFTTrainer(
        model=model, args=args, train_dataset=rows, processing_class=processor, peft_config=peft_config
    )


def grpo_trainer(model, processor, rows: Dataset, folder: Path, peft_config=None, **settings) -> AuroraGRPOTrainer:
    args = AuroraGRPOConfig(
        output_dir=str(folder),
        num_generations=2,
        max_completion_length=8,
        temperature=1.3,
        top_p=1.0,
        **{**SETTINGS, **settings},
    )
    return AuroraGRPOTrainer(
        model=model,
        reward_funcs=[format_reward, iou_reward, class_reward, letter_reward],
        args=args,
        train_dataset=rows,
        processing_class=processor,
        peft_config=peft_config,
    )


@pytest.fixture(scope="session")
def drawing_checkpoints(qwen_checkpoints, cot_rows, tmp_path_factory) -> dict[bool | str, Path]:
    """Policies that have learned to write `It is [SEG].`, though not where to draw."""
    folders = {}
    for sound, checkpoint in qwen_checkpoints.items():
        folders[sound] = tmp_path_factory.mktemp("drawing") / str(sound)
        model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
        trainer = sft_trainer(model, processor, cot_rows, folders[sound], targets="answer", max_steps=15)
        trainer.train()
        trainer.save_model()
    return folders


def check_changes(trainer: Trainer) -> None:
    """Train, and compare what changed with what was to."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        changed = not torch.equal(before[name], value)
        assert changed == value.requires_grad, f"{name}: requires_grad {value.requires_grad}, changed {changed}"


def towers_that_train(model: AuroraModel) -> dict[str, bool]:
    """All towers; there is no audio tower to train in a policy that does not hear."""
    return {k: v for k, v in TOWERS.items() if k.removeprefix("freeze_") in model.trainable_modules()}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_sft_trains_what_it_should(lora, parts, cot_rows, tmp_path):
    model, processor = parts
    settings = towers_that_train(model)
    peft_config = None
    if lora:
        groups = AuroraSFTConfig(output_dir=str(tmp_path), use_cpu=True, **settings).trainable_groups()
        peft_config = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = sft_trainer(model, processor, cot_rows, tmp_path, peft_config, **settings)
    check_changes(trainer)
    assert {"loss", "mask_bce_loss", "iou"} <= set().union(*trainer.state.log_history)
    if lora:
        adapted = [name for name, _ in trainer.model.named_parameters() if "lora_A" in name]
        layers = model.config.get_text_config().num_hidden_layers
        assert len(adapted) == 2 * layers
        assert all("language_model" in name for name in adapted)
    trainer.save_model()
    batch = SFTCollator(trainer.loader)(cot_rows.to_list()[:3])
    batch.pop("masks"), batch.pop("labels")
    trained, loaded = unwrap_aurora(trainer.model).eval(), AuroraModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        # Merged weights add in another order.
        torch.testing.assert_close(loaded(**batch)["mask_logits"], trained(**batch)["mask_logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_grpo_trains_what_it_should(lora, kind, drawing_checkpoints, cot_rows, tmp_path):
    folder = drawing_checkpoints[kind]
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    peft_config = None
    if lora:
        groups = AuroraGRPOConfig(output_dir=str(tmp_path), num_generations=2, **SETTINGS).trainable_groups()
        peft_config = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = grpo_trainer(model, processor, cot_rows, tmp_path, peft_config, max_steps=3)
    check_changes(trainer)
    assert any(entry.get("seg_share", 0) > 0 for entry in trainer.state.log_history)


@pytest.mark.parametrize("towers", [False, True], ids=["frozen", "towers"])
@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_a_prompt_read_once_trains_as_one_read_again(kind, towers, drawing_checkpoints, cot_rows, tmp_path):
    """Positions in three axes go on where the prompt ends, in generation and in training."""
    results = []
    for shared in (True, False):
        folder = drawing_checkpoints[kind]
        model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
        settings = towers_that_train(model) if towers else {}
        trainer = grpo_trainer(
            model, processor, cot_rows, tmp_path / str(shared), shared_prefix=shared, optim="sgd", **settings
        )
        trainer.train()
        names = ("loss", "reward", "entropy", "grad_norm", "mask_dice_loss", "iou")
        results.append([[entry[name] for name in names] for entry in trainer.state.log_history if "reward" in entry])
        assert trainer._shares_prefix == shared
    assert len(results[0]) == 2
    torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]), atol=1e-4, rtol=1e-3)


def test_a_clip_read_once_trains_as_one_read_again(parts, cot_rows, tmp_path):
    """References to one clip share what their prompts begin with, in positions of three axes."""
    model, processor = parts
    results = []
    for shared in (True, False):
        settings = {"shared_prefix": shared, "group_by_clip": True, "optim": "sgd", **towers_that_train(model)}
        trainer = sft_trainer(copy.deepcopy(model), processor, cot_rows, tmp_path / str(shared), **settings)
        assert ("prefix_lengths" in trainer.data_collator(cot_rows.to_list()[:4])) == shared
        trainer.train()
        names = ("loss", "grad_norm", "mask_dice_loss", "iou")
        results.append([[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry])
    assert len(results[0]) == 2
    torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]), atol=1e-4, rtol=1e-4)


def test_grpo_trains_towers(parts, cot_rows, tmp_path):
    """Then clips are kept as patches and spectrograms, and encoded in each forward."""
    model, processor = parts
    trainer = grpo_trainer(model, processor, cot_rows, tmp_path, max_steps=1, **towers_that_train(model))
    trainer.train()
    assert set(trainer._bank.policy_inputs) <= set(model.policy.media_inputs)
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_image_rows_train(parts, cot_rows, tmp_path):
    """One frame and no sound, in both trainers: image segmentation needs nothing else."""
    model, processor = parts
    processor.num_frames, processor.policy_frames = 1, None
    rows = Dataset.from_list(
        [
            {**row, "frames": row["frames"][:1], "masks": row["masks"] and row["masks"][:1], "audio": None}
            for row in cot_rows.to_list()
        ],
        features=cot_rows.features,
    )
    check_changes(sft_trainer(model, processor, rows, tmp_path / "sft"))
    trainer = grpo_trainer(unwrap_aurora(model), processor, rows, tmp_path / "grpo", max_steps=1)
    trainer.train()
    assert any("iou" in entry for entry in trainer.state.log_history)


def test_gradient_checkpointing_and_bf16_train(parts, cot_rows, tmp_path):
    model, processor = parts
    results = []
    for i, settings in enumerate(({}, {"gradient_checkpointing": True}, {"bf16": True})):
        trainer = sft_trainer(copy.deepcopy(model), processor, cot_rows, tmp_path / str(i), **settings)
        trainer.train()
        results.append(torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[2], results[0], atol=0.05, rtol=0.05)
