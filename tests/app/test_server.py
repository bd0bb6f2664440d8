"""`aurora app`: what it refuses, and what it finds by itself."""

import os
import sys
import tempfile

import pytest

from aurora_trl.app.server import App, AppSettings, find_data, shown_names
from aurora_trl.cli import main
from aurora_trl.cli.main import build_parser


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a checkpoint to ask, or `--answers` with the folder of a chain's evaluations"),
        (["a", "b", "c"], "3 checkpoints are named; at most two stand side by side"),
        (["a", "--phases", "sft"], "--phases is about evaluations to look through: add --answers, or leave it out"),
        (["a", "--data", "d"], "--data is about evaluations to look through: add --answers, or leave it out"),
        (["--answers", "r", "--device", "cpu"], "--device is about a checkpoint to ask: name one, or leave it out"),
    ],
)
def test_a_call_that_shows_nothing(words, message, capsys):
    assert main(["app", *words]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_without_gradio(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "org/model"]) == 1
    assert capsys.readouterr().err == (
        "error: Gradio is not installed; `pip install 'aurora-trl[app]'` installs what the page needs\n"
    )
    assert not list(tmp_path.glob("aurora-app-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--answers", "no/such"], "no/such: no answers.jsonl in it"),
        (["no/such/model"], "no/such/model: no such folder"),
        (["same", "same"], "same: it is named twice"),
    ],
)
def test_what_can_not_be_read(words, message, capsys, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `app`")
    assert main(["app", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(tmp_path.glob("aurora-app-*"))


def test_this_machine_alone_by_default():
    arguments = build_parser().parse_args(["app", "model"])
    assert arguments.host == "127.0.0.1"
    assert arguments.port is None
    assert (arguments.max_upload_mb, arguments.max_seconds) == (None, None)
    limits = AppSettings(["model"]).limits
    assert (limits.upload_mb, limits.seconds) == (200, 120)


def test_names_tell_checkpoints_apart():
    assert shown_names(["outputs/tiny/grpo"]) == {"grpo": "outputs/tiny/grpo"}
    assert list(shown_names(["a/grpo", "b/grpo/"])) == ["a/grpo", "b/grpo"]


def test_a_chain_s_data_lie_beside_its_evaluations(tmp_path):
    (tmp_path / "chain" / "eval" / "sft").mkdir(parents=True)
    assert find_data(tmp_path / "chain") is None
    (tmp_path / "chain" / "data").mkdir()
    for root in ("chain", "chain/eval", "chain/eval/sft"):
        found = find_data(tmp_path / root)
        assert found is not None
        assert os.path.samefile(found, tmp_path / "chain" / "data")


def test_no_files_are_left(checkpoint, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `app`")
    with App(AppSettings(models=[str(checkpoint)])) as app:
        assert app.folder.is_dir()
        assert app.folder.parent == tmp_path
    assert not list(tmp_path.glob("aurora-app-*"))
