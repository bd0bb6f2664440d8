"""The chain: skipped when done, resumed when cut, run again when changed, and nothing lost."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import REPOSITORY
from launching import run_with
from small_chain import write_small_recipe

from aurora_trl import locks
from aurora_trl.chain import runner
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.runner import run_pipeline
from aurora_trl.cli.main import main
from aurora_trl.data import DataError, save_json
from aurora_trl.locks import LOCK_FILE, RunLock


def write_chain(folder, **changes):
    """Three steps that append to a log: a, b from a, c from neither."""
    script = folder / "step.py"
    script.write_text(
        "import sys, pathlib\n"
        "name, target, log = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])\n"
        "log.parent.mkdir(parents=True, exist_ok=True)\n"
        "log.open('a').write(name)\n"
        "if (log.parent.parent / ('fail_' + name[0])).exists(): sys.exit(3)\n"
        "target.write_text(name)\n"
    )
    commands = {"a": "a", "b": "b", "c": "c", **changes}
    steps = [
        {
            "name": name,
            "run": f"{sys.executable} {script} {command} {{output_dir}}/{name}.txt {{output_dir}}/log",
            "makes": f"{name}.txt",
            "needs": ["a"] if name == "b" else [],
        }
        for name, command in commands.items()
    ]
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(folder / "out"), "seed": 1, "steps": steps}))
    return load_pipeline(file)


def log(pipeline):
    return (pipeline.output_dir / "log").read_text()


def is_running(pid):
    """Whether there is such a process, and not just what its parent has not taken note of."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_done_is_skipped(tmp_path, capsys):
    pipeline = write_chain(tmp_path)
    run_pipeline(pipeline)
    assert log(pipeline) == "abc"
    run_pipeline(pipeline)
    assert log(pipeline) == "abc"
    assert capsys.readouterr().err.count(": done") == 5  # three steps, and the whole twice
    (pipeline.output_dir / "b.txt").unlink()
    run_pipeline(pipeline)
    assert log(pipeline) == "abcb"


def test_a_clock_that_is_set_back_makes_no_time_negative(tmp_path, monkeypatch):
    clock = iter(range(10**6, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    pipeline = write_chain(tmp_path)
    run_pipeline(pipeline)
    assert all(json.loads(pipeline.record(step).read_text())["seconds"] >= 0 for step in pipeline.steps)


def test_a_change_runs_what_depends_on_it_and_keeps_the_old(tmp_path):
    run_pipeline(write_chain(tmp_path))
    changed = write_chain(tmp_path, a="a2")
    assert [changed.state(step) for step in changed.steps] == ["new", "new", "done"]
    run_pipeline(changed)
    assert log(changed) == "abca2b"
    assert (changed.output_dir / "a.txt").read_text() == "a2"
    assert (changed.output_dir / "a.txt.previous").read_text() == "a"


def test_what_was_cut_never_replaces_what_was_whole(tmp_path):
    """Settings are changed, the step is cut, and the settings are changed again."""
    run_pipeline(write_chain(tmp_path))
    (tmp_path / "out" / "b.txt").write_text("whole")
    (tmp_path / "fail_b").touch()
    for setting in ("b2", "b3", "b4"):
        changed = write_chain(tmp_path, b=setting)
        with pytest.raises(DataError, match="exit code 3"):
            run_pipeline(changed)
        (tmp_path / "out" / "b.txt").write_text(f"half of {setting}")
    assert (tmp_path / "out" / "b.txt.previous").read_text() == "whole"
    assert (tmp_path / "out" / "b.txt.cut").read_text() == "half of b3"
    (tmp_path / "fail_b").unlink()
    run_pipeline(changed)
    assert (tmp_path / "out" / "b.txt").read_text() == "b4"
    assert (tmp_path / "out" / "b.txt.cut").read_text() == "half of b4"
    assert (tmp_path / "out" / "b.txt.previous").read_text() == "whole"


def test_a_failure_stops_the_chain_and_the_same_command_continues(tmp_path):
    pipeline = write_chain(tmp_path)
    (tmp_path / "fail_b").touch()
    with pytest.raises(DataError, match="step `b` ended with exit code 3"):
        run_pipeline(pipeline)
    assert log(pipeline) == "ab"
    (tmp_path / "fail_b").unlink()
    run_pipeline(pipeline)
    assert log(pipeline) == "abbc"


def test_what_a_step_started_ends_with_the_chain(tmp_path):
    """A SIGTERM to `aurora run` alone, as `kill` sends it."""
    sleeper = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(3000)"
    script, file = tmp_path / "launcher.py", tmp_path / "chain.yaml"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {sleeper!r}, sys.argv[1]])\n")
    pid = tmp_path / "pid"
    step = {"name": "a", "run": f"{sys.executable} {script} {pid}", "makes": "a.txt"}
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "seed": 1, "steps": [step]}))
    chain = subprocess.Popen([sys.executable, "-m", "aurora_trl.cli", "run", str(file)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 500  # an error in place of a test that hangs
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    chain.terminate()
    assert b"step `a` was ended by the signal SIGTERM" in chain.communicate(timeout=500)[1]
    assert chain.returncode == 1
    while is_running(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_one_chain_at_a_time_in_a_folder(tmp_path):
    """The second is refused by name; what one that was killed had started is ended, and blocks nobody."""
    script, file, pid, quick = tmp_path / "step.py", tmp_path / "chain.yaml", tmp_path / "pid", tmp_path / "quick"
    script.write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "pid, quick, target = map(pathlib.Path, sys.argv[1:])\n"
        "if not quick.exists():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3000)'])\n"
        "    pid.write_text(f'{os.getpid()} {child.pid} .')\n"
        "    child.wait()\n"
        "target.write_text('made')\n"
    )
    step = {"name": "a", "run": f"{sys.executable} {script} {pid} {quick} {{output_dir}}/a.txt", "makes": "a.txt"}
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "seed": 1, "steps": [step]}))
    command = [sys.executable, "-m", "aurora_trl.cli", "run", str(file)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (pid.is_file() and pid.read_text().endswith(".")):
        assert first.poll() is None
        time.sleep(0.05)
    second = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert second.returncode == 1
    assert f"another run is writing it: process {first.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1
    first.kill()
    left = [int(word) for word in pid.read_text().split()[:2]]
    assert all(map(is_running, left))
    quick.touch()
    third = subprocess.run(command, capture_output=True, text=True, timeout=500)
    first.wait()
    assert third.returncode == 0, third.stderr
    assert f"had left running: {left}" in third.stderr
    assert not any(map(is_running, left))
    assert (tmp_path / "out" / "a.txt").read_text() == "made"
    assert not (tmp_path / "out" / ".pipeline" / "lock").exists()


def test_a_folder_that_a_run_outside_the_chain_writes_is_not_moved(tmp_path):
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    record, parent = RunLock(folder / LOCK_FILE, folder).record, os.getppid()
    living = {**record, "process": parent, "start": locks._start_of(parent)}
    (folder / LOCK_FILE).write_text(json.dumps(living))
    step = {"name": "a", "run": f"mkdir -p {folder}/new", "makes": "a"}
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": [step]}))
    with pytest.raises(DataError, match=rf"{folder}: another run is writing it: process {parent} on "):
        run_pipeline(load_pipeline(file))
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    (folder / LOCK_FILE).write_text(json.dumps({**living, "start": "1"}))  # it has ended
    run_pipeline(load_pipeline(file))
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_data_step_continues_from_its_journal_but_not_with_other_settings(tmp_path):
    script = tmp_path / "step.py"
    script.write_text(
        "import sys, pathlib\n"
        "output, fails = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).exists()\n"
        "journal = output.with_name('rows.journal.jsonl')\n"
        "with journal.open('a') as file: file.write(sys.argv[3])\n"
        "if fails: sys.exit(9)\n"
        "output.write_text(journal.read_text())\n"
    )

    def run_chain(setting):
        run = f"{sys.executable} {script} {{output_dir}}/rows.jsonl {tmp_path}/fails {setting}"
        step = {"name": "rows", "run": run, "makes": "rows.jsonl"}
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": [step]}))
        run_pipeline(load_pipeline(file))

    (tmp_path / "fails").touch()
    with pytest.raises(DataError, match="exit code 9"):
        run_chain("a")
    (tmp_path / "fails").unlink()
    run_chain("a")  # continues
    assert (tmp_path / "out" / "rows.jsonl").read_text() == "aa"
    run_chain("b")  # begins anew, and keeps what was
    assert (tmp_path / "out" / "rows.jsonl").read_text() == "b"
    assert (tmp_path / "out" / "rows.jsonl.previous").read_text() == "aa"
    assert (tmp_path / "out" / "rows.journal.jsonl.previous").read_text() == "aa"


def test_all_that_a_step_wrote_makes_room_for_its_next_run(rows, world, tmp_path):
    """`aurora correct` refuses a file of `--corrected` whose journal is gone."""
    target = "I see a boat and I hear it. So the target is the boat. It is [SEG]."
    known = [{**row, "target": target} for row in rows if not row["is_null"]]
    save_json(known, tmp_path / "plain.jsonl")
    run = (
        f"aurora correct {{output_dir}}/hard.jsonl --annotator synthetic:{world} --plain {tmp_path}/plain.jsonl "
        "--corrected={output_dir}/corrected.jsonl --output {output_dir}/reflective.jsonl"
    )
    file, out = tmp_path / "chain.yaml", tmp_path / "out"
    steps = [{"name": "correct", "run": run, "makes": "reflective.jsonl"}]
    file.write_text(yaml.safe_dump({"output_dir": str(out), "steps": steps}))
    pipeline = load_pipeline(file)
    for hard in (known[:2], known[2:5]):
        save_json(hard, out / "hard.jsonl")
        runner._clear_place(pipeline, pipeline.steps[0])
        assert main(pipeline.steps[0].command[1:]) == 0
        assert len((out / "corrected.jsonl").read_text().splitlines()) == len(hard)
    assert len((out / "corrected.jsonl.previous").read_text().splitlines()) == 2
    assert (out / "reflective.journal.jsonl.previous").is_file()


def test_a_step_takes_nothing_of_another_away(tmp_path):
    """Files whose names begin as its own do, be they another step's or of no step; its own are all of its run."""
    own = ["cot.jsonl", "cot.journal.jsonl", "cot.failed.jsonl", "cot.report.json", "cot.part-1.journal.jsonl"]
    kept = ["cot.fixed.jsonl", "cot.fixed.journal.jsonl", "cot.part-2.jsonl", "cot.part-2.journal.jsonl", "cot.x.json"]
    steps = [
        {"name": name, "run": f"touch {{output_dir}}/{name}", "makes": name}
        for name in ("cot.jsonl", "cot.fixed.jsonl", "cot.part-2.jsonl")
    ]
    file, out = tmp_path / "chain.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump({"output_dir": str(out), "steps": steps}))
    out.mkdir()
    for name in (*own, *kept):
        (out / name).write_text(name)
    runner._clear_place(load_pipeline(file), load_pipeline(file).steps[0])
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{name}.previous" for name in own), *kept])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("grpo", "grpo", "steps `a` and `b` both write .*/grpo; name another"),
        ("grpo", "./grpo/eval", "step `b` writes .*/grpo/eval inside what step `a` makes"),
        ("eval/grpo", "eval", "step `a` writes .*/eval/grpo inside what step `b` makes"),
        ("c.jsonl", "corrected.jsonl", "steps `a` and `b` both write .*/corrected.jsonl"),
        ("c.jsonl", "x.jsonl", None),
        ("eval/a", "eval/b", None),
    ],
)
def test_two_steps_do_not_write_one_place(first, second, message, tmp_path):
    run = "aurora correct h --plain p --corrected {output_dir}/corrected.jsonl --output {output_dir}/c.jsonl"
    steps = [{"name": "a", "run": run, "makes": first}, {"name": "b", "run": "true", "makes": second}]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": steps}))
    if message is None:
        assert len(load_pipeline(file).steps) == 2
        return
    with pytest.raises(DataError, match=message):
        load_pipeline(file)


def test_only_before_and_dry_run(tmp_path, capsys):
    pipeline = write_chain(tmp_path)
    run_pipeline(pipeline, dry_run=True)
    assert "step.py a " in capsys.readouterr().err
    assert not pipeline.output_dir.exists()
    with pytest.raises(DataError, match="step `b` needs a, not done yet"):
        run_pipeline(pipeline, only="b")
    run_pipeline(pipeline, before="b")
    assert log(pipeline) == "a"
    run_pipeline(pipeline, only="b")
    assert log(pipeline) == "ab"


def test_bad_chains_name_the_key(tmp_path):
    file = tmp_path / "chain.yaml"
    good = {"name": "a", "run": "true", "makes": "a"}
    for content, message in (
        ({"steps": []}, "a chain has `output_dir`"),
        ({"output_dir": "o", "stepps": []}, "stepps"),
        ({"output_dir": "o", "steps": [{**good, "mades": 1}]}, "unknown key `mades`"),
        ({"output_dir": "o", "steps": [{**good, "needs": ["z"]}]}, "step `a` needs `z`, and no step before it"),
        ({"output_dir": "o", "steps": [good, good]}, "two steps are called `a`"),
        ({"output_dir": "o", "steps": [{**good, "makes": "{output_dir}/a"}]}, "`makes` must be inside `output_dir`"),
        *(
            ({"output_dir": "o", "steps": [{**good, "run": run}]}, "`run` holds .*, and is no line of a shell")
            for run in ("a > b", "a >b", "a 2>&1", "a && b", "a; b", "a | b", "a &")
        ),
        ({"output_dir": "o", "steps": [{**good, "train": "x"}]}, "either `run` or `train`"),
    ):
        file.write_text(yaml.safe_dump(content))
        with pytest.raises(DataError, match=message):
            load_pipeline(file)
    for quoted in ("sh -c 'a && b > c; d'", "find . -exec a \\\\;", 'a "x > y" "b;"', "a --x=b>c"):
        file.write_text(yaml.safe_dump({"output_dir": "o", "steps": [{**good, "run": quoted}]}))
        load_pipeline(file)
    with pytest.raises(DataError, match="no such file"):
        load_pipeline(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("no-such-program x", "step `a`: no-such-program can not be started: No such file or directory"),
        (
            "sh -c 'kill -9 $$'",
            "step `a` was ended by the signal SIGKILL, as where a machine's or a job's memory is full",
        ),
        ("sh -c 'exit 137'", "by the signal SIGKILL"),
        ("sh -c 'exit 200'", "ended with exit code 200"),
    ],
)
def test_how_a_step_ended_is_named(run, message, tmp_path):
    file = tmp_path / "chain.yaml"
    steps = [{"name": "a", "run": run, "makes": "a"}]
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "o"), "steps": steps}))
    with pytest.raises(DataError, match=message):
        run_pipeline(load_pipeline(file))


def test_a_phase_that_writes_elsewhere_is_not_trained(tmp_path):
    steps = [
        {"name": "a", "run": "touch {output_dir}/a", "makes": "a"},
        {"name": "b", "train": "recipes/sft.py", "config": "b.yaml", "makes": "b"},
    ]
    (tmp_path / "b.yaml").write_text(f"output_dir: {tmp_path}/out/elsewhere\n")
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": steps}))
    with pytest.raises(DataError, match="b.yaml: `output_dir` .*/out/elsewhere, but `makes` .*/out/b"):
        run_pipeline(load_pipeline(tmp_path / "chain.yaml"))
    assert not (tmp_path / "out" / "a").exists()


def test_another_folder_and_seed_reach_the_training_steps():
    pipeline = load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", "elsewhere/x", 7)
    step = pipeline.step("sft")
    assert step.config == Path("elsewhere/x/configs/sft.yaml")
    content = yaml.safe_load(pipeline.configs[step.config])
    assert content["seed"] == 7
    assert content["output_dir"] == "elsewhere/x/sft"
    assert content["model_name_or_path"] == "elsewhere/x/pretrained"
    assert content["teacher_model_name_or_path"] == "elsewhere/x/teacher"
    own = load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml")
    assert own.step("sft").command == [
        "accelerate",
        "launch",
        "recipes/sft.py",
        "--config",
        str(REPOSITORY / "recipes" / "tiny" / "sft.yaml"),
    ]
    assert not own.configs


@pytest.fixture
def small_chain(tmp_path):
    """The small recipe's pipeline, whose steps find their scripts from any folder."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    chain = write_small_recipe(folder)
    for step in chain["steps"]:
        if "train" in step:
            step["train"] = str(REPOSITORY / step["train"])
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(chain, sort_keys=False))
    return folder / "pipeline.yaml"


@pytest.mark.slow
def test_the_four_phases_end_to_end(forked, small_chain, tmp_path):
    """The real commands, the real trainers: data to report; then again, and nothing is run."""
    output = tmp_path / "run"
    command = [*run_with(forked.folder), str(small_chain), "--output_dir", str(output), "--seed", "2"]
    first = forked.run(command)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "accelerate launch" in first.stderr
    assert "min left" in first.stderr
    for phase in ("teacher", "sft", "reflective", "grpo"):
        assert (output / phase / "model.safetensors").is_file()
        metrics = json.loads((output / "eval" / phase / "metrics.json").read_text())
        assert set(metrics["splits"]) == {"test_s", "test_u", "test_n"}
    assert set(json.loads((output / "eval" / "grpo" / "metrics.json").read_text())["swaps"]) == {
        "audio",
        "video",
        "reference",
    }
    assert f"The report: {output / 'report.html'}" in first.stderr
    assert "output_dir: outputs/tiny" in (output / "report.html").read_text()  # the chain's YAML
    report = (output / "report.md").read_text()
    for title in ("What each phase brought", "What the model listens to", "Training", "Good", "Typical", "Bad"):
        assert title in report
    for picture in ("curves_supervised.png", "curves_grpo.png", "good_1.png", "bad_1.png"):
        assert (output / "pictures" / picture).stat().st_size > 5000
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert "accelerate launch" not in again.stderr


@pytest.mark.slow
def test_grpo_without_arguments_takes_the_tiny_recipe_and_makes_what_it_needs(tmp_path):
    """In a copy of the repository, whose tiny recipe is small and short: its GRPO starts from the first weights."""
    for name in ("aurora_trl", "recipes"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tiny = tmp_path / "recipes" / "tiny"
    chain = write_small_recipe(tiny)
    grpo = yaml.safe_load((tiny / "grpo.yaml").read_text())
    (tiny / "grpo.yaml").write_text(yaml.safe_dump({**grpo, "model_name_or_path": "outputs/tiny/base"}))
    chain["steps"] = [step for step in chain["steps"] if step["name"] in ("data", "base", "cot", "grpo")]
    chain["steps"][-1]["needs"] = ["data", "base"]
    (tiny / "pipeline.yaml").write_text(yaml.safe_dump(chain, sort_keys=False))
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "recipes/grpo.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    for line in ("[1/2] data: about", "aurora synth outputs/tiny/data --clips 20 ", "[2/2] base: about"):
        assert line in result.stderr
    made = tmp_path / "outputs" / "tiny"
    assert {path.name for path in made.iterdir()} == {".pipeline", "data", "base", "grpo"}  # not what it does not need
    assert json.loads((made / "grpo" / "trainer_state.json").read_text())["global_step"] == 2
    assert yaml.safe_load((made / "grpo" / "recipe.yaml").read_text())["model_name_or_path"] == "outputs/tiny/base"
