"""`aurora annotate --serve`: the server is started, asked and stopped. A program on the path stands in for vLLM."""

import json
import os
import sys
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY

from aurora_trl.annotation.vllm_server import serve_model
from aurora_trl.cli import main
from aurora_trl.data import DataError, load_json, save_json

PROGRAM = f"""#!{sys.executable}
import json, os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
(folder / "started.jsonl").open("a").write(json.dumps([os.getpid(), sys.argv[1:]]) + "\\n")
how = (folder / "how").read_text() if (folder / "how").exists() else "well"
if how == "fails":
    sys.exit("no GPU was found")
if how == "hangs":
    time.sleep(3600)
sys.path.insert(0, {str(REPOSITORY / "tests" / "helpers")!r})
from annotation_servers import ChatServer
ChatServer(port=int(sys.argv[sys.argv.index("--port") + 1])).closing.wait()
"""


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """The folder of the stand-in, which is on the path; `how` in it says how it fares."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(PROGRAM)
    (folder / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def started(folder):
    return [json.loads(line) for line in (folder / "started.jsonl").read_text().splitlines()]


def annotate(rows, tmp_path, *more):
    data = save_json(rows, tmp_path / "rows.jsonl")
    return main(["annotate", str(data), "--serve", "a/model", "--output", str(tmp_path / "cot.jsonl"), *more])


def test_a_run_has_a_server_of_its_own(rows, vllm, tmp_path, capsys):
    assert annotate(rows.select(range(6)), tmp_path, "--replicas", "4", "--serve-arguments=--dtype float16") == 0
    ((process, words),) = started(vllm)
    assert not psutil.pid_exists(process)
    assert words[:4] == ["serve", "a/model", "--host", "127.0.0.1"]
    assert words[-4:] == ["--data-parallel-size", "4", "--dtype", "float16"]
    assert json.loads(words[words.index("--limit-mm-per-prompt") + 1]) == {"image": 10, "audio": 1}
    assert load_json(tmp_path / "cot.jsonl")["id"] == rows.select(range(6))["id"]
    assert (tmp_path / "cot.vllm.log").exists()
    # The next server has another port, and the run is the same.
    assert annotate(rows.select(range(6)), tmp_path) == 0
    assert "6 of 6 rows are through" in capsys.readouterr().err


def test_an_estimate_needs_no_server(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert annotate(rows.select(range(6)), tmp_path, "--estimate") == 0
    assert "6 requests, about" in capsys.readouterr().err


def test_no_vllm_is_one_line(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert annotate(rows.select(range(2)), tmp_path, "--vllm", "no-vllm") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: no-vllm: no such program; install vLLM in an environment of its own")


def test_a_server_that_ends_or_hangs_is_named(rows, vllm, tmp_path, capsys):
    (vllm / "how").write_text("fails")
    assert annotate(rows.select(range(2)), tmp_path) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the vLLM server ended with exit code 1: no GPU was found; see ")
    (vllm / "how").write_text("hangs")
    with (
        pytest.raises(DataError, match="was not ready after 0 s"),
        serve_model("a/model", tmp_path / "log", serve_timeout_seconds=0.1),
    ):
        pass
    assert not psutil.pid_exists(started(vllm)[-1][0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "name the annotator with --annotator, or a model"),
        ("--serve m --annotator a:b", "name the annotator with --annotator, or a model"),
        ("--annotator qwen-omni:m --replicas 8", "--replicas is of a server that --serve starts"),
        ("--annotator qwen-omni:m --base-url http://here", "qwen-omni:m asks no server: use openai:MODEL"),
        ("--serve m --base-url http://here", "--base-url is of a server that runs already"),
        ("--annotator qwen-omni:m --vllm bin/vllm", "--vllm is of a server that --serve starts"),
        ("--annotator openai:m --serve-timeout 60", "--serve-timeout is of a server that --serve starts"),
        ("--annotator openai:m --serve-arguments=x", "--serve-arguments is of a server that --serve starts"),
        ("--annotator qwen-omni:m --key-variable KEY", "--key-variable is of openai:MODEL and gemini:MODEL"),
        ("--serve m --key-variable KEY", "--key-variable is of openai:MODEL and gemini:MODEL"),
        ("--annotator qwen-omni:m --timeout 60", "--timeout is of an annotator that is asked through a server"),
        ("--annotator synthetic:w --temperature 1", "--temperature is of a model that is asked"),
        ("--annotator synthetic:w --max-cost 1", "--max-cost is of a model that is asked"),
        ("--serve m --serve-arguments=--api-key=secret", "--api-key: the server is this machine's alone"),
    ],
)
def test_one_annotator_is_named(flags, message, rows, tmp_path, capsys):
    data = save_json(rows.select(range(2)), tmp_path / "rows.jsonl")
    assert main(["annotate", str(data), "--output", str(Path(tmp_path, "cot.jsonl")), *flags.split()]) == 1
    assert message in (err := capsys.readouterr().err)
    assert "secret" not in err
