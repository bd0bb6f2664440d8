"""Two processes share an evaluation: the scores and the answers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_trl.cli import main

TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_equal_one(checkpoint, world, tmp_path):
    def arguments(output):
        options = [
            "--splits",
            "train",
            "test_n",
            "--swaps",
            "audio",
            "--max-rows",
            "7",
            "--batch-size",
            "2",
            "--max-new-tokens",
            "6",
        ]
        return ["evaluate", str(checkpoint), "--data", str(world), "--output", str(tmp_path / output), *options]

    assert main(arguments("one")) == 0
    result = subprocess.run(
        [*TORCHRUN, "-m", "aurora_trl.cli", *arguments("two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert result.stdout.count("test_n: S") == 1  # said once
    assert "(protocol refavs)" in result.stdout
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert scores[0] == scores[1]
    assert scores[1]["splits"]["train"]["rows"] == 7
    answers = [(tmp_path / name / "answers.jsonl").read_text() for name in ("one", "two")]
    assert answers[0] == answers[1]
