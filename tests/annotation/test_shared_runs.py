"""Several processes share a run: the files of one process, whoever began it and whatever was cut."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from annotate_step import MINING, OwnAnnotator

from aurora_trl.annotation import RunLimits, WorldAnnotator, annotate_file, mine_file
from aurora_trl.annotation.cot import _own_share, _require_sharable
from aurora_trl.annotation.shared_journal import collect_records, open_shared_journal
from aurora_trl.cli import main
from aurora_trl.data import DataError, load_json, save_json
from aurora_trl.data.schema import clip_key
from aurora_trl.evaluation.evaluate import process_state
from aurora_trl.generation.answers import load
from aurora_trl.journal import Journal, beside
from aurora_trl.training.arguments import load_rows

SCRIPT = str(Path(__file__).with_name("annotate_step.py"))


@pytest.mark.parametrize("name", ["a", "a[1]"])
def test_what_others_have_left_is_taken_up(name, tmp_path):
    """Two processes were cut; one goes on, and has the answers of both, each once."""
    output, settings = tmp_path / f"{name}.jsonl", {"seed": 1}
    with Journal(output, settings) as journal:
        journal.append({"id": "1"})
    for process, ids in ((1, "12"), (2, "3")):
        with Journal(beside(output, f"part-{process}"), settings) as part:
            for id_ in ids:
                part.append({"id": id_})
    with open_shared_journal(output, settings, fields={"id": str}, sync_seconds=0.0) as journal:
        assert [record["id"] for record in journal.records] == ["1", "2", "3"]
        journal.append({"id": "4"})
        assert [record["id"] for record in collect_records(journal)] == ["1", "2", "3", "4"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{name}.journal.jsonl"]
    with Journal(output, settings) as journal:
        assert [record["id"] for record in journal.records] == ["1", "2", "3", "4"]
    with Journal(beside(output, "part-1"), {"seed": 2}):
        pass
    with (
        pytest.raises(DataError, match="`seed` 2, now it is 1"),
        open_shared_journal(output, settings, fields={}, sync_seconds=0.0),
    ):
        pass


def test_references_to_a_clip_stay_together(rows):
    shares = [_own_share(rows.to_list(), process, 3) for process in range(3)]
    clips = [{clip_key(row) for row in share} for share in shares]
    assert not clips[0] & clips[1]
    assert not clips[1] & clips[2]
    assert sorted(row["id"] for share in shares for row in share) == sorted(rows["id"])
    assert max(map(len, clips)) - min(map(len, clips)) <= 1


def test_what_can_not_be_shared_is_refused(world):
    with pytest.raises(DataError, match="synthetic: 2 processes share the work of a model that each of them holds"):
        _require_sharable(WorldAnnotator(world), RunLimits(), 2)
    with pytest.raises(DataError, match="`max_requests` and `max_cost` are of a whole run, which 2 processes"):
        _require_sharable(OwnAnnotator(world), RunLimits(max_requests=3), 2)
    _require_sharable(WorldAnnotator(world), RunLimits(max_requests=3), 1)


def test_no_more_is_annotated_than_training_draws(world, tmp_path):
    """The rows that `max_train_samples` takes with the same seed."""
    output = tmp_path / "cot.jsonl"
    command = ["annotate", str(world), "--annotator", f"synthetic:{world}", "--max-rows", "5", "--seed", "3"]
    assert main([*command, "--output", str(output)]) == 0
    assert load_json(output)["id"] == load_rows(str(world), "train", 5, 3)["id"]


def test_more_processes_than_gpus_are_one_line(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DataError, match="4 processes were started on this machine, which has 2 GPUs; start 2 or"):
        process_state()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_equal_one(forked, world, cot_rows, drawing_checkpoint, tmp_path):
    rows = cot_rows.to_list()[:14]
    data = save_json(rows, tmp_path / "rows.jsonl")

    def two(folder, *more):
        return forked.run(forked.two(forked.script(SCRIPT, world, data, drawing_checkpoint, folder, *more)))

    result = two(tmp_path / "two", rows[-1]["id"])
    assert result.returncode != 0
    assert f"stopped at {rows[-1]['id']}" in result.stderr, result.stderr[-3000:]
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    written = sum(len(path.read_text().splitlines()) - 1 for path in (tmp_path / "two").glob("*.journal.jsonl"))
    assert 0 < written < len(rows)
    result = two(tmp_path / "two")
    assert result.returncode == 0, result.stderr[-3000:]

    # One process goes on from what two have left, and mines anew.
    annotate_file(rows, OwnAnnotator(world), tmp_path / "one" / "cot.jsonl")
    model, processor = load(drawing_checkpoint, "cpu")
    mined = [row for row in load_json(tmp_path / "one" / "cot.jsonl") if not row["is_null"]]
    hard = mine_file(model, processor, mined, tmp_path / "one" / "hard.jsonl", checkpoint=drawing_checkpoint, **MINING)
    assert hard > 0
    for name in ("cot.jsonl", "hard.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    records = [
        {json.loads(line)["id"]: line for line in (tmp_path / n / "hard.journal.jsonl").read_text().splitlines()[1:]}
        for n in ("one", "two")
    ]
    assert records[0] == records[1]  # to the last digit
    assert not list((tmp_path / "two").glob("*.part-*"))
