"""The benchmarks run: figures are taken by `make bench` alone, on a machine with nothing else to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "names"),
    [
        ("bench.py", ["--only", "parts", "checks", "--repeats", "1"], 6),
        ("bench_gpu.py", ["--tiny", "--groups", "2", "--steps", "1"], 3),
    ],
)
def test_a_benchmark_runs(script, arguments, names, tmp_path):
    output = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / script), *arguments, "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(json.loads(output.read_text())["results"]) == names
