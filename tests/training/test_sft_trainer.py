"""The supervised phases."""

import copy

import pytest
import torch
from datasets import concatenate_datasets
from sft_helpers import SETTINGS, build, losses

from aurora_trl import AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.annotation import WorldAnnotator, annotate_file
from aurora_trl.data import load_json
from aurora_trl.errors import DataError
from aurora_trl.prompts import SEG_TOKEN, is_null_answer
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora


def settings_only(settings):
    return {name: value for name, value in settings.items() if name != "teacher"}


PHASES = {
    "teacher": {"targets": "answer", "freeze_mask_encoder": False, "freeze_vision_tower": False},
    "sft": {"freeze_mask_decoder": True, "freeze_connector": False, "distillation_loss_weight": 1.0},
    "reflective": {},
}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("phase", PHASES)
def test_trains_what_it_should(phase, lora, checkpoint, model, cot_rows, processor, tmp_path):
    settings = dict(PHASES[phase])
    if phase == "sft":
        settings["teacher"] = AuroraModel.from_pretrained(checkpoint)
    if lora:
        groups = AuroraSFTConfig(output_dir=str(tmp_path), use_cpu=True, **settings_only(settings)).trainable_groups()
        settings["peft_config"] = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = build(model, cot_rows, processor, tmp_path, **settings)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        changed = not torch.equal(before[name], value)
        if name.endswith("lora_A.default.weight") or name.endswith("lora_B.default.weight"):
            assert value.requires_grad, name
        assert changed == value.requires_grad, f"{name}: requires_grad {value.requires_grad}, changed {changed}"
    aurora = unwrap_aurora(trainer.model)
    flags = {
        name: {p.requires_grad for p in module.parameters()} for name, module in aurora.trainable_modules().items()
    }
    if not lora:
        assert flags == {name: {name in trainer.args.trainable_groups()} for name in flags}
    else:
        assert (True in flags["vision_tower"]) == ("vision_tower" in trainer.args.trainable_groups())
        assert flags["language_model"] == {True, False}


def test_loss_parts_are_logged(checkpoint, model, cot_rows, processor, tmp_path):
    teacher = AuroraModel.from_pretrained(checkpoint)
    trainer = build(model, cot_rows, processor, tmp_path, teacher=teacher)
    trainer.train()
    logged = set().union(*trainer.state.log_history)
    assert {"loss", "mask_bce_loss", "mask_dice_loss", "iou", "distillation_loss"} <= logged


def test_student_takes_the_teachers_decoder(checkpoint, model, cot_rows, processor, tmp_path):
    teacher = AuroraModel.from_pretrained(checkpoint)
    with torch.no_grad():
        for value in teacher.mask_decoder.parameters():
            value.add_(0.1)
    trainer = build(model, cot_rows, processor, tmp_path, teacher=teacher, freeze_mask_decoder=True)
    trainer.train()
    for ours, theirs in zip(model.mask_decoder.parameters(), teacher.mask_decoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accumulation_equals_one_batch(checkpoint, cot_rows, processor, tmp_path):
    """Batch 1 x accumulation 4 equals batch 4 x accumulation 1, masks included."""
    results = []
    for batch_size in (4, 1):
        trainer = build(
            AuroraModel.from_pretrained(checkpoint),
            cot_rows,
            processor,
            tmp_path / str(batch_size),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=4 // batch_size,
            max_steps=2,
            # With Adam a step's size does not depend on the gradient's: 1e-8 in a gradient would show as 1e-2.
            optim="sgd",
        )
        trainer.train()
        results.append((losses(trainer), {k: v.clone() for k, v in trainer.model.state_dict().items()}))
    torch.testing.assert_close(torch.tensor(results[0][0]), torch.tensor(results[1][0]), atol=1e-4, rtol=0)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, atol=1e-4, rtol=0, msg=name)


def test_gradient_checkpointing_and_bf16_train(checkpoint, cot_rows, processor, tmp_path):
    plain = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path / "a", max_steps=2)
    plain.train()
    checked = build(
        AuroraModel.from_pretrained(checkpoint),
        cot_rows,
        processor,
        tmp_path / "b",
        max_steps=2,
        gradient_checkpointing=True,
    )
    checked.train()
    torch.testing.assert_close(torch.tensor(losses(plain)), torch.tensor(losses(checked)), atol=1e-5, rtol=0)
    half = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path / "c", max_steps=2, bf16=True)
    half.train()
    torch.testing.assert_close(torch.tensor(losses(plain)), torch.tensor(losses(half)), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("group_by_clip", [False, True])
def test_resume_equals_one_run(group_by_clip, checkpoint, cot_rows, processor, tmp_path):
    """
    2n steps equal n, kill, resume, n: what is logged, and the weights. In the second epoch rows meet other rows, and
    the teacher is asked about those that the resumed run has not met.
    """
    settings = {"group_by_clip": group_by_clip, "max_steps": 14, "save_strategy": "steps", "save_steps": 7}
    settings["per_device_train_batch_size"] = 8  # the second epoch starts on the way
    teacher = AuroraModel.from_pretrained(checkpoint)
    whole, resumed = (
        build(
            AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path / "run", teacher=teacher, **settings
        )
        for _ in range(2)
    )
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-7"))
    logs = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert len(logs[0]) == len(logs[1]) == 14
    for entry, other in zip(*logs, strict=True):
        assert {**entry, "data_wait": 0} == {**other, "data_wait": 0}
        assert "distillation_loss" in entry
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_evaluates_during_training(model, cot_rows, processor, tmp_path):
    args = AuroraSFTConfig(
        output_dir=str(tmp_path), eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4, **SETTINGS
    )
    trainer = AuroraSFTTrainer(
        model=model,
        args=args,
        train_dataset=cot_rows,
        eval_dataset=cot_rows.select(range(6)),
        processing_class=processor,
    )
    trainer.train()
    assert any("eval_loss" in entry and "eval_iou" in entry for entry in trainer.state.log_history)


def test_a_batch_without_seg_has_no_mask_loss(model, cot_rows, processor, tmp_path):
    """No `[SEG]`: no mask loss, no error, and the projector still takes part, for the ranks that wait."""
    trainer = build(model, cot_rows, processor, tmp_path)
    batch = trainer.data_collator([cot_rows[0], cot_rows[1]])
    batch["seg_positions"].fill_(-1)
    text_only = copy.copy(batch)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradient = model.seg_projector[0].weight.grad
    assert gradient is not None
    assert not gradient.any()
    text_only.pop("masks")
    trainer.args.mask_bce_loss_weight = trainer.args.mask_dice_loss_weight = 0.0
    text = trainer.compute_loss(trainer.model, {**text_only, "masks": None})
    torch.testing.assert_close(loss, text)


def test_missing_targets_are_named(model, rows, processor, tmp_path):
    with pytest.raises(DataError, match=r"row '.*': its target is missing"):
        build(model, rows, processor, tmp_path)
    bad = rows.select(range(2)).remove_columns("target").add_column("target", ["It is [SEG].", "no mask"])
    with pytest.raises(DataError, match=r"its target holds no \[SEG\]"):
        build(model, bad, processor, tmp_path)


def test_null_answers_are_learnt_without_a_mask(checkpoint, rows, world, processor, tmp_path):
    """A null row may end with `Nothing fits.`: its text is learnt, and it adds nothing to mask and distillation."""
    annotate_file(rows, WorldAnnotator(world, null_reasons=True), tmp_path / "cot.jsonl", null_answers=True)
    annotated = load_json(tmp_path / "cot.jsonl")
    null = annotated.filter(lambda row: row["is_null"])
    drawn = annotated.filter(lambda row: not row["is_null"])
    assert all(is_null_answer(target) for target in null["target"])
    assert all(SEG_TOKEN in target for target in drawn["target"])
    mixed = concatenate_datasets([null.select(range(1)), drawn.select(range(3))])
    teacher = AuroraModel.from_pretrained(checkpoint)
    trainer = build(
        AuroraModel.from_pretrained(checkpoint), mixed, processor, tmp_path / "run", teacher=teacher, max_steps=1
    )
    trainer.train()
    entry = trainer.state.log_history[0]
    assert all(entry[name] > 0 for name in ("loss", "mask_bce_loss", "mask_dice_loss"))
    batch = trainer.data_collator(list(null.select(range(1))))
    assert batch["seg_positions"].tolist() == [-1]
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
    assert not trainer.model.seg_projector[0].weight.grad.any()
    assert trainer.model.get_output_embeddings().weight.grad.any()
    # On a row that matches something it is a mistake in the data.
    bad = drawn.select(range(1)).remove_columns("target").add_column("target", [null["target"][0]])
    with pytest.raises(DataError, match=r"its target holds no \[SEG\]"):
        build(AuroraModel.from_pretrained(checkpoint), bad, processor, tmp_path)


def test_text_alone_reads_no_masks(checkpoint, cot_rows, processor, tmp_path):
    """Where no step decodes, neither the mask decoder's frames are made nor the target masks read."""
    off = {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0}
    for settings, given in (({}, True), (off, False)):
        trainer = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, **settings)
        batch = next(iter(trainer.get_train_dataloader()))
        assert ("masks" in batch, "mask_frames" in batch) == (given, given)


def test_masks_train_beside_label_smoothing(checkpoint, cot_rows, processor, tmp_path):
    """TRL then runs two forwards: the masks' loss is that of the one with gradients, the same as without smoothing."""
    runs = {}
    for factor in (0.0, 0.1):
        model = AuroraModel.from_pretrained(checkpoint)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        folder = tmp_path / str(factor)
        trainer = build(model, cot_rows, processor, folder, label_smoothing_factor=factor, learning_rate=1e-5)
        trainer.train()
        moved = [
            not torch.equal(value, before[name])
            for name, value in model.state_dict().items()
            if name.startswith("seg_projector") or "mask_tokens" in name
        ]
        assert all(moved)
        runs[factor] = trainer.state.log_history[0]
    assert runs[0.1]["mask_bce_loss"] == pytest.approx(runs[0.0]["mask_bce_loss"], abs=1e-6)
    assert runs[0.1]["loss"] != runs[0.0]["loss"]
