"""What a run may go on from: nothing that would change its result without a word, and nothing that is not its own."""

import json
import shutil
from pathlib import Path

import grpo_helpers
import pytest
import torch
from sft_helpers import build
from transformers import TrainerCallback

from aurora_trl import AuroraModel
from aurora_trl.data import DataError
from aurora_trl.training.checkpoints import MANIFEST, find_checkpoints, find_fault, list_files, write_manifest
from aurora_trl.training.launch import _num_threads, finish, prepare_run

SETTINGS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}


class CountSteps(TrainerCallback):
    def __init__(self):
        self.count = 0

    def on_step_end(self, *args, **kwargs):
        self.count += 1


@pytest.fixture
def start(checkpoint, cot_rows, processor, tmp_path):
    """A trainer of the run in `tmp_path / "run"`."""

    def build_trainer(**settings):
        model = AuroraModel.from_pretrained(checkpoint)
        return build(model, cot_rows, processor, tmp_path / "run", **{**SETTINGS, **settings})

    return build_trainer


def resume(trainer):
    """As a recipe with `resume_from_checkpoint: "true"`; returns the number of steps that it took."""
    trainer.args.resume_from_checkpoint = "true"
    checkpoint = prepare_run(trainer.args)
    steps = CountSteps()
    trainer.add_callback(steps)
    trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer)
    return steps.count


def test_weights_alone_are_enough_where_all_steps_are_taken(start, tmp_path):
    """Cut after the last checkpoint of a run that saves no optimizer: it is not trained for a second time."""
    first = start(save_only_model=True)
    first.train()
    again = start(save_only_model=True)
    assert resume(again) == 0
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 2


def as_deepspeed_saves(folder):
    """The optimizer in DeepSpeed's way: what the Trainer looks for is not there, and it would begin with a new one."""
    (folder / "global_step2").mkdir()
    (folder / "optimizer.pt").rename(folder / "global_step2" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "scheduler.pt").unlink()
    (folder / "latest").write_text("global_step2")
    (folder / MANIFEST).unlink()
    write_manifest(folder, list_files(folder), weights_only=False)


def test_a_run_that_is_made_longer_goes_on_with_its_own_schedule(start):
    """The first had come down to 0 at its end, with which the next step would teach nothing."""
    start().train()
    longer = start(max_steps=4)
    assert resume(longer) == 2
    rates = [entry["learning_rate"] for entry in longer.state.log_history if "learning_rate" in entry]
    assert rates[2:] == pytest.approx([0.005, 0.0025])


def test_an_optimizer_that_can_not_be_read_is_not_left_behind(start, tmp_path):
    start().train()
    newest = tmp_path / "run" / "checkpoint-2"
    as_deepspeed_saves(newest)
    assert find_fault(newest) is None
    trainer = start(max_steps=3)
    for asked in ("true", str(newest)):
        trainer.args.resume_from_checkpoint = asked
        with pytest.raises(DataError, match="checkpoint-2: saved with DeepSpeed, and this run is without"):
            prepare_run(trainer.args)
    for asked in (True, str(newest)):
        with pytest.raises(DataError, match="saved with DeepSpeed"):
            trainer.train(resume_from_checkpoint=asked)


def test_a_model_of_another_origin_is_not_written_over(start, checkpoint, tmp_path):
    """Every recipe says `resume_from_checkpoint: "true"`, and an `output_dir` can be mistyped."""
    shutil.copytree(checkpoint, tmp_path / "run")
    trainer = start()
    trainer.args.resume_from_checkpoint = "true"
    with pytest.raises(DataError, match="holds a model that is not of this run"):
        prepare_run(trainer.args)
    (tmp_path / "run" / "recipe.yaml").write_text("")  # a run's that was cut while it saved its model
    assert prepare_run(trainer.args) is None


def test_a_file_that_changed_is_seen_by_its_content(start, tmp_path):
    """As where a machine failed, and a part of a file never reached the disk."""
    start().train()
    newest = tmp_path / "run" / "checkpoint-2"
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[5000:6000] = bytes(1000)
    (newest / "optimizer.pt").write_bytes(content)
    assert find_fault(newest) == "optimizer.pt is not what was written"
    trainer = start()
    trainer.args.resume_from_checkpoint = "true"
    assert Path(prepare_run(trainer.args)).name == "checkpoint-1"


@pytest.mark.parametrize("settings", [{"num_iterations": 2}, {"steps_per_generation": 2}], ids=lambda s: next(iter(s)))
def test_a_rollout_is_not_cut(settings, checkpoint, cot_rows, processor, tmp_path):
    """A checkpoint comes at a rollout's end, so that what comes after it is as if it had not been cut."""

    def start(folder):
        changes = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, **settings}
        model = AuroraModel.from_pretrained(checkpoint)
        return grpo_helpers.build(model, cot_rows, processor, folder, **changes)

    whole = start(tmp_path)
    whole.train()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-2"]
    shutil.rmtree(tmp_path / "checkpoint-3")
    resumed = start(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    names = ("loss", "reward")
    assert grpo_helpers.logged(resumed, *names) == grpo_helpers.logged(whole, *names)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("variables", "cores", "threads"),
    [
        ({}, 6, 6),
        ({"OMP_NUM_THREADS": "1"}, 6, 6),  # what `accelerate launch` sets
        ({"OMP_NUM_THREADS": "4"}, 6, 4),
        ({"LOCAL_WORLD_SIZE": "2"}, 6, 3),
        ({"LOCAL_WORLD_SIZE": "8"}, 6, 1),
    ],
    ids=str,
)
def test_a_phase_on_cpus_takes_its_share_of_the_cores(variables, cores, threads, monkeypatch):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert _num_threads() == threads
