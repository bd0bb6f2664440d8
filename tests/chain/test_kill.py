"""A chain that is killed again and again ends with the same weights, texts and answers, to the bit."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
import yaml
from conftest import REPOSITORY
from launching import run_with
from small_chain import write_small_recipe

from aurora_trl.chain.definition import load_pipeline

PHASES = ("pretrained", "teacher", "sft", "reflective", "grpo")
TEXTS = ("cot", "described", "hard", "corrected", "reflective")
LEFT_OUT = ("evaluate-teacher", "evaluate-sft", "evaluate-reflective", "report")
SEED = 24
# An error in place of a test that hangs: a busy machine may take many times the minute that a chain needs.
LONGEST_SECONDS = 1800


@pytest.mark.slow
def test_killed_at_every_step_it_ends_the_same(forked, tmp_path):
    chain = write_small_recipe(tmp_path)
    chain["steps"] = [step for step in chain["steps"] if step["name"] not in LEFT_OUT]
    for step in chain["steps"]:
        if "train" in step:
            step["train"] = str(REPOSITORY / step["train"])
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(chain, sort_keys=False))

    def run(name):
        command = [*run_with(forked.folder), str(file), "--output_dir", str(tmp_path / name)]
        log = open(tmp_path / f"{name}.log", "a")  # noqa: SIM115  (a child's)
        return subprocess.Popen(command, env=forked.environment, stderr=log, stdout=log, process_group=0)

    assert run("whole").wait(timeout=LONGEST_SECONDS) == 0, (tmp_path / "whole.log").read_text()[-3000:]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    draw, hits = random.Random(SEED), []
    for step in load_pipeline(file, whole).steps:
        seconds = json.loads((whole / ".pipeline" / f"{step.name}.json").read_text())["seconds"]
        for _ in range(1 + (step.config is not None)):  # twice in a phase
            process, record = run("cut"), cut / ".pipeline" / f"{step.name}.json"
            while not record.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, seconds))  # on a machine that is less busy now, the step may be done by then
            if process.poll() is None:  # otherwise its number may be another's by now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits += [step.name] if not json.loads(record.read_text())["finished"] else []
    assert run("cut").wait(timeout=LONGEST_SECONDS) == 0, (tmp_path / "cut.log").read_text()[-3000:]
    assert len(hits) > len(chain["steps"]) / 4, hits
    assert_same(whole, cut)


def assert_same(whole, cut):
    for name in ("base", *PHASES):
        assert same_bytes(whole, cut, f"{name}/model.safetensors")
    for name in PHASES:
        first, second = (json.loads((root / name / "trainer_state.json").read_text()) for root in (whole, cut))
        assert first["global_step"] == second["global_step"] == first["max_steps"]
        assert [logged(entry) for entry in first["log_history"]] == [logged(entry) for entry in second["log_history"]]
    for name in TEXTS:
        assert same_bytes(whole, cut, f"{name}.jsonl")
    for name in ("cot", "described", "hard", "reflective"):
        # The first line has settings, the time of the weights' file among them.
        first, second = ((root / f"{name}.journal.jsonl").read_text().splitlines() for root in (whole, cut))
        assert first[1:] == second[1:]
    assert same_bytes(whole, cut, "eval/grpo/answers.jsonl")
    first, second = (json.loads((root / "eval" / "grpo" / "metrics.json").read_text()) for root in (whole, cut))
    for metrics, root in ((first, whole), (second, cut)):
        assert metrics["data"].pop("path") == str(root / "data")
    assert first == second
    files = [path.relative_to(cut).as_posix() for path in cut.rglob("*") if ".cut/" not in str(path)]
    assert not [name for name in files if "_unfinished" in name or "lock" in name or ".tmp" in name]


def same_bytes(whole, cut, name):
    return (whole / name).read_bytes() == (cut / name).read_bytes()


def logged(entry):
    """What does not depend on the machine's speed, nor on how much of a run was before a cut."""
    timed = ("time", "per_second", "runtime", "train_loss", "total_flos", "wait")
    return {name: value for name, value in entry.items() if not any(word in name for word in timed)}
