"""Both trainers on answers with several `[SEG]`."""

from collections import defaultdict

import pytest
import torch
from datasets import Dataset
from grpo_helpers import build, logged
from quick import QUICK

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.schema import FEATURES, clip_key
from aurora_trl.errors import DataError
from aurora_trl.evaluation.iou import mask_iou
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.models.objects import find_seg_positions
from aurora_trl.prompts import SEG_TOKEN, answer_sentence
from aurora_trl.training.rewards import completion_text, format_reward, iou_reward

SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    **QUICK,
}
TEXT = "So the target is {name}. {answer}"


def sft(model, rows, processor, folder, teacher=None, **settings):
    args = AuroraSFTConfig(output_dir=str(folder), **{**SETTINGS, **settings})
    return AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor, teacher=teacher)


@pytest.fixture(scope="module")
def pairs(rows):
    """References to two objects of a clip, each with masks of its own; then both in one mask, one alone, and none."""
    clips = defaultdict(dict)
    for row in rows:
        if not row["is_null"]:
            clips[clip_key(row)].setdefault(tuple(row["masks"]), row)
    couples = [list(found.values())[:2] for found in clips.values() if len(found) > 1]
    made = []
    for first, second in couples:
        apart = [f'["{a}", "{b}"]' for a, b in zip(first["masks"], second["masks"], strict=True)]
        base = {**first, "reference": "both", "class_name": "both"}
        made.append({**base, "id": f"{first['id']} apart", "masks": apart, "target": text_of(2)})
        made.append({**base, "id": f"{first['id']} together", "num_objects": 2, "target": text_of(2)})
        made.append({**first, "id": f"{first['id']} alone", "target": text_of(1)})
    nothing = next(row for row in rows if row["is_null"])
    made.insert(2, {**nothing, "target": text_of(1)})
    assert len(couples) >= 4
    return Dataset.from_list(made, features=FEATURES)


def text_of(count):
    return TEXT.format(name="both" if count > 1 else "it", answer=answer_sentence(count))


@pytest.fixture(scope="module")
def writing_checkpoint(checkpoint, pairs, processor, tmp_path_factory):
    """A checkpoint that has learned to write one `[SEG]` or two, though not where to draw."""
    folder = tmp_path_factory.mktemp("checkpoints") / "writing"
    settings = {"targets": "answer", "max_steps": 25, "max_objects": 2}
    trainer = sft(AuroraModel.from_pretrained(checkpoint), pairs, processor, folder, **settings)
    trainer.train()
    trainer.save_model()
    return folder


def losses(trainer, *names):
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]


def test_one_target_is_what_it_always_was(checkpoint, cot_rows, processor, tmp_path):
    """Said or left out, to the bit; the batches hold what they held, and a checkpoint with more targets goes back."""
    results = []
    for name, given, settings in (
        ("default", processor, {}),
        ("one", processor, {"max_objects": 1}),
        ("back", processor.with_max_objects(3), {"max_objects": 1}),
    ):
        trainer = sft(AuroraModel.from_pretrained(checkpoint), cot_rows, given, tmp_path / name, **settings)
        batch = trainer.data_collator(cot_rows.to_list()[:3])
        assert "object_masks" not in batch
        expected = find_seg_positions(batch["input_ids"], batch["labels"] != -100, processor.seg_token_id)
        assert torch.equal(batch["seg_positions"], expected)
        trainer.train()
        results.append(losses(trainer, "loss", "grad_norm", "mask_bce_loss", "mask_dice_loss", "iou"))
    assert len(results[0]) == 2
    assert results[0] == results[1] == results[2]


def test_supervised_steps(checkpoint, pairs, processor, tmp_path):
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = sft(model, pairs, processor, tmp_path, max_objects=2, max_steps=3, mask_frames_per_step=4)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    trainer.save_model()
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value) != value.requires_grad, name
    assert all(
        torch.isfinite(torch.tensor(losses(trainer, "loss", "mask_bce_loss", "mask_dice_loss", "iou"))).flatten()
    )
    # The setting is the checkpoint's from now on.
    assert AuroraProcessor.from_pretrained(tmp_path).max_objects == 2
    assert processor.max_objects == 1


def test_masks_of_each_object(pairs, processor):
    """Apart in the first row, together in the second; the union is the same as ever."""
    loader = ClipLoader(processor.with_max_objects(3))
    apart, together = pairs[0], pairs[1]
    targets = loader.object_masks(apart)
    assert targets.shape == (3, 10, 32, 32)
    assert (targets[2] == 255).all()
    assert torch.equal(targets[0], ClipLoader(processor).masks(together))  # its own masks are the first object's
    union = loader.masks(apart)
    assert (union >= targets[:2].amax(dim=0)).all()
    assert union.sum() > targets[0].sum()
    assert (loader.object_masks(together) == 255).all()


def test_a_batch_without_seg(model, pairs, processor, tmp_path):
    """No `[SEG]`: no mask loss, no error, and projector and decoder still take part, for the ranks that wait."""
    trainer = sft(model, pairs, processor, tmp_path, max_objects=2)
    batch = trainer.data_collator(pairs.to_list()[:3])
    assert batch["seg_positions"].shape == (3, 2)
    batch["seg_positions"].fill_(-1)
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch).backward()
    for module in (model.seg_projector, model.mask_decoder.mask_decoder):
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert gradients
        assert not any(gradient.any() for gradient in gradients)
    assert trainer._metrics["train"]["mask_dice_loss"] == [0.0]


def test_a_teacher_knows_one_feature(checkpoint, pairs, processor, tmp_path):
    """Rows with one `[SEG]` are distilled as ever, those with two are not; where none has one, that is an error."""
    teacher = AuroraModel.from_pretrained(checkpoint)
    with torch.no_grad():
        teacher.seg_projector[-1].bias.add_(1.0)
    trainer = sft(AuroraModel.from_pretrained(checkpoint), pairs, processor, tmp_path / "a", teacher, max_objects=2)
    rows = pairs.to_list()
    trainer.model.train()
    for chosen, counts in ((rows[:2], False), (rows[:1] + rows[3:4], True)):
        trainer.compute_loss(trainer.model, trainer.data_collator(chosen))
        assert (trainer._metrics["train"]["distillation_loss"][-1] > 0) == counts
    assert trainer.teacher_features(rows[:2]).shape == (2, 64)
    settings = {"max_objects": 2, "feature_cache": str(tmp_path / "features")}
    kept = sft(AuroraModel.from_pretrained(checkpoint), pairs, processor, tmp_path / "c", teacher, **settings)
    kept.keep_features(pairs)
    torch.testing.assert_close(kept.teacher_features(rows), trainer.teacher_features(rows))
    losses = [each.compute_loss(each.model, each.data_collator(rows[:4])) for each in (trainer, kept)]
    torch.testing.assert_close(losses[1], losses[0])
    several = pairs.filter(lambda row: row["target"].count(SEG_TOKEN) == 2)
    with pytest.raises(ValueError, match=r"no row's target has a single \[SEG\]"):
        sft(AuroraModel.from_pretrained(checkpoint), several, processor, tmp_path / "b", teacher, max_objects=2)


def test_too_many_objects_are_an_error_before_training(checkpoint, model, pairs, processor, tmp_path):
    with pytest.raises(DataError, match=r"row '.* apart': it is about 2 objects, and `max_objects` is 1; raise it"):
        sft(model, pairs, processor, tmp_path)
    with pytest.raises(DataError, match=r"it is about 2 objects, and `max_objects` is 1; raise it"):
        build(model, pairs, processor, tmp_path)
    with pytest.raises(ValueError, match="`max_objects` must be at least 1, got 0"):
        AuroraSFTConfig(output_dir=str(tmp_path), max_objects=0, use_cpu=True, bf16=False)


def test_answers_name_as_many_as_there_are(model, pairs, processor, tmp_path):
    trainer = sft(model, pairs, processor, tmp_path, max_objects=2, targets="answer")
    assert trainer.train_dataset["target"][:4] == [answer_sentence(n) for n in (2, 2, 1, 1)]


@pytest.mark.parametrize("group_by_clip", [False, True])
def test_supervised_training_equals_the_plain_path(group_by_clip, checkpoint, pairs, processor, tmp_path):
    """References that share a clip are read once, and their `[SEG]` found again."""
    results = []
    for shared in (True, False):
        trainer = sft(
            AuroraModel.from_pretrained(checkpoint),
            pairs,
            processor,
            tmp_path / str(shared),
            max_objects=2,
            learning_rate=1e-3,
            per_device_train_batch_size=6,
            group_by_clip=group_by_clip,
            shared_prefix=shared,
        )
        trainer.train()
        results.append(losses(trainer, "loss", "grad_norm", "iou", "mask_bce_loss", "mask_dice_loss"))
    torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]), atol=1e-4, rtol=1e-4)


def test_grpo_steps(writing_checkpoint, pairs, processor, tmp_path):
    """Rewards see the union and how many targets are allowed, and everything that should train does."""
    seen = []

    def spy_reward(prompts, completions, pred_masks, object_masks, max_objects, masks, **columns):
        seen.append((completions, pred_masks, object_masks, masks, max_objects))
        return [0.1 * completion_text(completion).count(SEG_TOKEN) for completion in completions]

    model = AuroraModel.from_pretrained(writing_checkpoint)
    loaded = AuroraProcessor.from_pretrained(writing_checkpoint)
    trainer = build(
        model,
        pairs,
        loaded,
        tmp_path,
        rewards=[format_reward, iou_reward, spy_reward],
        max_steps=3,
        temperature=1.5,
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value) != value.requires_grad, name
    counts = set()
    for completions, pred_masks, object_masks, masks, max_objects in seen:
        assert set(max_objects) == {2}
        for completion, drawn, targets, target in zip(completions, pred_masks, object_masks, masks, strict=True):
            count = completion_text(completion).count(SEG_TOKEN)
            counts.add(count)
            assert (drawn is None) == (count == 0)
            assert drawn is None or drawn.shape == target.shape
            assert targets.shape == (2, *target.shape)
    assert 2 in counts
    assert max(row[0] for row in logged(trainer, "rewards/format_reward/mean")) > 0


def test_rollout_masks_are_the_union_of_a_forward(writing_checkpoint, pairs, tmp_path):
    """The masks that rewards see are those that the model draws for the same completion, one `[SEG]` or two."""
    model = AuroraModel.from_pretrained(writing_checkpoint)
    processor = AuroraProcessor.from_pretrained(writing_checkpoint)
    seen = []

    def spy_reward(prompts, completions, pred_masks, completion_ids, id, **columns):  # noqa: A002
        seen.extend(zip(id, completion_ids, pred_masks, strict=True))
        return [float(len(ids) % 3) for ids in completion_ids]

    before = AuroraModel.from_pretrained(writing_checkpoint).eval()
    build(model, pairs, processor, tmp_path, rewards=[spy_reward], max_steps=1).train()
    rows = {row["id"]: row for row in pairs}
    loader, counts = ClipLoader(processor), set()
    for row_id, completion_ids, drawn in seen:
        clip = loader.clip(rows[row_id])
        prompt = processor.prompt_ids(rows[row_id], clip)
        positions = [i for i, token in enumerate(prompt + completion_ids) if token == processor.seg_token_id][:2]
        if drawn is None:
            assert not positions
            continue
        counts.add(len(positions))
        media = {name: clip[name][None] for name in ("pixel_values_videos", "audio_values", "mask_frames")}
        with torch.no_grad():
            output = before(
                input_ids=torch.tensor([prompt + completion_ids]), seg_positions=torch.tensor([positions]), **media
            )
        union = output["mask_logits"][0].amax(dim=0)
        expected = torch.nn.functional.interpolate(union[:, None], drawn.shape[-2:], mode="bilinear")[:, 0]
        torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-3)
    assert 2 in counts


GRPO = {"plain": {}, "two iterations": {"num_iterations": 2, "gradient_accumulation_steps": 2}}


@pytest.mark.parametrize("settings", GRPO.values(), ids=GRPO)
def test_grpo_equals_the_plain_path(settings, writing_checkpoint, pairs, tmp_path):
    results = []
    for shared in (True, False):
        trainer = build(
            AuroraModel.from_pretrained(writing_checkpoint),
            pairs,
            AuroraProcessor.from_pretrained(writing_checkpoint),
            tmp_path / str(shared),
            shared_prefix=shared,
            temperature=2.0,
            learning_rate=1e-4,
            max_steps=3,
            **settings,
        )
        assert trainer._shares_prefix == shared
        trainer.train()
        names = ("loss", "reward", "reward_std", "grad_norm", "iou", "seg_share", "mask_bce_loss", "mask_dice_loss")
        results.append(torch.tensor(logged(trainer, *names), dtype=torch.float64))
    assert (results[1][:, 5] > 0).any()
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_it_learns(checkpoint, pairs, processor, tmp_path):
    """Two references to two objects each: one `[SEG]` comes to draw one of them, the other the other."""
    rows = pairs.filter(lambda row: row["id"].endswith("apart")).select(range(2))
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = sft(
        model,
        rows,
        processor,
        tmp_path,
        max_objects=2,
        per_device_train_batch_size=2,
        max_steps=120,
        learning_rate=3e-3,
        freeze_mask_encoder=False,
        media_cache_clips=2,
        logging_steps=50,
    )
    trainer.train()
    two = trainer.processing_class
    loader = ClipLoader(two)
    for answer in answer_rows(model, two, rows, max_new_tokens=16, loader=loader):
        assert answer.completion == answer.row["target"]
        targets = loader.object_masks(answer.row)
        square = answer.object_logits  # the frames are square
        iou = torch.tensor([[mask_iou(drawn[None], target[None])[0] for target in targets] for drawn in square])
        best = max(iou[0, 0] + iou[1, 1], iou[0, 1] + iou[1, 0]) / 2
        assert best > 0.8
        assert mask_iou(answer.mask_logits[None], loader.masks(answer.row)[None])[0] > 0.8
