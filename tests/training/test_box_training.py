"""Policies that write boxes: learnt from a recipe, saved, loaded, scored; a GRPO step with rewards worked apart."""

import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from datasets import Dataset
from grpo_helpers import build as build_grpo
from sft_helpers import build as build_sft

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.annotation.mining import mine_rows
from aurora_trl.data import load_refavs
from aurora_trl.data.masks import decode_rle
from aurora_trl.data.schema import FEATURES
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.pipeline import AuroraPipeline
from aurora_trl.prompts import box_instruction, is_null_answer
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe
from aurora_trl.training.lora import lora_config

RECIPES = REPOSITORY / "recipes" / "tiny" / "boxes"
BOX = {
    "mask_source": "box",
    "mask_bce_loss_weight": 0.0,
    "mask_dice_loss_weight": 0.0,
    "freeze_mask_decoder": True,
}
REWARDS = ["bbox_format_reward", "iou_or_null_reward", "bbox_iou_reward", "bbox_l1_reward", "point_in_mask_reward"]
REWARDS += ["no_target_reward"]


def read_recipe(name, config, *flags):
    """The settings of a recipe's YAML, with flags over it."""
    shared = ["--use_cpu", "true", "--dataloader_num_workers", "0", "--save_strategy", "no"]
    return parse_recipe((RecipeArguments, LoraArguments, config), ["--config", str(RECIPES / name), *shared, *flags])


@pytest.fixture(scope="module")
def learnt(checkpoint, world, tmp_path_factory):
    """A policy that has learnt by the tiny recipe to end with boxes, from `[SEG]`'s checkpoint; and its folder."""
    folder = tmp_path_factory.mktemp("boxes") / "sft"
    flags = {"output_dir": folder, "targets": "answer", "max_steps": 60, "learning_rate": 1e-2, "logging_steps": 20}
    flags |= {"model_name_or_path": checkpoint, "per_device_train_batch_size": 4, "warmup_steps": 2}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    recipe, _, args = read_recipe("sft.yaml", AuroraSFTConfig, *words)
    model = AuroraModel.from_pretrained(recipe.model_name_or_path)
    before = {name: value.clone() for name, value in model.mask_decoder.state_dict().items()}
    rows = load_refavs(world, "train")
    processor = AuroraProcessor.from_pretrained(checkpoint)
    trainer = AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    assert all(torch.equal(value, before[name]) for name, value in model.mask_decoder.state_dict().items())
    return trainer, folder


@pytest.fixture(scope="module")
def box_folder(learnt):
    return learnt[1]


@pytest.fixture
def box_parts(box_folder):
    return AuroraModel.from_pretrained(box_folder), AuroraProcessor.from_pretrained(box_folder)


def test_saved_loaded_and_scored_it_draws_the_same(learnt, world, tmp_path):
    trainer, folder = learnt
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    assert model.config.mask_source == processor.mask_source == "box"
    assert processor.instruction == box_instruction(10)
    assert not any(name.startswith("seg_") for name in model.state_dict())
    rows = list(load_refavs(world, "val"))[:8]
    before = list(answer_rows(trainer.model, trainer.processing_class, rows))
    after = list(answer_rows(model, processor, rows))
    assert sum(answer.mask_logits is not None for answer in after) >= 2
    for old, new in zip(before, after, strict=True):
        assert old.completion == new.completion
        assert (old.mask_logits is None) == (new.mask_logits is None) == (new.prompts is None)
        if new.mask_logits is not None:
            torch.testing.assert_close(old.mask_logits, new.mask_logits, atol=1e-5, rtol=1e-5)
    scores = evaluate_model(model, processor, {"val": rows}, tmp_path / "scores", batch_size=8)
    assert scores["splits"]["val"]["format_accuracy"] >= 0.75
    records = [json.loads(line) for line in (tmp_path / "scores" / "answers.jsonl").read_text().splitlines()]
    for record, answer in zip(records, after, strict=True):
        drawn = np.stack([decode_rle(json.dumps(mask)) for mask in map(as_json, record["masks"])])
        assert record["format_correct"] == (answer.prompts is not None or is_null_answer(answer.completion))
        assert record["completion"] == answer.completion
        assert drawn.any() == (answer.mask_logits is not None and bool((answer.mask_logits > 0).any()))
    mined = list(mine_rows(model, processor, rows, batch_size=8))
    assert [answer.row["target"] for answer in mined] == [answer.completion for answer in after]


def as_json(mask):
    return json.loads(mask) if isinstance(mask, str) else mask


def test_the_pipeline_draws_from_boxes(box_folder, world):
    pipe = AuroraPipeline.from_pretrained(box_folder, device="cpu")
    row = load_refavs(world, "val")[0]
    result = pipe(row["reference"], frames=row["frames"], audio=row["audio"])
    assert result.masks.shape == (10, 48, 48)
    assert result.has_seg == result.reasoning.endswith("]")
    with pytest.raises(ValueError, match="this model writes boxes for the frames that it reads"):
        pipe.every_frame(result)


class Seen:
    """A reward that keeps what TRL and the trainer hand to it."""

    __name__ = "seen"

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, **columns):
        self.calls.append((completions, columns))
        return [0.0] * len(completions)


def worked_rewards(text, target, is_null):
    """What a completion earns, from its text and the target `(T, H, W)` alone, by loops; None: left out."""
    count, height, width = target.shape
    try:
        entry = json.loads(text[text.index("[") :])[0]
        x1, y1, x2, y2 = (min(max(value / 1000, 0), 1) for value in entry["bbox_2d"])
        px, py = (min(max(value / 1000, 0), 1) for value in entry["point_2d"])
        written = x1 < x2 and y1 < y2 and 0 <= entry.get("frame", 0) < count
        frames = [entry["frame"]] if "frame" in entry else list(range(count))
    except (ValueError, KeyError, IndexError, TypeError):
        written, frames = False, []
    says_null = text.rstrip().endswith("Nothing fits.")
    rewards = {
        "bbox_format_reward": float(written or says_null),
        "no_target_reward": float(says_null == bool(is_null)),
    }
    names = ("bbox_iou_reward", "bbox_l1_reward", "point_in_mask_reward")
    if not target.any():
        return {**rewards, **dict.fromkeys(names)}
    scores = []
    for frame in frames if written else ():
        ys, xs = np.nonzero(target[frame])
        if not len(ys):
            continue
        a1, b1, a2, b2 = xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height
        both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
        iou = both / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both)
        far = (abs(x1 - a1) + abs(y1 - b1) + abs(x2 - a2) + abs(y2 - b2)) / 4
        inside = target[frame, min(int(py * height), height - 1), min(int(px * width), width - 1)]
        scores.append((iou, max(0.0, 1 - far / 0.1), float(inside)))
    means = np.mean(scores, axis=0) if scores else [0.0] * 3
    return {**rewards, **dict(zip(names, means, strict=True))}


def test_a_grpo_step_by_the_recipe(box_parts, box_folder, world, tmp_path):
    """Real completions; their rewards worked apart, their masks drawn by segment-anything's own prompt encoder."""
    model, processor = box_parts
    flags = {"model_name_or_path": box_folder, "output_dir": tmp_path, "per_device_train_batch_size": 16}
    flags |= {"max_steps": 1, "max_completion_length": 100, "warmup_steps": 0, "learning_rate": 1e-2}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    _, _, args = read_recipe("grpo.yaml", AuroraGRPOConfig, *words, "--logging_steps", "1", "--temperature", "0.5")
    seen = Seen()
    # Both kinds of references: about something, and about nothing.
    rows = load_refavs(world, "train").to_list()
    rows = [row for row in rows if not row["is_null"]][:3] + [row for row in rows if row["is_null"]][:1]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    dataset = Dataset.from_list(rows, features=FEATURES)
    trainer = build_grpo(model, dataset, processor, tmp_path, rewards=[*REWARDS, seen], **as_set(args))
    trainer.train()
    ((texts, given),) = seen.calls
    checked = 0
    completions = [completion[0]["content"] for completion in texts]
    logged = {name: list(values) for name, values in trainer._logs["rewards"].items()}
    for number, text in enumerate(completions):
        columns = {name: values[number] for name, values in given.items() if isinstance(values, list)}
        expected = worked_rewards(text, (columns["masks"] == 1).numpy(), columns["is_null"])
        for name, value in expected.items():
            if value is None:
                assert np.isnan(logged[name][number])
            else:
                assert logged[name][number] == pytest.approx(value, abs=1e-5), (name, text)
        assert (columns["pred_masks"] is not None) == (columns["pred_boxes"] is not None)
        checked += columns["pred_masks"] is not None
    assert checked >= 4, completions
    assert len(set(completions)) > 2, "a group that writes one thing learns nothing"
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("policy.") for name in changed)
    entry = trainer.state.log_history[0]
    assert entry["seg_share"] > 0
    assert "mask_bce_loss" not in entry


def as_set(args):
    """The recipe's own values, for a trainer that is built with others' defaults."""
    names = [*BOX, "freeze_connector", "per_device_train_batch_size", "num_generations", "scale_rewards", "max_steps"]
    names += ["max_completion_length", "learning_rate", "temperature", "top_p"]
    return {name: getattr(args, name) for name in names}


@torch.no_grad()
def test_masks_of_an_answer_are_segment_anythings(box_parts, world):
    """The answer's own text, read with `json`, given to the published prompt encoder."""
    model, processor = box_parts
    rows = [row for row in load_refavs(world, "train") if not row["is_null"]]
    answer = next(answer for answer in answer_rows(model, processor, rows) if answer.prompts is not None)
    entry = json.loads(answer.completion[answer.completion.index("[") :])[0]
    places = 32 * torch.tensor([*entry["bbox_2d"], *entry["point_2d"]]) / 1000
    sam = model.mask_decoder
    point = (places[None, 4:][None], torch.ones(1, 1))
    sparse, _ = sam.prompt_encoder(points=point, boxes=places[None, :4], masks=None)
    from aurora_trl.generation.clip_loader import ClipLoader

    frames = ClipLoader(processor).clip(answer.row)["mask_frames"]
    expected = sam.decode(sam.encode(frames), sparse.expand(10, -1, -1))
    torch.testing.assert_close(answer.decoded_logits, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_writes_boxes_when_it_is_merged(checkpoint, world, tmp_path):
    """LoRA on a base with `[SEG]`, whose projector is let go; the folder of the adapter says so."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    adapter = lora_config(model, LoraArguments(use_lora=True), {"language_model", "seg_projector"})
    settings = {**BOX, "targets": "answer", "max_steps": 40, "num_frames": 1}
    rows = load_refavs(world, "train")
    trainer = build_sft(model, rows, processor, tmp_path, peft_config=adapter, **settings)
    trainer.train()
    trainer.save_model()
    loaded = AuroraModel.from_pretrained(tmp_path)
    assert loaded.config.mask_source == "box"
    assert loaded.seg_projector is None
    asked = list(rows)[:4]
    processor = AuroraProcessor.from_pretrained(tmp_path)
    assert processor.instruction == box_instruction(1)
    trained = list(answer_rows(trainer.model.get_base_model(), trainer.processing_class, asked))
    merged = list(answer_rows(loaded, processor, asked))
    assert [answer.completion for answer in merged] == [answer.completion for answer in trained]
    for ours, theirs in zip(merged, trained, strict=True):
        if theirs.mask_logits is not None:
            torch.testing.assert_close(ours.mask_logits, theirs.mask_logits, atol=1e-4, rtol=1e-4)


def test_what_can_not_be_read_draws_nothing(checkpoint, world, tmp_path):
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    model.set_mask_source("box")
    processor = processor.with_mask_source("box")
    rows = list(load_refavs(world, "val"))[:3]
    answers = list(answer_rows(model, processor, rows, max_new_tokens=5))
    assert [answer.mask_logits for answer in answers] == [answer.prompts for answer in answers] == [None] * 3
    scores = evaluate_model(model, processor, {"val": rows}, tmp_path / "scores", max_new_tokens=5)
    assert scores["splits"]["val"]["format_accuracy"] == 0.0


def test_what_does_not_go_with_boxes(model, processor, rows, tmp_path):
    for changed, message in (
        ({"mask_bce_loss_weight": 1.0}, "no gradient from masks: set `mask_bce_loss_weight: 0.0`"),
        ({"mask_dice_loss_weight": 1.0}, "set `mask_dice_loss_weight: 0.0`"),
        ({"freeze_mask_decoder": False}, "draws with a decoder that nothing teaches: set `freeze_mask_decoder: true`"),
        ({"freeze_mask_encoder": False}, "set `freeze_mask_encoder: true`"),
        ({"alignment_loss_weight": 0.1}, "set `alignment_loss_weight: 0.0`"),
        ({"mask_source": "points"}, "`mask_source` must be one of seg, box, both, got 'points'"),
        ({"box_frames": 0}, "`box_frames` must be at least 1, got 0"),
        ({"teacher_model_name_or_path": "t"}, "leave the teacher out"),
        ({"seg_layers": 2}, "`mask_source: box` reads no state at"),
    ):
        with pytest.raises(ValueError, match=message.replace("[", r"\[")):
            build_sft(model, rows, processor, tmp_path, targets="answer", **{**BOX, **changed})
    model, teacher = (AuroraModel.from_pretrained(model.name_or_path) for _ in range(2))
    with pytest.raises(ValueError, match="which is what a teacher gives: leave the teacher out"):
        build_sft(model, rows, processor, tmp_path, targets="answer", teacher=teacher, **BOX)
    with pytest.raises(ValueError, match="`format_reward` asks for .*: use `bbox_format_reward`"):
        build_grpo(model, rows, processor, tmp_path, rewards=["format_reward"], **BOX)
    model = AuroraModel.from_pretrained(model.name_or_path)
    with pytest.raises(ValueError, match="`mask_source: seg`, and `bbox_iou_reward` is about boxes"):
        build_grpo(model, rows, processor, tmp_path, rewards=["bbox_iou_reward"])


def test_a_checkpoint_that_writes_boxes_needs_no_setting_but_its_losses(box_parts, rows, tmp_path):
    """The source is the checkpoint's; what does not go with it is refused all the same."""
    model, processor = box_parts
    with pytest.raises(ValueError, match="set `mask_bce_loss_weight: 0.0`"):
        build_grpo(model, rows, processor, tmp_path, rewards=["iou_reward"])
    with pytest.raises(ValueError, match="`mask_source: seg` needs a projector"):
        build_grpo(model, rows, processor, tmp_path, rewards=["iou_reward"], mask_source="seg")
