"""An evaluation that was cut continues from its answers, and ends with the same files."""

import json
import logging
import shutil
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from aurora_trl.cli import main
from aurora_trl.data import DataError, save_json
from aurora_trl.evaluation.answer_log import evaluation_settings
from aurora_trl.evaluation.evaluate import evaluate_model

FILES = ("answers.jsonl", "metrics.json")


def logged(folder, name="eval"):
    lines = (folder / f"{name}.answers-0.journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


@pytest.fixture
def broken(rows, tmp_path):
    """Rows of which the fifth shows a frame whose pixels are damaged, and the frame as it was."""
    some = [dict(row) for row in rows.select(range(0, 18, 2))]
    frame = tmp_path / "frame.png"
    with Image.open(some[4]["frames"][0]) as image:
        image.save(frame)
    some[4]["frames"] = [str(frame), *some[4]["frames"][1:]]
    whole = frame.read_bytes()
    frame.write_bytes(whole[: len(whole) // 2])
    return some, frame, whole


@pytest.mark.parametrize("protocol", ["refavs", "davis"])
def test_it_continues_to_the_bit(model, processor, checkpoint, broken, tmp_path, protocol):
    some, frame, whole = broken
    settings = {"batch_size": 2, "max_new_tokens": 4, "swaps": ["audio"], "protocol": protocol}

    def evaluate(name, **others):
        evaluate_model(model, processor, {"train": some}, tmp_path / name, **{**settings, **others})

    with pytest.raises(DataError, match=r"frame\.png"):
        evaluate("eval", checkpoint=checkpoint)
    assert [record["row"] for record in logged(tmp_path)] == [0, 1, 2, 3]
    assert not (tmp_path / "eval" / "metrics.json").exists()
    # A line that was cut short, and a batch of which one row is missing, which is answered again.
    path = tmp_path / "eval.answers-0.journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    frame.write_bytes(whole)
    evaluate("whole")
    answered = []
    kind_of = lambda row: answered.append(row["id"]) or "sight"  # noqa: E731
    evaluate("eval", checkpoint=checkpoint, kind_of=kind_of)
    assert answered[:7] == [row["id"] for row in some[2:]]
    assert len(answered) == 7 + 9
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        for name in ("eval", "whole")
    )
    for line in (*ours, *theirs):
        line.pop("kind")
    assert ours == theirs
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("eval", "whole")]
    for score in scores:
        score["splits"]["train"].pop("by_kind"), score["swaps"]["audio"].pop("by_kind")
    assert scores[0] == scores[1]
    assert not list(tmp_path.glob("*.journal.jsonl"))


def test_answers_of_other_settings_are_dropped_with_a_line(model, processor, checkpoint, broken, tmp_path, caplog):
    some, frame, whole = broken
    splits = {"train": some}
    with pytest.raises(DataError):
        evaluate_model(
            model, processor, splits, tmp_path / "eval", batch_size=2, max_new_tokens=4, checkpoint=checkpoint
        )
    frame.write_bytes(whole)
    with caplog.at_level(logging.WARNING):
        for name, kept in (("eval", {"checkpoint": checkpoint}), ("whole", {})):
            evaluate_model(model, processor, splits, tmp_path / name, batch_size=2, max_new_tokens=5, **kept)
    assert "4 answers of other settings; they are dropped" in caplog.text
    for name in FILES:
        assert (tmp_path / "eval" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_answers_about_files_that_have_changed_are_not_taken_over(
    model, processor, checkpoint, broken, tmp_path, capsys
):
    """A mask drawn anew under its old name, in a batch of two: these two are answered again."""
    some, frame, whole = broken
    mask = Path(shutil.copy(some[1]["masks"][0], tmp_path / "mask.png"))
    some[1]["masks"] = [str(mask), *some[1]["masks"][1:]]
    options = {"batch_size": 2, "max_new_tokens": 4}
    with pytest.raises(DataError, match=r"frame\.png"):
        evaluate_model(model, processor, {"train": some}, tmp_path / "eval", checkpoint=checkpoint, **options)
    frame.write_bytes(whole)
    Image.new("L", (48, 48), 255).save(mask)
    for name, kept in (("eval", {"checkpoint": checkpoint}), ("whole", {})):
        evaluate_model(model, processor, {"train": some}, tmp_path / name, **options, **kept)
    assert "2 answers are about files that have changed since" in capsys.readouterr().err
    for name in FILES:
        assert (tmp_path / "eval" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_by_the_command(checkpoint, broken, tmp_path, capsys):
    some, frame, whole = broken
    data = save_json(some, tmp_path / "rows.jsonl")
    command = ["evaluate", str(checkpoint), "--data", str(data), "--splits", "train", "--max-new-tokens", "3"]
    command += ["--batch-size", "2", "--output", str(tmp_path / "eval [1]")]  # no pattern of names
    head = bytearray(whole)  # whole at both ends, so that the check before it finds nothing
    head[len(head) // 2 : len(head) // 2 + 8] = bytes(8)
    frame.write_bytes(bytes(head))
    assert main(command) == 1
    assert "frame.png" in capsys.readouterr().err.splitlines()[-1]
    assert len(logged(tmp_path, "eval [1]")) == 4
    frame.write_bytes(whole)
    assert main(command) == 0
    assert "4 answers of a run that was cut; continuing" in capsys.readouterr().err
    assert (tmp_path / "eval [1]" / "metrics.json").exists()
    assert not list(tmp_path.glob("*.journal.jsonl"))


def test_a_row_without_masks_is_named_before_anything_is_answered(model, processor, rows, tmp_path):
    some = [dict(row) for row in rows.select(range(3))]
    some[2]["masks"] = [None] * len(some[2]["frames"])
    with pytest.raises(DataError, match="it has no masks, and a score compares with them"):
        evaluate_model(model, processor, {"train": some}, tmp_path / "eval", max_new_tokens=2)


def test_columns_of_ones_own_are_part_of_the_rows(checkpoint):
    """Whatever they hold."""
    of = [evaluation_settings(checkpoint, {"a": [{"id": "a", "day": date(2026, 1, day)}]})["splits"] for day in (1, 2)]
    assert of[0] != of[1]
