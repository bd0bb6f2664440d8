"""Phases with queries in place of `[SEG]`: from a YAML, with LoRA, in both orders of the paper's Table 7."""

import json

import pytest
import torch
from grpo_helpers import build as build_grpo
from query_helpers import NUM_QUERIES, model_with_queries
from sft_helpers import build as build_sft

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.annotation.mining import mine_rows
from aurora_trl.data import load_refavs
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.prompts import SEG_TOKEN
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe
from aurora_trl.training.lora import lora_config, unwrap_aurora
from aurora_trl.training.sample_log import SampleLog

QUERIES = {"seg_source": "queries", "num_queries": NUM_QUERIES}
TEXT_ALONE = {
    "mask_bce_loss_weight": 0.0,
    "mask_dice_loss_weight": 0.0,
    "freeze_seg_projector": True,
    "freeze_mask_decoder": True,
}
YAML = """
model_name_or_path: {checkpoint}
dataset_path: {world}
output_dir: {folder}
seg_source: queries
num_queries: 3
targets: answer
group_by_clip: true
per_device_train_batch_size: 4
max_steps: 40
learning_rate: 1.0e-2
report_to: none
save_strategy: "no"
bf16: false
gradient_checkpointing: false
logging_steps: 10
"""


@torch.no_grad()
def draw(model, rows, processor):
    batch = SFTCollator(ClipLoader(processor), with_masks=False)(rows)
    batch.pop("labels")
    return model.eval()(**batch)["mask_logits"]


def adapter_of(model, **settings):
    args = AuroraSFTConfig("nowhere", use_cpu=True, bf16=False, **settings)
    return lora_config(model, LoraArguments(use_lora=True), args.trainable_groups())


@pytest.fixture(scope="module")
def learnt(checkpoint, world, tmp_path_factory):
    """A model that has learnt by a YAML to segment behind an empty answer; and its folder."""
    folder = tmp_path_factory.mktemp("queries") / "seg"
    recipe_file = folder.with_suffix(".yaml")
    recipe_file.write_text(YAML.format(checkpoint=checkpoint, world=world, folder=folder))
    flags = ["--config", str(recipe_file), "--use_cpu", "true", "--dataloader_num_workers", "0"]
    recipe, _, args = parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), flags)
    model = AuroraModel.from_pretrained(recipe.model_name_or_path)
    processor = AuroraProcessor.from_pretrained(checkpoint)
    trainer = AuroraSFTTrainer(model, args, train_dataset=recipe.load_train(args), processing_class=processor)
    drawn = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    trainer.save_model()
    for name, value in model.named_parameters():
        assert torch.equal(drawn[name], value) != value.requires_grad, name
    return trainer, folder


def test_saved_loaded_and_scored_it_draws_the_same(learnt, world, tmp_path):
    trainer, folder = learnt
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    assert (model.config.seg_source, model.config.num_queries) == (processor.seg_source, processor.num_queries)
    assert processor.query_ids == [processor.seg_token_id] * NUM_QUERIES
    assert processor.max_answer_tokens == 1  # the end of turn
    rows = list(load_refavs(world, "val"))[:6]
    before = list(answer_rows(trainer.model, trainer.processing_class, rows))
    after = list(answer_rows(model, processor, rows))
    for old, new in zip(before, after, strict=True):
        assert old.completion == new.completion == ""
        torch.testing.assert_close(old.mask_logits, new.mask_logits, atol=1e-5, rtol=1e-5)
    scores = evaluate_model(model, processor, {"val": rows}, tmp_path / "scores", batch_size=6)
    assert scores["splits"]["val"]["format_accuracy"] == 1.0
    records = [json.loads(line) for line in (tmp_path / "scores" / "answers.jsonl").read_text().splitlines()]
    assert all(record["has_seg"] and not record["cut"] for record in records)
    mined = list(mine_rows(model, processor, rows, batch_size=6))
    assert not any(SEG_TOKEN in answer.row["target"] for answer in mined)


def test_samples_of_an_evaluation_have_no_format(learnt, world):
    """What the trackers show of a text that asks for no mask."""
    trainer = learnt[0]
    trainer.eval_dataset = load_refavs(world, "val")
    (sample,) = SampleLog(trainer, 1)._answer()
    assert set(sample.rewards) == {"class_reward", "iou_reward"}


def test_reasoning_first_leaves_the_queries_to_the_next_phase(checkpoint, cot_rows, processor, tmp_path):
    """
    MLLM+seg: the text alone, then the masks with the language model as it is. An adapter of the first phase does not
    hold the queries, which it has not trained; they are the same wherever it is loaded.
    """
    model = AuroraModel.from_pretrained(checkpoint)
    settings = {**QUERIES, **TEXT_ALONE}
    first = build_sft(
        model, cot_rows, processor, tmp_path / "reasoning", peft_config=adapter_of(model, **settings), **settings
    )
    first.train()
    first.save_model()
    text = first.processing_class.tokenizer.decode(
        first.data_collator(cot_rows.to_list()[:1])["labels"][0].clamp(min=0)
    )
    assert "the target is" in text
    assert SEG_TOKEN not in text
    merged, own = (
        AuroraModel.from_pretrained(tmp_path / "reasoning"),
        AuroraProcessor.from_pretrained(tmp_path / "reasoning"),
    )
    assert torch.equal(merged.seg_queries.embeddings, unwrap_aurora(first.model).seg_queries.embeddings)
    rows = cot_rows.to_list()[:2]
    expected = draw(unwrap_aurora(first.model), rows, own)
    torch.testing.assert_close(draw(merged, rows, own), expected, atol=1e-4, rtol=1e-4)
    before = {name: value.detach().clone() for name, value in merged.named_parameters()}
    second = build_sft(
        merged, cot_rows, own, tmp_path / "seg", ce_loss_weight=0.0, freeze_language_model=True, group_by_clip=True
    )
    second.train()
    changed = {name.split(".")[0] for name, value in merged.named_parameters() if not torch.equal(before[name], value)}
    assert changed == {"seg_projector", "seg_queries", "mask_decoder"}


def test_lora_keeps_them_and_leaves_the_vocabulary_alone(checkpoint, cot_rows, processor, tmp_path):
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = build_sft(
        model, cot_rows, processor, tmp_path, peft_config=adapter_of(model), group_by_clip=True, **QUERIES
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_model()
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    for name, value in trainer.model.named_parameters():
        assert torch.equal(before[name], value) != (name in trained), name
    assert any("seg_queries" in name for name in trained)
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained)
    rows, own = cot_rows.to_list()[:2], trainer.processing_class
    expected = draw(unwrap_aurora(trainer.model), rows, own)
    unmerged = unwrap_aurora(load_adapter(tmp_path))
    torch.testing.assert_close(draw(unmerged, rows, own), expected, atol=1e-6, rtol=1e-6)
    merged = AuroraModel.from_pretrained(tmp_path)
    torch.testing.assert_close(draw(merged, rows, own), expected, atol=1e-4, rtol=1e-4)
    assert merged.config.seg_source == "queries"


@pytest.mark.parametrize("policy", [True, "qwen3"], ids=["omni", "qwen3"])
def test_other_policies_train_with_them(policy, qwen_checkpoints, cot_rows, tmp_path):
    """Checkpointed, with references of a clip in one row, and as plain rows: the same losses."""
    losses = []
    for name, settings in (("plain", {"shared_prefix": False}), ("shared", {"gradient_checkpointing": True})):
        model, processor = model_with_queries(qwen_checkpoints[policy])
        trainer = build_sft(
            model,
            cot_rows,
            processor,
            tmp_path / name,
            group_by_clip=True,
            max_steps=2,
            learning_rate=1e-3,
            **settings,
        )
        before = model.seg_queries.embeddings.detach().clone()
        trainer.train()
        assert ((model.seg_queries.embeddings - before).abs().sum(dim=1) > 0).all()
        logs = [log for log in trainer.state.log_history if "mask_dice_loss" in log]
        losses.append(torch.tensor([[log["loss"], log["mask_dice_loss"], log["iou"]] for log in logs]))
    torch.testing.assert_close(*losses, atol=1e-3, rtol=1e-3)


def test_null_answers_alone_still_give_a_gradient(checkpoint, cot_rows, tmp_path):
    """A batch in which nothing is drawn: processes would wait for a gradient that one of them does not have."""
    model, processor = model_with_queries(checkpoint)
    null = [{**row, "is_null": True, "target": "Nothing fits."} for row in cot_rows.to_list()[:2]]
    trainer = build_sft(model, cot_rows, processor, tmp_path)
    trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(null))).backward()
    for value in (model.seg_queries.embeddings, model.seg_projector[0].weight):
        assert not value.grad.any()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"seg_source": "words"}, "`seg_source` must be one of token, queries, got 'words'"),
        ({"seg_source": "queries", "num_queries": 0}, "`num_queries` must be at least 1, got 0"),
        ({"num_queries": 2}, "`num_queries` says how many queries there are: set `seg_source: queries`"),
        ({**QUERIES, "teacher_model_name_or_path": "somewhere"}, "has no feature at .SEG., which is what a teacher"),
        ({**QUERIES, "alignment_loss_weight": 0.1}, "`alignment_loss_weight` compares features at"),
        ({**QUERIES, "max_objects": 2}, "`max_objects` is 2: leave one of the two out"),
        ({**QUERIES, "freeze_seg_projector": True}, "leave `freeze_seg_projector` off, or the mask losses"),
        ({**QUERIES, "spatial_prompt": True}, "`spatial_prompt` and `existence_output` look at the one state"),
        ({**QUERIES, "mask_source": "box", **TEXT_ALONE}, "`mask_source: box` reads no states behind an answer"),
    ],
    ids=lambda value: next(reversed(value)) if isinstance(value, dict) else "",
)
def test_refused(settings, fault, model, cot_rows, processor, tmp_path):
    with pytest.raises(ValueError, match=fault):
        build_sft(model, cot_rows, processor, tmp_path, **settings)


def test_grpo_and_teachers_with_queries_are_refused(checkpoint, model, cot_rows, processor, tmp_path):
    with_queries, own = model_with_queries(checkpoint)
    with pytest.raises(ValueError, match=r"GRPO needs a model that writes \[SEG\]"):
        build_grpo(with_queries, cot_rows, own, tmp_path)
    with pytest.raises(ValueError, match="a teacher with `seg_source: queries` has no feature"):
        build_sft(model, cot_rows, processor, tmp_path, teacher=with_queries)
    with pytest.raises(ValueError, match="leave the teacher out"):
        build_sft(with_queries, cot_rows, own, tmp_path, teacher=model)
    with pytest.raises(ValueError, match="`seg_source: token` with `num_queries: 3` is asked for"):
        build_sft(with_queries, cot_rows, own, tmp_path, seg_source="token")
