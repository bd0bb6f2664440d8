"""Two processes share an evaluation, which is cut and continued: the scores and the answers of one."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from aurora_trl.cli import main
from aurora_trl.data import load_refavs, save_json
from aurora_trl.data.schema import clip_key


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_equal_one(forked, checkpoint, world, tmp_path):
    data = Path(shutil.copytree(world, tmp_path / "world"))
    rows = {clip_key(row): row for row in load_refavs(data, "train")}
    save_json(list(rows.values())[:7], tmp_path / "data" / "train.jsonl")
    save_json(load_refavs(data, "test_n"), tmp_path / "data" / "test_n.jsonl")

    def arguments(output):
        words = "--splits train test_n --swaps audio --batch-size 2 --max-new-tokens 6"
        return [
            "evaluate",
            str(checkpoint),
            "--data",
            str(tmp_path / "data"),
            "--output",
            str(tmp_path / output),
            *words.split(),
        ]

    def two():
        return forked.run(forked.two(forked.aurora(*arguments("two"))))

    # The third batch, which is the first process's second, shows a frame that is whole at both ends alone.
    frame = Path(list(rows.values())[4]["frames"][0])
    whole = frame.read_bytes()
    with Image.open(frame) as image:
        image.save(frame, "PNG")
    content = frame.read_bytes()
    middle = len(content) // 2
    frame.write_bytes(content[:middle] + bytes(8) + content[middle + 8 :])
    result = two()
    assert result.returncode != 0
    assert frame.name in result.stderr, result.stderr[-3000:]
    journals = [tmp_path / f"two.answers-{rank}.journal.jsonl" for rank in range(2)]
    assert len(journals[0].read_text().splitlines()) == 3  # settings and two answers
    frame.write_bytes(whole)

    result = two()
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "answers of a run that was cut; continuing" in result.stderr
    assert not any(journal.exists() for journal in journals)
    assert result.stdout.count("test_n: S") == 1  # said once
    assert "(protocol refavs)" in result.stdout
    assert main(arguments("one")) == 0
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert scores[0] == scores[1]
    assert scores[1]["splits"]["train"]["rows"] == 7
    answers = [(tmp_path / name / "answers.jsonl").read_text() for name in ("one", "two")]
    assert answers[0] == answers[1]
