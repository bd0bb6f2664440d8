"""A checkpoint is complete or not there; a run that was cut goes on from the last complete one, and ends the same."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from full_disk import small_files_only
from quick import QUICK
from safetensors.torch import load_file
from sft_helpers import build
from transformers import TrainerCallback

from aurora_trl import AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data import DataError
from aurora_trl.locks import LOCK_FILE, hold, release
from aurora_trl.training.arguments import FREEZE_FLAGS, LoraArguments
from aurora_trl.training.checkpoints import MANIFEST, UNFINISHED, find_checkpoints, find_fault, last_complete
from aurora_trl.training.launch import finish, prepare_run
from aurora_trl.training.lora import lora_config

SETTINGS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}


def start(checkpoint, rows, processor, folder, **settings):
    return build(AuroraModel.from_pretrained(checkpoint), rows, processor, folder, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(checkpoint, cot_rows, processor, tmp_path_factory):
    """A run's folder: three checkpoints and the model."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer = start(checkpoint, cot_rows, processor, folder)
    trainer.train()
    finish(trainer)
    return folder


@pytest.fixture
def cut(whole, tmp_path):
    """That folder without its model: as a run leaves it that was cut before its end."""
    for path in find_checkpoints(whole):
        shutil.copytree(path, tmp_path / "run" / path.name)
    return tmp_path / "run"


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_checkpoint_lists_its_files(whole):
    assert [path.name for path in find_checkpoints(whole)] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    assert UNFINISHED not in names(whole)
    content = json.loads((whole / "checkpoint-6" / MANIFEST).read_text())
    files = {path.name: path.stat().st_size for path in (whole / "checkpoint-6").iterdir() if path.name != MANIFEST}
    assert (content["weights_only"], content["files"]) == (False, files)
    assert content["digests"].keys() == files.keys()
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(files)


def test_no_step_is_taken_where_none_is_left(whole, cut, checkpoint, cot_rows, processor):
    for _ in range(2):  # cut once more at the same place
        trainer = start(checkpoint, cot_rows, processor, cut)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 6
    finish(trainer)
    assert_same(weights(cut), weights(whole))
    assert json.loads((cut / "trainer_state.json").read_text())["global_step"] == 6


def cut_short(name, keep=0.5):
    def apply(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return apply


def other_content(name):
    return lambda folder: (folder / name).write_bytes(b"\0" * (folder / name).stat().st_size)


def without(*lost):
    return lambda folder: [(folder / name).unlink() for name in lost]


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def as_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


def as_dead_link(folder):
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def copied_in_part(folder):
    """As by `cp` in the order of names, stopped in the middle."""
    for path in sorted(folder.iterdir())[5:]:
        path.unlink()


def weights_only(folder):
    without(MANIFEST, "optimizer.pt", "scheduler.pt", "rng_state.pth")(folder)


BROKEN = {
    "empty": (emptied, "it is empty"),
    "a file": (as_file, "it is no folder"),
    "a dead link": (as_dead_link, "it is no folder"),
    "weights cut": (cut_short("model.safetensors"), r"model.safetensors has [\d,]+ of [\d,]+ bytes"),
    "weights zeroed": (other_content("model.safetensors"), "model.safetensors is cut short, or no safetensors file"),
    "weights gone": (without("model.safetensors"), "model.safetensors is missing"),
    "state gone": (without("trainer_state.json"), "trainer_state.json is missing"),
    "state cut": (cut_short("trainer_state.json"), "trainer_state.json has"),
    "optimizer cut": (cut_short("optimizer.pt", 0.99), "optimizer.pt has"),
    "optimizer zeroed": (other_content("optimizer.pt"), "optimizer.pt is cut short, or not what torch saves"),
    "optimizer gone": (without("optimizer.pt"), "optimizer.pt is missing"),
    "scheduler gone": (without("scheduler.pt"), "scheduler.pt is missing"),
    "random streams gone": (without("rng_state.pth"), "rng_state.pth is missing"),
    "list cut": (cut_short(MANIFEST), f"{MANIFEST} is cut short"),
    "copied in part": (copied_in_part, "is missing"),
    # Without a list, as other trainers and earlier versions leave them.
    "no list, weights cut": (lambda f: (without(MANIFEST)(f), cut_short("model.safetensors")(f)), "is cut short"),
    "no list, weights gone": (without(MANIFEST, "model.safetensors"), "model.safetensors is missing"),
    "no list, state gone": (without(MANIFEST, "trainer_state.json"), "trainer_state.json is missing"),
    "no list, state cut": (lambda f: (without(MANIFEST)(f), cut_short("trainer_state.json")(f)), "is cut short"),
    "no list, optimizer cut": (lambda f: (without(MANIFEST)(f), cut_short("optimizer.pt")(f)), "is cut short"),
    "no list, optimizer gone": (without(MANIFEST, "optimizer.pt"), "optimizer.pt is missing"),
    "no list, random streams gone": (without(MANIFEST, "rng_state.pth"), "rng_state.pth is missing"),
    "weights alone": (weights_only, "it holds weights alone"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_passed_over(kind, cut, capsys):
    apply, reason = BROKEN[kind]
    apply(cut / "checkpoint-6")
    assert last_complete(cut) == str(cut / "checkpoint-4")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{cut}: passed over checkpoint-6 (" in said
    assert said.endswith("; training continues from checkpoint-4\n")
    assert re.search(reason, said)


def test_complete_ones_are_not(cut, capsys):
    assert last_complete(cut) == str(cut / "checkpoint-6")
    (cut / "checkpoint-6" / MANIFEST).unlink()  # of an earlier version
    assert last_complete(cut) == str(cut / "checkpoint-6")
    assert not capsys.readouterr().err


def test_training_goes_on_from_the_last_complete_one(whole, cut, checkpoint, cot_rows, processor, capsys):
    cut_short("model.safetensors")(cut / "checkpoint-6")
    emptied(cut / "checkpoint-4")
    trainer = start(checkpoint, cot_rows, processor, cut)
    trainer.train(resume_from_checkpoint=True)
    assert "passed over checkpoint-6 (" in capsys.readouterr().err
    finish(trainer)
    assert_same(weights(cut), weights(whole))
    assert last_complete(cut) == str(cut / "checkpoint-6")  # written anew, over the broken ones
    assert find_fault(cut / "checkpoint-4") is None
    for path in find_checkpoints(cut):
        shutil.rmtree(path)
    with pytest.raises(DataError, match="no complete checkpoint to resume from"):
        start(checkpoint, cot_rows, processor, cut).train(resume_from_checkpoint=True)


def test_one_that_is_asked_for_must_be_complete(cut, checkpoint, cot_rows, processor):
    cut_short("optimizer.pt")(cut / "checkpoint-6")
    trainer = start(checkpoint, cot_rows, processor, cut)
    with pytest.raises(DataError, match=r"checkpoint-6: can not be resumed from: optimizer.pt has"):
        trainer.train(resume_from_checkpoint=str(cut / "checkpoint-6"))
    with pytest.raises(DataError, match=r"checkpoint-7: no such checkpoint"):
        trainer.train(resume_from_checkpoint=str(cut / "checkpoint-7"))


def test_what_fits_no_more_is_one_line(cut, checkpoint, cot_rows, processor):
    """Complete, and of another model: torch's own words are many lines."""
    trainer = start(checkpoint, cot_rows, processor, cut, freeze_mask_decoder=True)
    with pytest.raises(DataError, match=r"checkpoint-6: can not be resumed from \(ValueError: .*; move it away"):
        trainer.train(resume_from_checkpoint=True)


class Interrupted(Exception):
    pass


def test_a_save_that_is_cut_leaves_no_checkpoint(whole, checkpoint, cot_rows, processor, tmp_path, monkeypatch):
    save = torch.save

    def stop(value, target, *args, **kwargs):
        if "checkpoint-4" in str(target) and "scheduler" in str(target):
            raise Interrupted
        save(value, target, *args, **kwargs)

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(Interrupted):
        start(checkpoint, cot_rows, processor, tmp_path).train()
    monkeypatch.undo()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert names(tmp_path / UNFINISHED) == ["checkpoint-4"]
    trainer = start(checkpoint, cot_rows, processor, tmp_path)
    trainer.train(resume_from_checkpoint=True)
    finish(trainer)
    assert UNFINISHED not in names(tmp_path)
    assert_same(weights(tmp_path), weights(whole))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_saved_where_nothing_can_be_renamed(whole, checkpoint, cot_rows, processor, tmp_path, tmp_path_factory):
    """What is unfinished lies on another file system: it has to be copied, and that can be cut."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / UNFINISHED).symlink_to(elsewhere)
        trainer = start(checkpoint, cot_rows, processor, tmp_path, save_total_limit=1)
        trainer.train()
        finish(trainer)
        assert not any(Path(elsewhere).iterdir())
    assert find_fault(tmp_path / "checkpoint-6") is None
    assert_same(weights(tmp_path), weights(whole))


class FullDisk(TrainerCallback):
    """From the second checkpoint on."""

    def __init__(self, limit):
        self.limit, self.room = limit, None

    def on_save(self, *_, **__):
        if self.room is None:
            self.room = small_files_only(self.limit)
            self.room.__enter__()


# All that can be frozen trains: the optimizer's file is the largest then.
ALL_TRAINS = {f"freeze_{name}": False for name in FREEZE_FLAGS}


@pytest.mark.parametrize(("file", "limit"), [("model.safetensors", 3_000_000), ("optimizer.pt", 4_500_000)])
def test_a_full_disk_is_named_and_loses_nothing(file, limit, checkpoint, cot_rows, processor, tmp_path):
    full = FullDisk(limit)
    trainer = start(checkpoint, cot_rows, processor, tmp_path, save_total_limit=1, **ALL_TRAINS)
    trainer.add_callback(full)
    try:
        with pytest.raises(DataError) as raised:
            trainer.train()
    finally:
        full.room.__exit__(None, None, None)
    line = str(raised.value)
    assert f"checkpoint-4/{file}: can not be written whole: " in line
    assert line.endswith("run the same command again, which continues from checkpoint-2")
    assert "\n" not in line
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert names(tmp_path / UNFINISHED) == []  # its room is given back
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_full_disk_at_the_end_leaves_the_model_that_was_there(whole, cut, checkpoint, cot_rows, processor):
    shutil.copy(whole / "model.safetensors", cut)
    trainer = start(checkpoint, cot_rows, processor, cut)
    trainer.train(resume_from_checkpoint=True)
    with small_files_only(10_000), pytest.raises(DataError, match=r"can not be written whole: .* from checkpoint-6"):
        trainer.save_model()
    assert_same(weights(cut), weights(whole))


def test_rotation_takes_what_is_worth_least(cut, checkpoint, cot_rows, processor):
    """The newest by number is broken, the newest by time is one of a run that was given up."""
    shutil.copytree(cut / "checkpoint-6", cut / "checkpoint-8")
    cut_short("optimizer.pt")(cut / "checkpoint-8")
    trainer = start(checkpoint, cot_rows, processor, cut, save_total_limit=2, save_steps=1, max_steps=5)
    trainer.train(resume_from_checkpoint=str(cut / "checkpoint-4"))
    assert [path.name for path in find_checkpoints(cut)] == ["checkpoint-5", "checkpoint-4"]
    assert find_fault(cut / "checkpoint-5") is None


def start_with_best(checkpoint, rows, processor, folder, **settings):
    """The fewest tokens are best: those of the first checkpoint."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "num_tokens", "greater_is_better": False}
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 2}
    args = AuroraSFTConfig(output_dir=str(folder), **{**QUICK, **SETTINGS, **best, **steps, **settings})
    return AuroraSFTTrainer(
        model=AuroraModel.from_pretrained(checkpoint),
        args=args,
        train_dataset=rows,
        eval_dataset=rows.select(range(4)),
        processing_class=processor,
    )


def test_the_best_is_found_again(checkpoint, cot_rows, processor, tmp_path, monkeypatch, caplog):
    """Also by a run that goes on in a folder that has moved, or that is named in another way."""
    trainer = start_with_best(checkpoint, cot_rows, processor, tmp_path / "run", max_steps=2)
    trainer.train()
    best = tmp_path / "run" / "checkpoint-1"
    assert Path(trainer.state.best_model_checkpoint) == best
    state = json.loads((best / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == best
    assert_same(weights(best), trainer.model.state_dict())
    assert find_fault(best) is None
    shutil.copytree(tmp_path / "run", tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone" / "checkpoint-1")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")

    def go_on(folder):
        trainer = start_with_best(checkpoint, cot_rows, processor, folder, max_steps=3)
        trainer.train(resume_from_checkpoint=True)
        return trainer

    monkeypatch.chdir(tmp_path)
    trainer = go_on("run")
    assert [path.name for path in find_checkpoints("run")] == ["checkpoint-3", "checkpoint-1"]
    assert_same(weights(best), trainer.model.state_dict())
    shutil.rmtree(tmp_path / "run")
    trainer = go_on(tmp_path / "moved")
    assert Path(trainer.state.best_model_checkpoint) == tmp_path / "moved" / "checkpoint-1"
    assert [path.name for path in find_checkpoints("moved")] == ["checkpoint-3", "checkpoint-1"]
    assert_same(weights(tmp_path / "moved" / "checkpoint-1"), trainer.model.state_dict())
    assert "moved/checkpoint-1: stays the best checkpoint" in caplog.text
    trainer = go_on(tmp_path / "gone")
    assert "gone/checkpoint-1: the best checkpoint so far is not there" in caplog.text
    assert Path(trainer.state.best_model_checkpoint) == tmp_path / "gone" / "checkpoint-3"


class Watcher(TrainerCallback):
    """Of one's own: it may add numbers to an evaluation."""

    def on_evaluate(self, *args, **kwargs):
        """Adds none."""


def test_a_best_by_a_metric_that_is_none(checkpoint, cot_rows, processor, tmp_path):
    """Known before the first step, or, where code of one's own may add metrics, at the first evaluation."""
    trainer = start_with_best(checkpoint, cot_rows, processor, tmp_path, metric_for_best_model="eval_iuo")
    with pytest.raises(DataError, match="eval_iuo` is no metric of an evaluation; did you mean `iou`"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer.add_callback(Watcher())
    with pytest.raises(DataError, match="`metric_for_best_model: eval_iuo` is none of .*eval_iou, eval_loss"):
        trainer.train()


def test_a_run_that_lost_its_folder_writes_no_more(checkpoint, cot_rows, processor, tmp_path):
    """Its machine slept, and another run took over."""
    trainer = start(checkpoint, cot_rows, processor, tmp_path)
    hold(tmp_path / LOCK_FILE)
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "node7", "id": "another"}))
    with pytest.raises(DataError, match=r"another run has taken it over \(node7\)"):
        trainer.train()
    release(tmp_path / LOCK_FILE)
    assert not find_checkpoints(tmp_path)


@pytest.mark.parametrize("lora", [False, True])
def test_weights_alone_are_no_place_to_go_on_from(lora, checkpoint, cot_rows, processor, tmp_path, capsys):
    """`save_only_model`: begun anew, and never with a fresh optimizer in the middle."""
    settings = {"save_only_model": True, "max_steps": 2, "save_steps": 1}
    model = AuroraModel.from_pretrained(checkpoint)
    if lora:
        arguments = LoraArguments(use_lora=True)
        settings["peft_config"] = lora_config(model, arguments, {"language_model", "seg_projector"})
    trainer = build(model, cot_rows, processor, tmp_path, **{**SETTINGS, **settings})
    trainer.train()
    trainer.args.resume_from_checkpoint, trainer.args.max_steps = "true", 3
    assert prepare_run(trainer.args) is None
    said = capsys.readouterr().err
    assert "passed over checkpoint-2 (it holds weights alone (`save_only_model`)), checkpoint-1 (" in said
    assert said.endswith("; training begins anew\n")


def test_a_run_without_checkpoints_is_not_begun_once_more(checkpoint, cot_rows, processor, tmp_path, capsys):
    trainer = start(checkpoint, cot_rows, processor, tmp_path, save_strategy="no", max_steps=1)
    trainer.train()
    finish(trainer)
    trainer.args.resume_from_checkpoint = "true"
    with pytest.raises(SystemExit) as ended:
        prepare_run(trainer.args)
    assert ended.value.code == 0
    assert "all steps are taken already" in capsys.readouterr().err
    trainer.args.max_steps = 2
    with pytest.raises(DataError, match="holds the model of 1 steps, and no checkpoint to take more from"):
        prepare_run(trainer.args)
    (tmp_path / "trainer_state.json").unlink()  # cut before it was written: begun anew
    assert prepare_run(trainer.args) is None
    trainer.args.resume_from_checkpoint = None
    with pytest.raises(DataError, match="holds a model already"):
        prepare_run(trainer.args)
