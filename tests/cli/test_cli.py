"""The `aurora` command."""

import subprocess
import sys

import pytest

from aurora_trl.cli import main


def test_help_is_quick_and_light():
    code = "import sys, aurora_trl.cli as c; c.build_parser(); print('torch' in sys.modules, 'trl' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"]


def test_env(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "trl 1.16" in out
    assert "GPUs:" in out


def test_synth_and_check_data(tmp_path, capsys):
    folder = tmp_path / "world"
    arguments = ["synth", str(folder), "--clips", "8", "--seed", "2", "--image-size", "48"]
    assert main(arguments) == 0
    assert main(["check-data", str(folder)]) == 0
    assert "all is well" in capsys.readouterr().out
    wav = next((folder / "media").glob("synth_*/audio.wav"))
    wav.unlink()
    assert main(["check-data", str(folder)]) == 1
    captured = capsys.readouterr()
    assert f"{wav}: no such file" in captured.out
    assert captured.err.startswith("error: ")


def test_annotate_is_loadable(world, tmp_path, capsys):
    from aurora_trl.data import load_json

    arguments = ["annotate", str(world), "--annotator", f"synthetic:{world}", "--output", str(tmp_path / "cot.jsonl")]
    assert main(arguments) == 0
    rows = load_json(tmp_path / "cot.jsonl")
    assert all("[SEG]" in target for target in rows["target"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check-data", "no/such"], "no/such: no such dataset folder"),
        (["run", "no.yaml"], "no.yaml: no such file"),
        (["annotate", "no/such", "--annotator", "synthetic:x", "--output", "o"], "no/such: no such dataset folder"),
        (["annotate", "d", "--annotator", "openai:m", "--output", "o", "--max-cost", "1"], "`max_cost` needs"),
        (["evaluate", "m", "--data", "no/such", "--output", "o"], "no/such: no such dataset folder"),
        (["evaluate", "m", "--data", "d", "--output", "o", "--swaps", "smell"], "unknown modality 'smell'"),
        (
            ["synth", "o", "--layout", "s4", "--references-per-clip", "2"],
            "--references-per-clip: the clips of S4 have",
        ),
        (["report", "no/such", "--phases", "sft", "--data", "d"], "no/such/eval/sft/metrics.json: no such file"),
        (["report", "d", "--tables", "--compare", "a", "b"], "--tables and --compare are two reports"),
        (["report", "d", "--compare", "a", "b", "--data", "d"], "--data does not go with --compare: leave it out"),
        (["report", "d", "--tables", "--price-per-hour", "1"], "--price-per-hour does not go with --tables"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("error: ")
    assert message in err[-1]


def test_existing_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["tiny-model", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_import_is_lazy():
    code = "import sys, aurora_trl; print('torch' in sys.modules, aurora_trl.__version__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith("False 0.")
