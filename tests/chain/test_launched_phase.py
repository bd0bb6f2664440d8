"""`aurora sft` and `aurora grpo`: a phase through accelerate's launcher."""

import json
import socket
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY
from launching import launch_environment

from aurora_trl.chain.launched_phase import divide_words
from aurora_trl.cli import main
from aurora_trl.training.arguments import load_rows


@pytest.fixture
def settings(checkpoint, world, tmp_path):
    return {
        "model_name_or_path": str(checkpoint),
        "dataset_path": str(world),
        "output_dir": str(tmp_path / "out"),
        "targets": "answer",
        "max_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
    }


def write(folder, content):
    file = folder / "phase.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def run(*words):
    command = [sys.executable, "-m", "aurora_trl.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env=launch_environment())


def test_words_are_divided():
    words = "--config a.yaml --num_processes 2 --learning_rate=3e-3 --max_steps 2 --mixed_precision=no --use_lora"
    phase, launch = divide_words("sft", words.split())
    assert phase == ["--config", "a.yaml", "--learning_rate=3e-3", "--max_steps", "2", "--use_lora"]
    assert launch == ["--num_processes", "2", "--mixed_precision=no"]


def test_our_accelerate_configs_have_names(tmp_path):
    _, launch = divide_words("grpo", ["--accelerate_config", "zero2", "--config", "a.yaml", "--num_processes", "4"])
    assert launch[0] == "--config_file"
    assert launch[1].endswith("recipes/accelerate/zero2.yaml")
    assert launch[2:] == ["--num_processes", "4"]
    own = write(tmp_path, {})
    assert divide_words("sft", [f"--accelerate_config={own}"])[1] == ["--config_file", own]
    with pytest.raises(ValueError, match="--accelerate_config 'zero9': no such file; name one, or one of ddp"):
        divide_words("sft", ["--accelerate_config", "zero9"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "3"], "unrecognized arguments: --learning_rat"),
        (["--learning_rate", "x"], "invalid float value: 'x'"),
        (["--config", "none.yaml"], "none.yaml: no such recipe"),
        (["--num_processes", "two"], "invalid int value: 'two'"),
        ([], "the following arguments are required: --model_name_or_path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_starts_nothing(words, message, settings, tmp_path, capsys):
    """One line from this process, before there is another."""
    if words and "--config" not in words:
        words = ["--config", write(tmp_path, settings), *words]
    try:
        code = main(["sft", *words])
    except SystemExit as error:
        code = error.code
    assert code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")


def test_the_environment_stays(settings, tmp_path, monkeypatch, capsys):
    """What a config sets for its own process would reach the one that is launched."""
    import os

    before = dict(os.environ)
    with pytest.raises(SystemExit):
        main(["sft", "--config", write(tmp_path, {**settings, "learning_rate": -1.0})])
    assert "`learning_rate` must be" in capsys.readouterr().err
    assert dict(os.environ) == before


@pytest.mark.slow
def test_a_phase_runs(settings, tmp_path):
    result = run("sft", "--config", write(tmp_path, settings), "--seed", "7")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["seed"] == 7
    for word in ("Warning", "WARNING", "deprecated", "Traceback", "were not passed to"):
        assert word not in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("launch", [[], ["--accelerate_config", "zero2", "--num_processes", "2"]], ids=["one", "two"])
def test_a_failure_is_the_phases_own_line(launch, settings, world, tmp_path, monkeypatch, capfd):
    """In one process, and in two under torchrun, which would print ten lines of its own."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    rows = load_rows(str(world), "train")
    missing = rows[0]["frames"][0] + "x"
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": "1", "reference": "the dog", "frames": [missing], "masks": [None]}) + "\n")
    recipe = write(tmp_path, {**settings, "dataset_path": str(file)})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = ["--main_process_port", str(listener.getsockname()[1])] if launch else []
    with pytest.raises(SystemExit) as ended:
        main(["sft", "--config", recipe, *launch, *port])
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    lines = said.strip().splitlines()[-2 if launch else -1 :]
    assert all(line.startswith("error: ") and "no such frame" in line for line in lines), said
