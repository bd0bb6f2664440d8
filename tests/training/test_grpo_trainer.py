"""The GRPO phase."""

import pytest
import torch
from grpo_helpers import SETTINGS, build, letter_reward, logged

from aurora_trl import AuroraGRPOConfig, AuroraModel
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora
from aurora_trl.training.mask_losses import draw_mask_frames, mask_losses
from aurora_trl.training.rewards import completion_text


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_trains_what_it_should(lora, drawing_checkpoint, cot_rows, processor, tmp_path):
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    settings = {"max_steps": 3, "temperature": 1.3, "top_p": 1.0}
    if lora:
        groups = AuroraGRPOConfig(output_dir=str(tmp_path), **SETTINGS).trainable_groups()
        settings["peft_config"] = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = build(model, cot_rows, processor, tmp_path, **settings)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        changed = not torch.equal(before[name], value)
        assert changed == value.requires_grad, f"{name}: requires_grad {value.requires_grad}, changed {changed}"
    if not lora:
        flags = {
            name: {p.requires_grad for p in module.parameters()}
            for name, module in unwrap_aurora(trainer.model).trainable_modules().items()
        }
        assert flags == {name: {name in trainer.args.trainable_groups()} for name in flags}


def test_what_the_paper_plots_is_logged(drawing_checkpoint, cot_rows, processor, tmp_path):
    trainer = build(AuroraModel.from_pretrained(drawing_checkpoint), cot_rows, processor, tmp_path)
    trainer.train()
    keys = set().union(*trainer.state.log_history)
    assert {
        "reward",
        "reward_std",
        "rewards/format_reward/mean",
        "rewards/iou_reward/mean",
        "rewards/class_reward/mean",
        "completions/mean_length",
        "iou",
        "seg_share",
        "reflective_share",
        "mask_bce_loss",
        "mask_dice_loss",
    } <= keys
    assert logged(trainer, "seg_share")[0][0] > 0.5
    assert logged(trainer, "reflective_share")[0][0] == 0.0


def test_rewards_see_the_masks_that_the_answers_decode_to(drawing_checkpoint, cot_rows, processor, tmp_path):
    """`pred_masks` are those of a teacher-forced forward over the same completion; none without `[SEG]`."""
    seen = []

    def spy_reward(prompts, completions, pred_masks, masks, **columns):
        seen.append((completions, pred_masks, masks, columns))
        return [0.0] * len(completions)

    model = AuroraModel.from_pretrained(drawing_checkpoint)
    trainer = build(
        model, cot_rows, processor, tmp_path, rewards=[spy_reward, letter_reward], max_steps=1, temperature=2.0
    )
    before = AuroraModel.from_pretrained(drawing_checkpoint).eval()
    trainer.train()
    completions, pred_masks, masks, columns = seen[0]
    loader = ClipLoader(processor)
    rows = {row["id"]: row for row in cot_rows}
    drawn = 0
    samples = zip(completions, columns["completion_ids"], pred_masks, masks, columns["id"], strict=True)
    for completion, completion_ids, logits, target, row_id in samples:
        row = rows[row_id]
        text = completion_text(completion)
        assert (logits is None) == ("[SEG]" not in text)
        torch.testing.assert_close(target.cpu(), loader.masks(row))
        if logits is None:
            continue
        drawn += 1
        clip = loader.clip(row)
        prompt = processor.prompt_ids(row, clip)
        ids = prompt + completion_ids  # as generated: the text may have other ids
        at = max(i for i, token in enumerate(ids) if token == processor.seg_token_id)
        with torch.no_grad():
            output = before(
                input_ids=torch.tensor([ids]),
                seg_positions=torch.tensor([at]),
                **{name: clip[name][None] for name in ("pixel_values_videos", "audio_values", "mask_frames")},
            )
        low = output["mask_logits"]
        expected = torch.nn.functional.interpolate(low, logits.shape[-2:], mode="bilinear")[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)
    assert drawn > 0


def test_media_once_per_rollout(drawing_checkpoint, cot_rows, processor, tmp_path):
    """Each distinct clip passes the towers and the mask encoder once, whatever G and the accumulation are."""
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    trainer = build(
        model,
        cot_rows,
        processor,
        tmp_path,
        max_steps=2,
        num_generations=4,
        gradient_accumulation_steps=2,
        num_iterations=2,
    )
    clips = {"mask": 0, "vision": 0, "audio": 0}

    def count(name):
        return lambda _module, args: clips.__setitem__(name, clips[name] + len(args[0]))

    model.mask_decoder.image_encoder.register_forward_pre_hook(count("mask"))
    model.policy.model.audio_tower.register_forward_pre_hook(count("audio"))
    trainer.train()
    # 8 completions are 2 prompts: at most 2 clips per rollout, and the second step uses the first one's.
    assert 0 < clips["audio"] <= 2
    assert clips["mask"] == 10 * clips["audio"]


@pytest.mark.parametrize("freeze_mask_encoder", [True, False])
@pytest.mark.parametrize("shared_prefix", [True, False])
def test_mask_losses_of_drawn_frames(
    freeze_mask_encoder, shared_prefix, drawing_checkpoint, cot_rows, processor, tmp_path, monkeypatch
):
    """`mask_frames_per_step`: the mask losses are those of the frames that are drawn, the rewards those of all."""
    settings = {"max_steps": 1, "freeze_mask_encoder": freeze_mask_encoder, "shared_prefix": shared_prefix}
    seen = []

    def spy(mask_logits, masks, has_seg, args):
        seen.append((mask_logits.detach(), masks, has_seg))
        return mask_losses(mask_logits, masks, has_seg, args)

    monkeypatch.setattr("aurora_trl.training.seg_losses.mask_losses", spy)
    trainers = []
    for frames in (None, 3):
        model = AuroraModel.from_pretrained(drawing_checkpoint)
        folder = tmp_path / str(frames)
        trainers.append(build(model, cot_rows, processor, folder, mask_frames_per_step=frames, **settings))
        trainers[-1].train()
    (all_logits, all_masks, has_seg), (logits, masks, _) = seen
    drawn = draw_mask_frames(trainers[1].args, trainers[1].args.seed, 0, torch.ones(10, dtype=torch.bool))
    assert drawn.shape == (3,)
    assert all_logits.size(1) == 10
    torch.testing.assert_close(logits, all_logits[:, drawn], atol=1e-5, rtol=1e-4)
    assert torch.equal(masks, all_masks[:, drawn])
    rewards = [logged(trainer, "reward", "iou", "seg_share")[0] for trainer in trainers]
    assert rewards[0] == rewards[1]
    expected = mask_losses(all_logits[:, drawn], all_masks[:, drawn], has_seg, trainers[1].args)[1]
    for name, value in expected.items():
        assert logged(trainers[1], name)[0][0] == pytest.approx(float(value), abs=1e-4)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_memory_savers(settings, drawing_checkpoint, cot_rows, processor, tmp_path):
    """Rollouts under gradient checkpointing keep their cache; bf16 trains."""
    plain = build(AuroraModel.from_pretrained(drawing_checkpoint), cot_rows, processor, tmp_path / "a", max_steps=1)
    plain.train()
    other = build(
        AuroraModel.from_pretrained(drawing_checkpoint), cot_rows, processor, tmp_path / "b", max_steps=1, **settings
    )
    other.train()
    names = ("loss", "reward", "completions/mean_length")
    tolerance = 0.1 if "bf16" in settings else 1e-5
    if "bf16" not in settings:
        torch.testing.assert_close(
            torch.tensor(logged(plain, *names)), torch.tensor(logged(other, *names)), atol=tolerance, rtol=0
        )
    else:
        assert torch.isfinite(torch.tensor(logged(other, *names))).all()


def test_resume_equals_one_run(drawing_checkpoint, cot_rows, processor, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = build(AuroraModel.from_pretrained(drawing_checkpoint), cot_rows, processor, tmp_path, **settings)
    whole.train()
    resumed = build(AuroraModel.from_pretrained(drawing_checkpoint), cot_rows, processor, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    names = ("loss", "reward")
    assert logged(resumed, *names)[-2:] == logged(whole, *names)[-2:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_no_completion_with_seg(checkpoint, cot_rows, processor, tmp_path):
    """A model that never draws trains on, with IoU reward 0 and no mask loss."""
    model = AuroraModel.from_pretrained(checkpoint)
    with torch.no_grad():
        model.get_output_embeddings().weight[processor.seg_token_id] = 0
        model.get_output_embeddings().weight.mul_(20)
    trainer = build(model, cot_rows, processor, tmp_path, top_p=0.2, max_steps=1)
    trainer.train()
    seg_share, iou, dice, reward = logged(trainer, "seg_share", "iou", "mask_dice_loss", "rewards/iou_reward/mean")[0]
    assert seg_share == iou == dice == reward == 0.0


def test_evaluates_during_training(drawing_checkpoint, cot_rows, processor, tmp_path):
    trainer = build(
        AuroraModel.from_pretrained(drawing_checkpoint),
        cot_rows,
        processor,
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
        eval_dataset=cot_rows.select(range(4)),
    )
    trainer.train()
    assert any("eval_reward" in entry and "eval_iou" in entry for entry in trainer.state.log_history)
