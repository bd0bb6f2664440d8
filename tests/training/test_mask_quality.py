"""The mask decoder's own score of its masks: learned by regression, kept by checkpoints, and a reward."""

import pytest
import torch
from grpo_helpers import build as build_grpo
from grpo_helpers import logged
from sft_helpers import build as build_sft

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraSFTConfig
from aurora_trl.data.masks import NO_TARGET
from aurora_trl.evaluation.iou import frame_iou, mask_iou
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.choosing import Choosing
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora
from aurora_trl.training.losses import mask_quality_loss
from aurora_trl.training.mask_targets import MaskTargets
from aurora_trl.training.rewards import mask_quality_reward
from aurora_trl.training.seg_losses import seg_losses

QUALITY = {"mask_quality_loss_weight": 1.0}


def head_of(model):
    return unwrap_aurora(model).trainable_modules()["mask_quality"]


def test_the_loss_by_hand():
    quality, iou = torch.tensor([0.5, 0.9, 3.0]), torch.tensor([1.0, 0.5, 0.0])
    weights = torch.tensor([1.0, 1.0, 0.0])
    assert mask_quality_loss(quality, iou, weights=weights).item() == pytest.approx((0.25 + 0.16) / 2)
    assert mask_quality_loss(quality, iou, weights=torch.zeros(3)).item() == 0.0


def test_it_counts_what_is_drawn_and_annotated(tmp_path):
    """Of two rows of two frames the second has no `[SEG]`, and the second frame of the first is not annotated."""
    masks = torch.zeros(2, 2, 4, 4, dtype=torch.uint8)
    masks[0, 0, :2] = 1
    masks[0, 1] = NO_TARGET
    logits = torch.full((2, 2, 4, 4), -1.0)
    logits[0, 0, 1:3] = 1.0
    assert frame_iou(logits, masks)[0, 0].item() == pytest.approx(1 / 3)
    assert mask_iou(logits, masks).tolist() == pytest.approx([1 / 3, 1.0])
    quality = torch.tensor([[0.5, 9.0], [9.0, 9.0]], requires_grad=True)
    output = {"mask_logits": logits, "mask_quality": quality}
    args = AuroraSFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, mask_bce_loss_weight=0.0, mask_dice_loss_weight=0.0, **QUALITY
    )
    assert args.uses_mask_losses
    targets, has_seg = MaskTargets(masks), torch.tensor([True, False])
    loss, metrics = seg_losses(output, targets, has_seg, args, present=targets.find_present())
    # In the mean over the three annotated frames, as the masks' own losses.
    assert loss.item() == pytest.approx((0.5 - 1 / 3) ** 2 / 3)
    assert metrics["mask_quality_loss"] == loss
    loss.backward()
    assert quality.grad.count_nonzero() == 1
    several = {"mask_logits": logits[:, None].repeat(1, 2, 1, 1, 1), "mask_quality": quality[:, None].repeat(1, 2, 1)}
    objects = MaskTargets(masks, torch.full((2, 2, 2, 4, 4), NO_TARGET, dtype=torch.uint8))
    one = torch.tensor([[True, False], [True, True]])  # the second answer draws two objects
    again, _ = seg_losses(several, objects, one, args, present=targets.find_present())
    assert again.item() == pytest.approx(loss.item())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_it_trains_and_is_kept(lora, checkpoint, cot_rows, processor, tmp_path):
    """SFT teaches the head, GRPO goes on, and both checkpoints say so; without the loss it stays as it was."""
    settings = {"max_steps": 2, "learning_rate": 1e-2, **QUALITY}
    model = AuroraModel.from_pretrained(checkpoint)
    before = [value.detach().clone() for value in head_of(model).parameters()]
    if lora:
        groups = AuroraSFTConfig(str(tmp_path), use_cpu=True, bf16=False, **QUALITY).trainable_groups()
        settings["peft_config"] = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = build_sft(model, cot_rows, processor, tmp_path / "sft", **settings)
    trainer.train()
    assert all(entry["mask_quality_loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)
    trainer.save_model()
    again = AuroraModel.from_pretrained(tmp_path / "sft")
    assert again.config.quality_trained
    taught = [value.detach().clone() for value in head_of(again).parameters()]
    assert not any(torch.equal(*pair) for pair in zip(before, taught, strict=True))
    if lora:
        assert unwrap_aurora(load_adapter(tmp_path / "sft")).config.quality_trained
    grpo = build_grpo(again, cot_rows, processor, tmp_path / "grpo", max_steps=1, temperature=2.0)
    grpo.train()
    assert all(torch.equal(*pair) for pair in zip(taught, head_of(grpo.model).parameters(), strict=True))
    assert unwrap_aurora(grpo.model).config.quality_trained
    rows = cot_rows.to_list()[:2]
    assert all(
        answer.cost.answers == 2
        for answer in answer_rows(unwrap_aurora(grpo.model), processor, rows, max_new_tokens=4, choosing=Choosing(2))
    )


def test_grpo_teaches_it_too(drawing_checkpoint, cot_rows, processor, tmp_path):
    """Whether or not completions share their prompt; and the reward sees a score of each mask."""
    results = []
    for shared in (True, False):
        model = AuroraModel.from_pretrained(drawing_checkpoint)
        trainer = build_grpo(
            model,
            cot_rows,
            processor,
            tmp_path / str(shared),
            rewards=["mask_quality_reward"],
            shared_prefix=shared,
            learning_rate=1e-4,
            max_steps=1,
            temperature=2.0,
            **QUALITY,
        )
        trainer.train()
        results.append(logged(trainer, "mask_quality_loss", "rewards/mask_quality_reward/mean", "seg_share")[0])
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert results[0][0] > 0
    assert results[0][2] > 0.5


def test_the_reward_by_hand():
    assert mask_quality_reward([], [], [0.25, None, 1.5, -0.5]) == [0.25, 0.0, 1.0, 0.0]


def test_rewards_see_the_score_of_the_masks(drawing_checkpoint, cot_rows, processor, tmp_path):
    seen = []

    def spy_reward(prompts, completions, pred_masks, mask_quality, **columns):
        seen.extend(zip(pred_masks, mask_quality, strict=True))
        return [0.0] * len(prompts)

    model = AuroraModel.from_pretrained(drawing_checkpoint)
    with torch.no_grad():
        last = head_of(model).layers[-1]
        last.weight.zero_()
        last.bias.fill_(0.75)
    build_grpo(model, cot_rows, processor, tmp_path, rewards=[spy_reward], max_steps=1, temperature=2.0).train()
    assert seen
    assert all(score == (None if mask is None else pytest.approx(0.75)) for mask, score in seen)


def test_the_teachers_score_comes_with_its_decoder(checkpoint, cot_rows, processor, tmp_path):
    teacher, student = (AuroraModel.from_pretrained(checkpoint) for _ in range(2))
    teacher.config.quality_trained = True
    with torch.no_grad():
        head_of(teacher).layers[-1].bias.fill_(0.5)
    build_sft(student, cot_rows, processor, tmp_path, teacher=teacher)
    assert student.config.quality_trained
    assert torch.equal(head_of(student).layers[-1].bias, head_of(teacher).layers[-1].bias)


@pytest.mark.parametrize("config_class", [AuroraSFTConfig, AuroraGRPOConfig])
def test_a_bad_weight(config_class, tmp_path):
    with pytest.raises(ValueError, match="`mask_quality_loss_weight` must not be negative, got -1"):
        config_class(str(tmp_path), use_cpu=True, bf16=False, mask_quality_loss_weight=-1.0)


def test_a_decoder_without_a_score_is_refused(model, cot_rows, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model.mask_decoder), "gives_quality", False)
    with pytest.raises(
        ValueError, match="`mask_quality_loss_weight` teaches .* SamMaskDecoder has none: leave it out"
    ):
        build_sft(model, cot_rows, processor, tmp_path, **QUALITY)
    with pytest.raises(ValueError, match="`mask_quality_reward` is the mask decoder's score .* has none"):
        build_grpo(model, cot_rows, processor, tmp_path, rewards=["iou_reward", "mask_quality_reward"])
