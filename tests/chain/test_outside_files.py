"""What a chain reads from outside is an input: where it changes, what was made of it is made again."""

import json
import sys

import pytest
import yaml
from conftest import REPOSITORY

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.outside_files import digest_outside, words_of
from aurora_trl.chain.runner import run_pipeline


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """`copy` reads rows and code, `again` what `copy` makes, `other` nothing; each writes to a log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "1"}\n')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rewards.py").write_text("def short(): ...\n")
    script = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_text('x'); open('log', 'a').write(sys.argv[1])"
    python = f'{sys.executable} -c "{script}"'
    steps = [
        {"name": "copy", "run": f"{python} c {{output_dir}}/c.txt rows.jsonl own.rewards:short", "makes": "c.txt"},
        {"name": "again", "run": f"{python} a {{output_dir}}/a.txt {{output_dir}}/c.txt", "makes": "a.txt"},
        {"name": "other", "run": f"{python} o {{output_dir}}/o.txt", "makes": "o.txt"},
    ]
    steps[1]["needs"] = ["copy"]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": "out", "seed": 1, "steps": steps}))

    def run(**options):
        (tmp_path / "log").write_text("")
        run_pipeline(load_pipeline("chain.yaml"), **options)
        return (tmp_path / "log").read_text()

    return run


@pytest.mark.parametrize("file", ["rows.jsonl", "own/rewards.py"])
def test_a_changed_file_runs_what_has_read_it(chain, file, tmp_path, capsys):
    assert chain() == "cao"
    assert chain() == ""
    path = tmp_path / file
    path.touch()  # no other content
    assert chain() == ""
    path.write_text(path.read_text().replace("1", "2").replace("short", "shore"))
    capsys.readouterr()
    assert chain(dry_run=True) == ""
    assert f"again: {file} has changed since the last run" in capsys.readouterr().err
    # Cut between the two: the second still knows that it is of the old rows.
    assert chain(only="copy") == "c"
    assert chain() == "a"
    assert (tmp_path / "out" / "c.txt.previous").exists()
    assert chain() == ""


def test_what_was_edited_by_hand_runs_what_has_read_it(chain, tmp_path, capsys):
    assert chain() == "cao"
    made = tmp_path / "out" / "c.txt"
    made.write_text("mended")
    capsys.readouterr()
    assert chain() == "a"
    assert "again: out/c.txt has changed since the last run" in capsys.readouterr().err
    assert made.read_text() == "mended"
    assert chain() == ""
    made.unlink()
    assert chain() == "c"  # what is made again as it was, or is gone, is no change
    assert chain() == "a"  # of what was mended
    assert chain() == ""


def test_of_a_folder_what_is_read_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = (
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "folder.mkdir()\n"
        "for name in ('model.safetensors', 'config.json', 'trainer_state.json'): (folder / name).write_text('1')\n"
    )
    (tmp_path / "phase.py").write_text(script)
    steps = [
        {"name": "a", "run": f"{sys.executable} phase.py {{output_dir}}/a", "makes": "a"},
        {"name": "b", "run": f"{sys.executable} phase.py {{output_dir}}/b", "makes": "b", "needs": ["a"]},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": steps}))
    run_pipeline(load_pipeline("chain.yaml"))

    def state():
        pipeline = load_pipeline("chain.yaml")
        return pipeline.state(pipeline.step("b"))

    (tmp_path / "out" / "a" / "README.md").write_text("a card, as `aurora push` writes it")
    (tmp_path / "out" / "a" / "trainer_state.json").write_text("other times")
    assert state() == "done"
    (tmp_path / "out" / "a" / "config.json").write_text("2")
    assert state() == "new"


def test_a_step_needs_what_it_names(tmp_path, monkeypatch):
    """Whether or not it says so: else it stays as it is where that is made anew, and `--before` leaves that out."""
    monkeypatch.chdir(tmp_path)
    python = f'{sys.executable} -c "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"'
    steps = [
        {"name": "a", "run": f"{python} {{output_dir}}/a.txt 1", "makes": "a.txt"},
        {"name": "b", "run": f"{python} {{output_dir}}/b.txt {{output_dir}}/a.txt", "makes": "b.txt"},
        {"name": "c", "run": f"{python} {{output_dir}}/c.txt --rows={{output_dir}}/b.txt", "makes": "c.txt"},
        {"name": "d", "run": f"{python} {{output_dir}}/d.txt 1", "makes": "d.txt"},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": steps}))
    assert [step.needs for step in load_pipeline("chain.yaml").steps] == [[], ["a"], ["b"], []]
    run_pipeline(load_pipeline("chain.yaml"))
    steps[0]["run"] = steps[0]["run"].replace(" 1", " 2")
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": steps}))
    pipeline = load_pipeline("chain.yaml")
    assert [pipeline.state(step) for step in pipeline.steps] == ["new", "new", "new", "done"]


@pytest.mark.parametrize("output_dir", ["out", "."])
def test_rows_of_ones_own_in_the_chains_folder_count(output_dir, tmp_path, monkeypatch):
    """And not what a step's command writes there besides what it makes: here a log, and a table that `b` reads."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / output_dir / "own"
    own.mkdir(parents=True)
    (own / "rows.jsonl").write_text("1")
    (tmp_path / "step.py").write_text(
        "import pathlib, sys\n"
        "made, log, table, *more = map(pathlib.Path, sys.argv[1:])\n"
        "made.write_text('x')\n"
        "with log.open('a') as file: file.write(made.stem)\n"
        "if made.stem == 'a': table.write_text(log.read_text())\n"
    )
    run = f"{sys.executable} step.py {{output_dir}}/NAME.txt {{output_dir}}/log {{output_dir}}/table.csv"
    steps = [
        {"name": "a", "run": run.replace("NAME", "a") + " {output_dir}/own/rows.jsonl", "makes": "a.txt"},
        {"name": "b", "run": run.replace("NAME", "b"), "makes": "b.txt", "needs": ["a"]},
        {"name": "c", "run": run.replace("NAME", "c"), "makes": "c.txt"},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": output_dir, "steps": steps}))
    log = tmp_path / output_dir / "log"
    for rows, expected in (("1", "abc"), ("1", ""), ("2", "ab"), ("2", ""), ("3", "ab"), ("3", "")):
        (own / "rows.jsonl").write_text(rows)
        log.write_text("")
        run_pipeline(load_pipeline("chain.yaml"))
        assert log.read_text() == expected
    (own / "rows.jsonl").write_text("4")
    run_pipeline(load_pipeline("chain.yaml"), only="a")
    pipeline = load_pipeline("chain.yaml")  # cut between the two
    assert [pipeline.state(step) for step in pipeline.steps] == ["done", "new", "done"]


def test_another_training_script_counts_and_so_does_its_content(tmp_path, monkeypatch):
    """Of the package's own two the name, so that a phase stays done where the package is a newer one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("model_name_or_path: m\nlogging_dir: logs\noutput_dir: out/a\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "mine.py").write_text("1")
    ours, other = (str(REPOSITORY / "recipes" / name) for name in ("sft.py", "grpo.py"))

    def load(script):
        train = {"name": "a", "train": script, "config": "a.yaml", "makes": "a"}
        steps = [train, {"name": "b", "run": "true", "makes": "b", "needs": ["a"]}]
        (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": steps}))
        return load_pipeline("chain.yaml")

    def finish(pipeline, **changes):
        for step in pipeline.steps:
            step.makes.mkdir(parents=True, exist_ok=True)
            pipeline.record(step).parent.mkdir(exist_ok=True)
            record = {"fingerprint": pipeline.fingerprint(step), "outside": pipeline.outside(step), "finished": True}
            pipeline.record(step).write_text(json.dumps({**record, **changes}))

    def states(script):
        pipeline = load(script)
        return {pipeline.state(step) for step in pipeline.steps}

    finish(load(ours))
    assert load(ours).outside(load(ours).step("a")) == {"`train` of step `a`": "sft.py"}
    (tmp_path / "logs" / "events").write_text("1")
    assert states(ours) == {"done"}
    assert states("mine.py") == states(other) == {"new"}
    finish(load(ours), outside={})  # as an earlier version has written it
    assert states(ours) == {"done"}
    finish(load("mine.py"))
    assert states("mine.py") == {"done"}
    (tmp_path / "mine.py").write_text("2")
    assert states("mine.py") == {"new"}


def test_what_is_gone_has_done_its_part(chain, tmp_path):
    assert chain() == "cao"
    (tmp_path / "rows.jsonl").unlink()
    assert chain() == ""


def test_a_record_of_an_earlier_version_stands(chain, tmp_path):
    chain()
    for record in (tmp_path / "out" / ".pipeline").glob("*.json"):
        content = json.loads(record.read_text())
        del content["outside"]
        record.write_text(json.dumps(content))
    assert chain() == ""


def test_what_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/media", "out/made", "many"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "metadata.csv").write_text("id\n")
    (tmp_path / "data" / ".cache").write_text("")
    (tmp_path / "data" / "media" / "1.wav").write_bytes(b"1")
    for number in range(201):
        (tmp_path / "many" / f"{number}.jpg").write_bytes(b"1")
    recipe = {
        "dataset_path": "data",
        "datasets": [{"path": "many", "weight": 1.0}],
        "model_name_or_path": "org/name",
        "output_dir": "out",
        "feature_cache": "data/media",
        "teacher_model_name_or_path": "out/made",
        "instruction": "Where is it?\nSay so.",
        "steps": 3,
    }
    found = digest_outside(words_of(recipe), tmp_path / "out", [tmp_path / "out" / "made"])
    assert set(found) == {"data", "many"}
    assert found["data"].startswith("metadata.csv=")
    assert "," not in found["data"]
    assert found["many"].startswith("201 files, ")
    (tmp_path / "many" / "0.jpg").rename(tmp_path / "many" / "x.jpg")
    assert digest_outside(["many"], tmp_path / "out")["many"] != found["many"]
    words = ["--data=data", "--output", "out/x", ".", "synthetic:data", "x" * 5000, "-n", "no/such"]
    assert set(digest_outside(words, tmp_path / "out")) == {"data"}
