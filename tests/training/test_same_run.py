"""A run goes on with the settings and the data that it was begun with, or says what has changed."""

import importlib
import shutil
import sys

import pytest
import yaml
from conftest import REPOSITORY
from grpo_helpers import build as build_grpo
from sft_helpers import build

from aurora_trl import AuroraModel, AuroraSFTConfig
from aurora_trl.data import DataError, save_json
from aurora_trl.training.arguments import LoraArguments, RecipeArguments
from aurora_trl.training.lora import lora_config
from aurora_trl.training.same_run import require_same_settings


@pytest.fixture
def recipe(checkpoint, cot_rows, tmp_path, monkeypatch):
    """Runs a small recipe with changes in one folder, as `accelerate launch` does."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "recipes"))
    monkeypatch.chdir(tmp_path)
    save_json(cot_rows, tmp_path / "rows.jsonl")
    content = {
        "model_name_or_path": str(checkpoint),
        "dataset_path": "rows.jsonl",
        "output_dir": "run",
        "resume_from_checkpoint": "true",
        "max_steps": 2,
        "save_steps": 1,
        "learning_rate": 1.0e-3,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }

    def run(flags=(), **changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, **changes}))
        monkeypatch.setattr(sys, "argv", ["sft.py", "--config", "recipe.yaml", *flags])
        importlib.import_module("sft").main()

    return run


def test_a_recipe_that_changed_does_not_go_on(recipe, capsys):
    """Also where all steps are taken: there is something to do, in another folder."""
    recipe()
    for flags, changes, message in (
        ([], {"learning_rate": 5.0e-4}, "run: the run that is to go on was begun with `learning_rate` `0.001`, and "),
        ([], {"dataset_path": "./other.jsonl"}, '`dataset_path` `"rows.jsonl"`, and is now `"./other.jsonl"`'),
        (["--seed", "7"], {"max_steps": 3}, "`seed` `42`, and is now `7`"),
        (["--no_freeze_vision_tower"], {}, "`freeze_vision_tower` `true`, and is now `false`"),
        ([], {"use_lora": True, "targets": "answer"}, "`use_lora` `false`, and is now `true`"),
    ):
        with pytest.raises(SystemExit):
            recipe(flags, **changes)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
        assert "set it back, choose another `output_dir`, or say `resume_with_changes: true`" in error
    # How far a run goes and what it says may change; so may anything, where that is meant.
    recipe(max_steps=3, logging_steps=1, save_total_limit=1)
    recipe(max_steps=4, learning_rate=5.0e-4, resume_with_changes=True)
    with open("run/recipe.yaml") as file:
        assert yaml.safe_load(file)["learning_rate"] == 5.0e-4


def settings_differ(begun, now, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(begun))
    configs = (RecipeArguments("m", "d"), LoraArguments(), AuroraSFTConfig("out", use_cpu=True, bf16=False))
    try:
        require_same_settings(tmp_path, now, configs)
    except DataError:
        return True
    return False


@pytest.mark.parametrize(
    ("begun", "now", "differ"),
    [
        ({"learning_rate": "1e-3"}, {"learning_rate": 0.001}, False),
        ({"freeze_connector": True}, {}, False),  # its default
        ({"freeze_connector": False}, {}, True),
        ({}, {"weight_decay": 0.1}, True),
        ({"lr_scheduler_kwargs": {"num_cycles": 1}}, {"lr_scheduler_kwargs": {"num_cycles": 1.0}}, False),
        ({"datasets": [{"path": "a", "weight": 1}]}, {"datasets": [{"path": "a", "weight": 2}]}, True),
        ({"dataloader_num_workers": 2}, {"dataloader_num_workers": 8}, False),
        ({"dataloader_drop_last": True}, {}, True),
        ({"per_device_train_batch_size": 8}, {"per_device_train_batch_size": 4}, False),  # the data say it
        ({"hub_token": "a", "push_to_hub": True}, {}, False),
        ({"a_key_of_an_earlier_version": 1}, {}, False),
    ],
    ids=str,
)
def test_what_counts_as_changed(begun, now, differ, tmp_path):
    assert settings_differ(begun, now, tmp_path) == differ


def test_a_run_with_other_data_does_not_go_on(checkpoint, cot_rows, processor, tmp_path):
    def start(rows=cot_rows, **settings):
        settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, **settings}
        return build(AuroraModel.from_pretrained(checkpoint), rows, processor, tmp_path / "run", **settings)

    start(per_device_train_batch_size=4).train()
    mended = cot_rows.map(lambda row: {"reference": row["reference"].replace("the", "a")})
    named = cot_rows.map(lambda row: {"class_name": "other"})
    for changes, message in (
        ({"per_device_train_batch_size": 2}, "checkpoint-2: was saved by a run with 4 samples for each step, of all"),
        ({"rows": cot_rows.select(range(9))}, f"with {len(cot_rows)} rows to train on, and this one has 9"),
        ({"rows": mended}, "a run whose rows had other ids, references or targets than this one's; set it back"),
        ({"rows": named}, "a run whose rows had other classes, or others that match nothing, than this one's"),
    ):
        trainer = start(**{"per_device_train_batch_size": 4, "max_steps": 3, **changes})
        with pytest.raises(DataError, match=message):
            trainer.train(resume_from_checkpoint=True)
    # Half as many at a time, twice: the same step.
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = start(max_steps=3, **halves)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    trainer = start(cot_rows.select(range(9)), per_device_train_batch_size=4, max_steps=4, resume_with_changes=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


@pytest.fixture
def retrain(checkpoint, tmp_path):
    """A copy of the checkpoint, and what trains it again in its place."""
    folder = tmp_path / "base"
    shutil.copytree(checkpoint, folder)

    def retrain():
        model = AuroraModel.from_pretrained(folder)
        model.seg_projector[0].weight.data.add_(0.1)
        model.save_pretrained(folder)

    return folder, retrain


def test_models_that_no_checkpoint_holds_are_the_same(retrain, cot_rows, processor, tmp_path):
    base, retrain = retrain

    def start(run, lora=False, **settings):
        model = AuroraModel.from_pretrained(base)
        settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, **settings}
        peft_config = lora_config(model, LoraArguments(use_lora=True), {"language_model"}) if lora else None
        return build(model, cot_rows, processor, tmp_path / run, peft_config=peft_config, **settings)

    starts = {
        "adapter": lambda **more: start("adapter", lora=True, **more),
        "student": lambda **more: start("student", teacher=AuroraModel.from_pretrained(base), **more),
        "whole": lambda **more: start("whole", **more),
    }
    for begin in starts.values():
        begin().train()
    retrain()
    for run, message in (("adapter", "whose adapter stood on a base of"), ("student", "whose teacher had")):
        with pytest.raises(DataError, match=f"checkpoint-1: was saved by a run {message} other weights"):
            starts[run](max_steps=2).train(resume_from_checkpoint=True)
    trainer = starts["whole"](max_steps=2)  # its checkpoint holds all of it
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2


def test_a_reference_model_is_the_same(retrain, cot_rows, processor, tmp_path, caplog):
    base, retrain = retrain

    def start(**settings):
        settings = {"save_strategy": "steps", "save_steps": 1, "beta": 0.1, **settings}
        return build_grpo(AuroraModel.from_pretrained(base), cot_rows, processor, tmp_path / "run", **settings)

    start(max_steps=1).train()
    moved = {"sync_ref_model": True, "ref_model_sync_steps": 1}
    start(max_steps=2, **moved).train(resume_from_checkpoint=True)
    assert "has moved the reference model, which no checkpoint holds" in caplog.text
    retrain()
    with pytest.raises(DataError, match="checkpoint-2: was saved by a run whose reference model had other weights"):
        start(max_steps=3).train(resume_from_checkpoint=True)


def test_rollouts_are_shared_by_other_processes_or_refused(checkpoint, cot_rows, processor, tmp_path):
    """As `aurora run --num-processes` shares them: fewer at a time, in more steps of a rollout."""

    def start(**settings):
        settings = {"save_strategy": "steps", "save_steps": 2, **settings}
        return build_grpo(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, **settings)

    whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "steps_per_generation": 1}
    start(max_steps=2, **whole).train()
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises(DataError, match="with 8 completions for each rollout, of all processes, and this one has 16"):
        start(max_steps=3, **halves, steps_per_generation=4).train(resume_from_checkpoint=True)
    trainer = start(max_steps=3, **halves, steps_per_generation=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
