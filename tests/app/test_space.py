"""A Space: its files, pushed with the real client, and run as the Hub runs them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from hub_server import TOKEN, HubServer

pytest.importorskip("gradio", reason="needs the extra `app`")

from aurora_trl.app.space import write_space


def front_matter(text):
    return yaml.safe_load(text.split("---")[1])


def test_the_files_of_a_space(tmp_path):
    import gradio

    write_space(tmp_path, "org/model", "model")
    meta = front_matter((tmp_path / "README.md").read_text())
    assert meta["sdk"] == "gradio"
    assert meta["sdk_version"] == gradio.__version__
    assert meta["app_file"] == "app.py"
    assert meta["models"] == ["org/model"]
    needed = (tmp_path / "requirements.txt").read_text().split("\n")
    assert any(line.startswith("transformers>=") for line in needed)
    assert not any(line.startswith(("trl", "deepspeed", "pytest")) for line in needed)
    compile((tmp_path / "app.py").read_text(), "app.py", "exec")
    for name in ("__init__.py", "app/page.css", "app/player.js", "models/modeling_aurora.py"):
        assert (tmp_path / "aurora_trl" / name).is_file()
    assert not list(tmp_path.rglob("*.pyc"))


@pytest.mark.slow
def test_what_answers_needs_nothing_that_trains(checkpoint):
    """A Space does not install what `TRAINING_PACKAGES` names."""
    code = """
import sys
for name in ("trl", "deepspeed"):
    sys.modules[name] = None
from aurora_trl import AuroraPipeline
import aurora_trl.app.ask_page, aurora_trl.app.answers_page
AuroraPipeline.from_pretrained(sys.argv[1])
"""
    result = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_pushed_and_run(checkpoint, tmp_path):
    """`aurora push --space`; what lies in the Space serves the page on the checkpoint from the Hub."""
    with HubServer() as hub:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(tmp_path / "tmp"),
        }
        (tmp_path / "tmp").mkdir()

        def push(*flags):
            command = [sys.executable, "-m", "aurora_trl.cli", "push", str(checkpoint), "org/model", *flags]
            return subprocess.run(
                command, env={**environment, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
            )

        for _ in range(2):  # the second brings it to this version
            result = push("--space")
            assert result.returncode == 0, result.stderr[-2000:]
            assert result.stdout.splitlines()[-1].startswith(f"{hub.endpoint}/spaces/org/model/commit/")
        space = hub.repositories["spaces/org/model"]
        assert front_matter(space.files["README.md"].decode())["models"] == ["org/model"]
        assert "app.py" in space.files
        assert "model.safetensors" in hub.repositories["org/model"].files

        files = dict(space.files)
        space.files["README.md"] = b"mine"
        space.commits.append("Edit README.md")
        commits = len(hub.repositories["org/model"].commits)
        result = push("--space")
        assert result.returncode == 1
        assert len(hub.repositories["org/model"].commits) == commits  # refused before anything was pushed
        assert "org/model: a Space that aurora_trl did not write is left as it is" in result.stderr.splitlines()[-1]
        assert space.files["README.md"] == b"mine"
        assert hub.unknown == []

        folder = tmp_path / "space"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _run_space(folder, environment, tmp_path / "tmp")


def _run_space(folder: Path, environment: dict[str, str], temporary: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**environment, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(folder)}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        page = None
        while page is None:
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode()
            except OSError:
                time.sleep(0.2)
        assert "aurora" in page
        assert list(temporary.glob("aurora-app-*"))
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert not list(temporary.glob("aurora-app-*"))
