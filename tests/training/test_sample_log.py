"""`log_samples`: rows of the evaluation split in the real trackers, offline."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from grpo_helpers import SETTINGS as GRPO_SETTINGS
from grpo_helpers import build as build_grpo
from quick import QUICK

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.schema import as_dataset
from aurora_trl.training.rewards import box_reward

EVALUATED = {"log_samples": 3, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
PARTS = ("format_reward", "iou_reward", "class_reward")


def train_grpo(checkpoint, rows, processor, folder, tracker):
    evaluation = rows.select(range(4))
    trainer = build_grpo(
        AuroraModel.from_pretrained(checkpoint),
        rows,
        processor,
        folder,
        eval_dataset=evaluation,
        report_to=tracker,
        **EVALUATED,
    )
    trainer.train()


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Where TensorBoard's files go, and a reader of them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))

    def read():
        found = accumulator.EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0, "histograms": 0})
        found.Reload()
        return found

    return read


def test_tensorboard_shows_grpos_samples_and_histograms(drawing_checkpoint, rows, processor, tmp_path, events):
    train_grpo(drawing_checkpoint, rows, processor, tmp_path / "out", "tensorboard")
    found = events()
    pictures = found.Images("samples/0")
    assert [picture.step for picture in pictures] == [2]
    assert (pictures[0].width, pictures[0].height > 300) == (1000, True)
    assert {f"samples/{number}" for number in range(3)} <= set(found.Tags()["images"])
    for part in (*PARTS, "letter_reward"):
        assert 0 <= found.Scalars(f"samples/1/{part}")[0].value <= 1
        assert found.Histograms(f"rewards/{part}/distribution")
    lengths = found.Histograms("completions/length_distribution")
    assert [entry.step for entry in lengths] == [1, 2]
    assert lengths[0].histogram_value.num == 4  # the completions of a rollout
    text = found.Tensors("samples/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert rows[0]["reference"] in text
    assert "It is [SEG]." in text


def test_samples_have_what_rollouts_have(drawing_checkpoint, rows, processor, tmp_path, events, caplog):
    """
    A row with masks, one with a box and no class, and one with nothing but text: each reward gets its columns, says
    nothing where a row lacks what it compares with, and one that fails ends no run.
    """
    seen = {}

    def spy_reward(prompts, completions, completion_ids, trainer_state, mask_quality, log_metric, **columns):
        log_metric("spied", 1.0)
        if len(completions) == 3:
            seen.update(columns, ids=completion_ids, step=trainer_state.global_step, quality=mask_quality)
        return [float(len(ids)) for ids in completion_ids]

    def broken_reward(prompts, completions, **columns):
        return [1.0] * len(completions) if len(completions) != 3 else 1 / 0

    bare = {"masks": None, "class_name": None}
    boxes = [[4.0, 4.0, 20.0, 20.0]] * len(rows[1]["frames"])
    kinds = [{**rows[0], "boxes": None}, {**rows[1], **bare, "boxes": boxes}, {**rows[2], **bare, "boxes": None}]
    names = ["iou_reward", "class_reward", "boundary_reward", "iou_or_null_reward", "length_reward", "box_reward"]
    trainer = build_grpo(
        AuroraModel.from_pretrained(drawing_checkpoint),
        rows,
        processor,
        tmp_path,
        rewards=[*names, "mask_quality_reward", spy_reward, broken_reward],
        eval_dataset=as_dataset(kinds, "three kinds"),
        report_to="tensorboard",
        allow_unmarked_rows=True,
        **EVALUATED,
    )
    trainer.train()
    found = events()
    shown = [
        {name for name in (*names, "mask_quality_reward", "spy_reward") if f"samples/{number}/{name}" in tags}
        for tags in [found.Tags()["scalars"]]
        for number in range(3)
    ]
    everywhere = {"mask_quality_reward", "spy_reward"}
    assert shown == [{*names, *everywhere} - {"box_reward"}, {"box_reward", *everywhere}, everywhere]
    assert seen["step"] == 2
    assert [found.Scalars(f"samples/{number}/spy_reward")[0].value for number in range(3)] == list(
        map(len, seen["ids"])
    )
    assert found.Scalars("samples/1/mask_quality_reward")[0].value == pytest.approx(max(seen["quality"][1], 0.0))
    box = box_reward([""] * 3, [""] * 3, seen["pred_masks"], seen["box_masks"])
    assert found.Scalars("samples/1/box_reward")[0].value == pytest.approx(box[1])
    assert "`log_samples`: `broken_reward` is not shown, which ended in ZeroDivisionError" in caplog.text
    assert "eval_spied" in str(trainer.state.log_history), "from rollouts, as before"


def test_samples_change_nothing_of_training(drawing_checkpoint, cot_rows, processor, tmp_path, events):
    """The same losses with and without; SFT shows the paper's rewards."""
    logs = []
    for number in (0, 2):
        args = AuroraSFTConfig(
            output_dir=str(tmp_path / str(number)),
            per_device_train_batch_size=4,
            max_steps=4,
            **{**QUICK, **EVALUATED, "log_samples": number, "report_to": "tensorboard"},
        )
        trainer = AuroraSFTTrainer(
            AuroraModel.from_pretrained(drawing_checkpoint),
            args,
            train_dataset=cot_rows,
            eval_dataset=cot_rows.select(range(4)),
            processing_class=processor,
        )
        trainer.train()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert logs[0] == logs[1]
    found = events()
    assert {picture.step for picture in found.Images("samples/1")} == {2, 4}
    assert all(found.Scalars(f"samples/0/{part}") for part in PARTS)


def test_wandb_offline(drawing_checkpoint, rows, processor, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_grpo(drawing_checkpoint, rows, processor, tmp_path / "out", "wandb")
    wandb.finish()
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/samples/answers*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", "id", "reference", "completion", *PARTS, "letter_reward"]
    assert len(content["data"]) == 3
    assert content["data"][0][1:3] == [rows[0]["id"], rows[0]["reference"]]
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/**/*.png"))) == 3


# trackio decides where it writes when it is imported, which TRL does.
TRACKIO = """
import sys
from pathlib import Path
from grpo_helpers import build
from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.data import load_refavs
checkpoint, world, folder = sys.argv[1:]
rows = load_refavs(world, "train")
trainer = build(
    AuroraModel.from_pretrained(checkpoint), rows, AuroraProcessor.from_pretrained(checkpoint), Path(folder),
    eval_dataset=rows.select(range(4)), report_to="trackio", log_samples=3, eval_strategy="steps", eval_steps=2,
    per_device_eval_batch_size=2,
)
trainer.train()
"""


@pytest.mark.slow
def test_trackio_offline(drawing_checkpoint, world, rows, tmp_path):
    pytest.importorskip("trackio", reason="pip install trackio")
    folders = [str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", TRACKIO, str(drawing_checkpoint), str(world), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (database,) = (tmp_path / "trackio").rglob("*.db")
    lines = [json.loads(text) for (text,) in sqlite3.connect(database).execute("SELECT metrics FROM metrics")]
    (table,) = [line["samples/answers"] for line in lines if "samples/answers" in line]
    shown = table["_value"]
    assert [line["id"] for line in shown] == [rows[number]["id"] for number in (0, 2, 3)]
    assert shown[0]["reference"] == rows[0]["reference"]
    assert all(0 <= line["iou_reward"] <= 1 for line in shown)
    assert any("rewards/iou_reward/distribution" in line for line in lines)
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_samples": -1}, "`log_samples` must not be negative"),
        ({"log_samples": 4, "eval_strategy": "steps", "eval_steps": 1}, "needs a tracker: set `report_to` to one of"),
        ({"log_samples": 4, "report_to": "tensorboard"}, "set `eval_strategy` and `eval_split`"),
    ],
)
def test_what_can_not_be_shown_is_said(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        AuroraGRPOConfig(str(tmp_path), **{**GRPO_SETTINGS, **settings})
