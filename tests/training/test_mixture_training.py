"""Both trainers on rows of several datasets: their order, what is logged of each, and runs that go on."""

import grpo_helpers
import pytest
import yaml
from sft_helpers import build

from aurora_trl import AuroraModel, AuroraSFTConfig
from aurora_trl.data import save_json
from aurora_trl.data.mixture import SOURCE_COLUMN, Source, mix_datasets
from aurora_trl.training.arguments import RecipeArguments, parse_recipe


@pytest.fixture(scope="module")
def mixture(cot_rows):
    """Two sources, one drawn three times as often as the other."""
    return mix_datasets([Source("a", 3.0, cot_rows.select(range(6))), Source("b", 1.0, cot_rows.select(range(6, 20)))])


def record(trainer):
    """The sources and ids of each batch, as the collator gets them."""
    batches, collate = [], trainer.data_collator

    def collate_and_keep(rows):
        batches.append([(row[SOURCE_COLUMN], row["id"]) for row in rows])
        return collate(rows)

    trainer.data_collator = collate_and_keep
    return batches


@pytest.mark.parametrize("by_clip", [False, True])
def test_supervised_losses_are_logged_by_source(by_clip, model, mixture, processor, tmp_path):
    """The means of the sources, weighted by their rows or tokens, are the batch's."""
    trainer = build(
        model, mixture, processor, tmp_path, group_by_clip=by_clip, max_steps=3, per_device_train_batch_size=8
    )
    tokens, shared, collate = [], [], trainer.data_collator

    def collate_and_count(rows):
        batch = collate(rows)
        counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
        shared.append("prefix_lengths" in batch)
        tokens.append([(source, count) for source, count in zip(batch["sources"], counts, strict=True)])
        return batch

    trainer.data_collator = collate_and_count
    trainer.train()
    assert any(shared) == by_clip
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for log, batch in zip(logs, tokens, strict=False):
        share = {name: sum(source == name for source, _ in batch) / len(batch) for name in ("a", "b")}
        assert by_clip or share == {"a": 0.75, "b": 0.25}
        total = sum(count for _, count in batch)
        words = {name: sum(count for source, count in batch if source == name) / total for name in ("a", "b")}
        for part in ("iou", "mask_bce_loss", "mask_dice_loss"):
            mean = sum(weight * log[f"{name}/{part}"] for name, weight in share.items() if weight)
            assert mean == pytest.approx(log[part], abs=1e-4)
        text = sum(weight * log[f"{name}/ce_loss"] for name, weight in words.items() if weight)
        assert text + log["mask_bce_loss"] + log["mask_dice_loss"] == pytest.approx(log["loss"], abs=1e-3)


@pytest.mark.parametrize("by_clip", [False, True])
def test_without_masks_the_text_is_logged_by_source(by_clip, model, mixture, processor, tmp_path):
    settings = {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0, "max_steps": 1, "group_by_clip": by_clip}
    trainer = build(model, mixture, processor, tmp_path, per_device_train_batch_size=8, **settings)
    trainer.train()
    log = trainer.state.log_history[0]
    assert {name for name in log if "/" in name} == {"a/ce_loss", "b/ce_loss"}
    losses = sorted(log[f"{name}/ce_loss"] for name in ("a", "b"))
    assert losses[0] <= log["loss"] <= losses[1]


def test_a_run_that_goes_on_draws_the_rows_that_it_would_have_drawn(checkpoint, mixture, processor, tmp_path):
    """In the middle of the second epoch: 20 rows in batches of 4, cut after 7 of 9 steps."""
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 7}
    whole = build(AuroraModel.from_pretrained(checkpoint), mixture, processor, tmp_path / "run", **settings)
    expected = record(whole)
    whole.train()
    again = build(AuroraModel.from_pretrained(checkpoint), mixture, processor, tmp_path / "run", **settings)
    batches = record(again)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-7"))
    assert batches[:2] == expected[7:9]  # and one that is read ahead
    assert [sum(source == "a" for source, _ in batch) for batch in expected[:9]] == [3] * 9
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log][-2:] for trainer in (whole, again)]
    assert losses[0] == losses[1]


def test_rewards_are_logged_by_source(model, mixture, processor, tmp_path):
    settings = {"max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 2}
    trainer = grpo_helpers.build(model, mixture, processor, tmp_path, **settings)
    batches = record(trainer)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logs) == 2
    for log, batch in zip(logs, batches, strict=False):
        assert sum(source == "a" for source, _ in batch) == 6  # of 8 completions, 2 to a question
        for name, whole in (
            ("reward", "reward"),
            ("iou", "iou"),
            ("rewards/letter_reward", "rewards/letter_reward/mean"),
            ("rewards/format_reward", "rewards/format_reward/mean"),
        ):
            assert 0.75 * log[f"a/{name}"] + 0.25 * log[f"b/{name}"] == pytest.approx(log[whole], abs=1e-5)


def test_an_order_of_ones_own_does_not_go_with_a_mixture(model, mixture, processor, tmp_path):
    with pytest.raises(ValueError, match="`train_sampling_strategy: sequential` does not go with a mixture"):
        build(model, mixture, processor, tmp_path, train_sampling_strategy="sequential")
    with pytest.raises(ValueError, match="`shuffle_dataset: False` does not go with a mixture"):
        grpo_helpers.build(model, mixture, processor, tmp_path, shuffle_dataset=False)


def parse(tmp_path, **settings):
    content = {
        "model_name_or_path": "m",
        "output_dir": str(tmp_path / "out"),
        "bf16": False,
        "use_cpu": True,
        **settings,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return parse_recipe((RecipeArguments, AuroraSFTConfig), ["--config", str(tmp_path / "recipe.yaml")])


def test_a_recipe_names_several_datasets(world, cot_rows, tmp_path):
    own = save_json(cot_rows.select(range(5)), tmp_path / "own.jsonl")
    datasets = [
        {"path": str(world), "weight": 2, "max_train_samples": 8},
        {"path": str(own), "name": "mine", "eval_split": None},
    ]
    recipe, config = parse(tmp_path, datasets=datasets, eval_split="val", max_eval_samples=3)
    rows = recipe.load_train(config)
    assert len(rows) == 13
    assert rows[SOURCE_COLUMN] == ["world"] * 8 + ["mine"] * 5
    assert set(rows["mixture_weight"]) == {2.0, 1.0}
    assert all(row_id.startswith("mine:") for row_id in rows["id"][8:])
    splits = recipe.load_eval(config)
    assert {name: len(split) for name, split in splits.items()} == {"world": 3}
    assert SOURCE_COLUMN not in splits["world"].column_names


def test_an_evaluation_scores_each_dataset(checkpoint, world, cot_rows, processor, tmp_path):
    own = save_json(cot_rows.select(range(4)), tmp_path / "own.jsonl")
    datasets = [{"path": str(world), "max_eval_samples": 2}, {"path": str(own), "eval_split": "train"}]
    recipe, config = parse(tmp_path, datasets=datasets, eval_split="val")
    trainer = build(
        AuroraModel.from_pretrained(checkpoint),
        recipe.load_train(config),
        processor,
        tmp_path / "run",
        targets="answer",
    )
    trainer.evaluate(recipe.load_eval(config))
    logged = [{name for name in log if name.startswith("eval_")} for log in trainer.state.log_history]
    assert [len(names) for names in logged] == [len(logged[0])] * 2
    for name, names in zip(("world", "own"), logged, strict=True):
        assert {f"eval_{name}_loss", f"eval_{name}_iou", f"eval_{name}_mask_bce_loss"} <= names
        assert all(other.startswith(f"eval_{name}_") for other in names)
