"""The dry run's estimate of a rollout against what a process really takes."""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "benchmarks" / "rollout_peak.py"
# Each tensor goes back to the system when it is freed: the peak is that of what was alive.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        ["8", "4", "layers=8", "hidden=256", "max_completion_length=64"],
        ["4", "4", "mask=256", "target=256", "at_once=0.25"],
    ],
    ids=["cache", "masks"],
)
def test_the_estimate_holds_within_a_fifth(sizes):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes],
        env={**os.environ, **MALLOC, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["estimated"] == pytest.approx(figures["measured"], rel=0.2), figures
