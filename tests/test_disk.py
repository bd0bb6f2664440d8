"""A full disk ends in one line that names the file, and nothing that was complete is lost."""

import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import REPOSITORY
from full_disk import small_files_only

from aurora_trl.cli import main
from aurora_trl.data import DataError, save_json
from aurora_trl.disk import naming, put_in_place, written_whole
from aurora_trl.generation.feature_store import FeatureStore
from aurora_trl.journal import Journal


def write(path, text, error=None):
    with written_whole(path) as stream:
        stream.write(text)
        stream.flush()
        if error is not None:
            raise error


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "new" / "a.txt"
    write(file, "ü")
    assert file.read_text(encoding="utf-8") == "ü"
    with small_files_only(1000), pytest.raises(DataError, match=r"a.txt: can not be written whole: File too large \("):
        write(file, "x" * 2000)
    with pytest.raises(ZeroDivisionError):
        write(file, "half", ZeroDivisionError())
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text(encoding="utf-8") == "ü"


def test_other_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), naming(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(RuntimeError, match="out of memory"), naming(tmp_path):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("kinds", [("file", "file"), ("folder", "folder"), ("folder", "file"), ("folder", "link")])
def test_what_is_there_is_replaced(kinds, tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    for path, kind in zip((source, target), kinds, strict=True):
        if kind == "folder":
            path.mkdir()
            (path / path.name).write_text(path.name)
        elif kind == "file":
            path.write_text(path.name)
        else:
            path.symlink_to("nowhere")
    put_in_place(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (target / "a" if kinds[0] == "folder" else target).read_text() == "a"


def test_a_journal_keeps_what_it_had(tmp_path):
    output, settings = tmp_path / "a.jsonl", {"seed": 1}
    with Journal(output, settings) as journal:
        journal.append({"id": "1"})
        said = r"a.journal.jsonl: can not be written whole: .* what it holds is whole: free some"
        with small_files_only(1000), pytest.raises(DataError, match=said):
            journal.append({"id": "2", "text": "x" * 2000})
    with Journal(output, settings) as journal:
        assert journal.records == [{"id": "1"}]
        journal.append({"id": "2"})
    assert [json.loads(line).get("id") for line in (tmp_path / "a.journal.jsonl").open()] == [None, "1", "2"]


def test_a_cache_keeps_what_it_had(tmp_path):
    store, value = FeatureStore(tmp_path), torch.ones(1000)
    store.write("aa", value)
    with small_files_only(1000), pytest.raises(DataError, match=r"aa.safetensors: can not be written whole"):
        store.write("aa", value + 1)
    assert torch.equal(store.read("aa"), value)
    assert len(list(tmp_path.rglob("*.*"))) == 1


# The command, and what its line names.
COMMANDS = {
    "synth": ("synth out --clips 8 --image-size 48", "out"),
    "tiny-model": ("tiny-model out", "out/"),
    "annotate": ("annotate WORLD --annotator synthetic:WORLD --output out.jsonl", "out.journal.jsonl"),
    "evaluate": (
        "evaluate MODEL --data WORLD --max-rows 6 --output out --max-new-tokens 8",
        "out.logits/",
    ),
    "segment": ("segment --model MODEL --frames FRAME --reference it --output out --max-new-tokens 8", "out/"),
    "mine": ("mine MODEL WORLD --max-rows 8 --output out.jsonl --max-new-tokens 8", "out.journal.jsonl"),
}


def test_export_names_the_file(world, tmp_path):
    """In a process of its own: what writes Parquet may end it."""
    code = """import resource, sys
import aurora_trl.data.formats.parquet as parquet
from aurora_trl.cli import main
write = parquet._write_media
def write_and_fill_the_disk(*args):
    write(*args)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, -1))
parquet._write_media = write_and_fill_the_disk
sys.exit(main(["export", sys.argv[1], "--output", sys.argv[2]]))
"""
    command = [sys.executable, "-c", code, str(world), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert re.search(rf"\nerror: {tmp_path}/out/rows/\w+.parquet: can not be written whole", "\n" + result.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_file(command, drawing_checkpoint, world, rows, tmp_path, monkeypatch, capfd):
    words, named = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    for name, path in {"MODEL": drawing_checkpoint, "WORLD": world, "FRAME": rows[0]["frames"][0]}.items():
        words = words.replace(name, str(path))
    with small_files_only(700):
        code = main(words.split())
    line = capfd.readouterr().err.splitlines()[-1]
    assert code == 1
    assert line.startswith(f"error: {named}")
    assert ": can not be written whole: " in line
    assert not list(tmp_path.rglob(".*"))  # nothing that is half-written


def test_a_phase_names_the_file(checkpoint, cot_rows, tmp_path, monkeypatch, capfd):
    recipe = {
        "model_name_or_path": str(checkpoint),
        "dataset_path": str(save_json(cot_rows.select(range(4)), tmp_path / "rows.jsonl")),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.syspath_prepend(str(REPOSITORY / "recipes"))
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(tmp_path / "sft.yaml")])
    with small_files_only(100_000), pytest.raises(SystemExit) as ended:
        importlib.import_module("sft").main()
    assert ended.value.code == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/out/_unfinished/")
    assert "/model.safetensors: can not be written whole: " in line
    assert not (tmp_path / "out" / "_lock").exists()
