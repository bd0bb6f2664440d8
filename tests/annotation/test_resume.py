"""A run that is killed, cut or asked for again: it continues, and leaves another's files alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from annotation_servers import Action, answer_well, serve
from PIL import Image

from aurora_trl import AuroraModel
from aurora_trl.annotation import WorldAnnotator, annotate_file
from aurora_trl.annotation.mining import mine_file
from aurora_trl.cli import main
from aurora_trl.data import DataError, load_json, save_json
from aurora_trl.generation.answers import answer_rows
from aurora_trl.journal import Journal, beside

ANSWERED_BEFORE_THE_KILL = 7
PLANES = ("frames", "masks")


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_lost_or_asked_twice(rows, tmp_path):
    """`kill -9` while two requests are under way: these two are asked again, no other is."""
    asked_about = [{**row, "reference": f"{row['reference']} {i}"} for i, row in enumerate(rows.select(range(12)))]
    data, output = save_json(asked_about, tmp_path / "rows.jsonl"), tmp_path / "cot.jsonl"
    journal = beside(output, "journal")

    def behave(request, number):
        return answer_well(request, number) if number < ANSWERED_BEFORE_THE_KILL else Action(hang=True)

    with serve(behave) as server:
        command = [sys.executable, "-m", "aurora_trl.cli", "annotate", str(data), "--annotator", "openai:m"]
        command += ["--base-url", f"{server.url}/v1", "--concurrency", "2", "--output", str(output)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 500  # an error in place of a test that hangs
        while len(server.references()) < ANSWERED_BEFORE_THE_KILL + 2 or len(_records(journal)) < 7:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        first = server.references()
        with open(journal, "ab") as file:
            file.write(b'{"id": "synth_000')  # as a machine that loses power leaves it
        server.behave = answer_well
        assert main([*command[3:], "--max-attempts", "5"]) == 0
        second = server.references()[len(first) :]
    assert len(first) == 9
    answered = {row["reference"] for row in asked_about} - set(second)
    assert len(answered) == ANSWERED_BEFORE_THE_KILL
    assert len(second) == len(set(second)) == 5
    assert set(first[7:]) <= set(second)
    # A server that knows these ids need not charge the two for a second time.
    ids = [request.headers["idempotency-key"] for request in server.requests]
    assert set(ids[7:9]) <= set(ids[9:])
    assert len(set(ids)) == 12
    assert load_json(output)["id"] == [row["id"] for row in asked_about]


def _records(journal):
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]] if journal.exists() else []


def test_a_finished_run_is_left_as_it_is(rows, world, tmp_path, capsys):
    output = tmp_path / "cot.jsonl"
    annotator = WorldAnnotator(world)
    annotate_file(rows, annotator, output)
    before = output.read_bytes(), os.stat(output).st_mtime_ns
    annotate_file(rows, annotator, output)
    assert (output.read_bytes(), os.stat(output).st_mtime_ns) == before
    output.write_text("mine\n")  # somebody's edit is kept when the rows are written again
    annotate_file(rows, annotator, output)
    assert output.read_bytes() == before[0]
    assert (tmp_path / "cot.jsonl.previous").read_text() == "mine\n"


def test_other_settings_or_files_are_refused(rows, world, tmp_path):
    output = tmp_path / "cot.jsonl"
    annotator = WorldAnnotator(world)
    annotate_file(rows, annotator, output, seed=1)
    before = output.read_bytes()
    for changed, key in ({"seed": 2}, "`seed` 1, now it is 2"), ({"seed": 1, "style": "fixed"}, "`style` 'flexible'"):
        with pytest.raises(DataError, match=key):
            annotate_file(rows, annotator, output, **changed)
    with pytest.raises(DataError, match="`rows`"):
        annotate_file(rows.select(range(3)), annotator, output, seed=1)
    assert output.read_bytes() == before
    other = tmp_path / "precious.jsonl"
    other.write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        annotate_file(rows, annotator, other)
    assert other.read_text() == "precious"
    assert not beside(other, "journal").exists()
    with pytest.raises(DataError, match="occurs more than once"):
        annotate_file([rows[0], rows[0]], annotator, tmp_path / "twice.jsonl")
    with pytest.raises(DataError, match="the reference is empty"):
        annotate_file([{**rows[0], "reference": " "}], annotator, tmp_path / "unasked.jsonl")
    with pytest.raises(DataError, match="no `class_name`"):
        annotate_file([{**rows[0], "class_name": None, "is_null": False}], annotator, tmp_path / "unnamed.jsonl")


def test_a_journal_that_is_cut_held_or_broken(tmp_path):
    output, settings = tmp_path / "a.jsonl", {"seed": 1}
    with Journal(output, settings) as journal:
        journal.append({"id": "1"})
        journal.append({"id": "ü"})
        with pytest.raises(DataError, match=r"another run is writing it: process \d+ on .* since \d{4}-"):
            Journal(output, settings)
    path = beside(output, "journal")
    whole = path.read_bytes()
    for length in range(len(whole) - len(b'{"id": "2"}\n'), len(whole)):
        path.write_bytes(whole[:length])
        with Journal(output, settings) as journal:
            assert [record["id"] for record in journal.records] == ["1"]
            journal.append({"id": "3"})
        with Journal(output, settings) as journal:
            assert [record["id"] for record in journal.records] == ["1", "3"]
    path.write_bytes(whole.replace(b'"1"}', b'"1"'))
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        Journal(output, settings)
    path.write_bytes(b'{"id": "1"}\n')
    with pytest.raises(DataError, match="no settings"):
        Journal(output, settings)
    path.write_bytes(b"")
    with Journal(output, settings) as journal:
        assert journal.records == []


def test_mining_continues_where_it_was_cut(drawing_checkpoint, processor, checkpoint, cot_rows, tmp_path):
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    rows = [row for row in cot_rows if not row["is_null"]][:5]
    output, options = tmp_path / "hard.jsonl", {"checkpoint": checkpoint, "batch_size": 2, "max_new_tokens": 10}
    assert mine_file(model, processor, rows, output, **options) == 5  # it names no class
    journal = beside(output, "journal")
    whole, records = output.read_bytes(), _records(journal)
    assert [record["id"] for record in records] == [row["id"] for row in rows]
    for record, row in zip(records, rows, strict=True):
        assert (record["class_correct"], record["hard"], record["class_name"]) == (False, True, row["class_name"])
        assert 0 <= record["iou"] < 0.6
    # Three answers and half of the fourth: only the last two are asked again.
    lines = journal.read_bytes().splitlines(keepends=True)
    marked = lines[1].replace(b'"hard": true', b'"hard": false')
    journal.write_bytes(lines[0] + marked + b"".join(lines[2:4]) + lines[4][:20])
    output.unlink()
    assert mine_file(model, processor, rows, output, **options) == 4
    assert [row["id"] for row in load_json(output)] == [row["id"] for row in rows[1:]]
    assert whole.endswith(output.read_bytes())
    assert [record["id"] for record in _records(journal)] == [row["id"] for row in rows]  # each once
    with pytest.raises(DataError, match="`max_new_tokens` 10, now it is 11"):
        mine_file(model, processor, rows, output, **{**options, "max_new_tokens": 11})
    with pytest.raises(DataError, match="has no masks"):
        mine_file(model, processor, [{**rows[0], "masks": None}], tmp_path / "n.jsonl", **options)
    with pytest.raises(DataError, match="has no `class_name`, which an answer is compared with"):
        mine_file(model, processor, [{**rows[0], "class_name": None}], tmp_path / "n.jsonl", **options)
    others = [{**row, "masks": rows[0]["masks"][::-1]} for row in rows]
    with pytest.raises(DataError, match="belongs to a run with `targets`"):
        mine_file(model, processor, others, output, **options)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="`checkpoint`"):
        mine_file(model, processor, rows, output, **{**options, "checkpoint": tmp_path / "other"})


def test_mined_answers_about_files_that_have_changed_are_not_taken_over(
    drawing_checkpoint, processor, cot_rows, tmp_path, caplog
):
    """Masks drawn anew under their old names, a frame that was exchanged: those rows alone are asked again."""
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    rows = [_with_own_files(row, tmp_path / row["id"]) for row in cot_rows if not row["is_null"]][:3]
    output, options = tmp_path / "hard.jsonl", {"checkpoint": drawing_checkpoint, "max_new_tokens": 10}
    drawn = [answer.mask_logits for answer in answer_rows(model, processor, rows, max_new_tokens=10)]
    assert mine_file(model, processor, rows, output, **options) == 3  # it names no class
    before = _records(beside(output, "journal"))
    _draw(rows[1]["masks"], drawn[1])
    shutil.copy(rows[0]["frames"][5], rows[2]["frames"][0])
    assert mine_file(model, processor, rows, output, **options) == 2
    assert "2 answers are about files that have changed since" in caplog.text
    records = _records(beside(output, "journal"))
    assert records[:3] == before
    assert [record["id"] for record in records[3:]] == [rows[1]["id"], rows[2]["id"]]
    assert before[1]["iou"] < 0.6 < 0.9 < records[3]["iou"]
    assert load_json(output)["id"] == [rows[0]["id"], rows[2]["id"]]
    moved = _with_own_files(rows[0], tmp_path / "elsewhere")  # the same content in another place is the same
    assert mine_file(model, processor, [moved, *rows[1:]], output, **options) == 2
    assert _records(beside(output, "journal")) == records
    first = next(row for row in cot_rows if row["id"] == rows[2]["id"])
    rows[2] = _with_own_files(first, tmp_path / "again")
    for row, logits in zip(rows, drawn, strict=True):
        _draw(row["masks"], logits)
    assert mine_file(model, processor, rows, output, **options) == 0
    assert not output.exists()  # no row that it named is hard any more
    assert load_json(tmp_path / "hard.jsonl.previous")["id"] == [rows[0]["id"], rows[2]["id"]]


def _with_own_files(row, folder):
    """A row whose frames and masks are copies."""
    copies = {name: [str(folder / name / Path(path).name) for path in row[name]] for name in PLANES}
    for name, paths in copies.items():
        (folder / name).mkdir(parents=True)
        for path, copy in zip(row[name], paths, strict=True):
            shutil.copy(path, copy)
    return {**row, **copies}


def _draw(paths, logits):
    for path, plane in zip(paths, logits, strict=True):
        Image.fromarray((plane > 0).numpy()).resize((48, 48)).save(path)
