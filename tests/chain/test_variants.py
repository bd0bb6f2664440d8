"""`set`, `include` and `--set`: variants of a chain without copies, and what they run again."""

import pytest
import yaml

from aurora_trl.chain.chain_files import read_settings
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.cli.main import main
from aurora_trl.data import DataError
from aurora_trl.text_files import read_yaml


@pytest.fixture
def chains(tmp_path):
    """A chain of two phases, and a study that includes it."""
    (tmp_path / "base" / "sub").mkdir(parents=True)
    write(tmp_path / "base" / "sft.yaml", {"output_dir": "out/sft", "max_steps": 5, "teacher": "out/teacher"})
    write(tmp_path / "base" / "grpo.yaml", {"model_name_or_path": "out/sft", "output_dir": "out/grpo"})
    steps = [
        {"name": "sft", "train": "recipes/sft.py", "config": "sft.yaml", "makes": "sft"},
        {"name": "grpo", "train": "recipes/grpo.py", "config": "grpo.yaml", "makes": "grpo", "needs": ["sft"]},
    ]
    write(tmp_path / "base" / "chain.yaml", {"output_dir": "out", "seed": 3, "steps": steps})
    rows = [
        {**steps[0], "name": "short", "config": "../base/sft.yaml", "makes": "short"},
        {**steps[1], "name": "grpo-short", "config": "../base/grpo.yaml", "makes": "grpo-short", "needs": ["short"]},
    ]
    rows[0]["set"] = {"max_steps": 2, "teacher": None}
    rows[1]["set"] = {"model_name_or_path": "{output_dir}/short"}
    (tmp_path / "study").mkdir()
    write(tmp_path / "study" / "study.yaml", {"include": "../base/chain.yaml", "steps": rows})
    return tmp_path


def write(file, content):
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def config(pipeline, name):
    return yaml.safe_load(pipeline.configs[pipeline.step(name).config])


def fingerprints(pipeline):
    return {step.name: pipeline.fingerprint(step) for step in pipeline.steps}


def test_a_step_sets_values_and_its_yaml_stays_as_it_is(chains):
    pipeline = load_pipeline(chains / "study" / "study.yaml")
    assert config(pipeline, "short") == {"output_dir": "out/short", "max_steps": 2, "seed": 3}
    assert config(pipeline, "grpo-short")["model_name_or_path"] == "out/short"
    assert pipeline.step("short").command[-1] == "out/configs/short.yaml"
    moved = load_pipeline(chains / "study" / "study.yaml", "elsewhere", 4)
    assert config(moved, "grpo-short") == {
        "model_name_or_path": "elsewhere/short",
        "output_dir": "elsewhere/grpo-short",
        "seed": 4,
    }
    assert fingerprints(load_pipeline(chains / "study" / "study.yaml", "elsewhere")) == fingerprints(pipeline)


def test_the_datasets_of_a_mixture_move_with_the_chain(chains):
    """Else another seed's chain, in a folder of its own, trains on the first one's data without a word."""
    mixture = {"datasets": [{"path": "out/data", "weight": 2}, {"path": "elsewhere.jsonl"}], "output_dir": "out/sft"}
    write(chains / "base" / "sft.yaml", mixture)
    own, second = (load_pipeline(chains / "base" / "chain.yaml", folder) for folder in ("out", "outputs/2"))
    assert yaml.safe_load(own.step("sft").config.read_text()) == mixture
    moved = [{"path": "outputs/2/data", "weight": 2}, {"path": "elsewhere.jsonl"}]
    assert config(second, "sft")["datasets"] == moved
    assert fingerprints(own) == fingerprints(second)
    rows = read_yaml(chains / "study" / "study.yaml")
    rows["steps"][0]["set"] = {"datasets": [{"path": "{output_dir}/data"}]}
    write(chains / "study" / "study.yaml", rows)
    pipeline = load_pipeline(chains / "study" / "study.yaml", "outputs/2")
    assert config(pipeline, "short")["datasets"] == [{"path": "outputs/2/data"}]


def test_a_chain_with_a_folder_of_its_own_works_in_it(chains):
    """The YAMLs that it takes from the chain it includes are written for that one's folder, and for its seed."""
    rows = read_yaml(chains / "study" / "study.yaml")
    rows["steps"][0]["set"] = {"max_steps": 2}
    write(chains / "study" / "study.yaml", {**rows, "output_dir": "mine", "seed": 5})
    write(chains / "base" / "grpo.yaml", {"model_name_or_path": "out/sft", "output_dir": "out/grpo", "seed": 3})
    for folder in (None, "outputs/2"):
        pipeline, used = load_pipeline(chains / "study" / "study.yaml", folder), folder or "mine"
        made = {"output_dir": f"{used}/short", "max_steps": 2, "teacher": f"{used}/teacher", "seed": 5}
        assert config(pipeline, "short") == made
        assert config(pipeline, "sft")["output_dir"] == f"{used}/sft"
        assert config(pipeline, "grpo")["model_name_or_path"] == f"{used}/sft"
    # Without a folder of its own it goes on in that of the chain; the seed is its own.
    write(chains / "study" / "study.yaml", {**rows, "seed": 5})
    pipeline = load_pipeline(chains / "study" / "study.yaml")
    assert config(pipeline, "grpo") == {"model_name_or_path": "out/sft", "output_dir": "out/grpo", "seed": 5}


@pytest.mark.parametrize("written", ["out", "out/", "./out", "x/../out", "{here}/out"])
def test_paths_move_however_they_are_written(chains, written, monkeypatch):
    """In a YAML, in `set`, in `--set` and in a command, for a second seed in a folder of its own."""
    monkeypatch.chdir(chains)
    chain = read_yaml(chains / "base" / "chain.yaml")
    chain["output_dir"] = written.format(here=chains)
    words = "evaluate out/sft --data=./out/data --annotator synthetic:out/data data/out outside out.jsonl"
    chain["steps"] += [
        {"name": "score", "run": f"aurora {words} {chains}/out/x --output {{output_dir}}/eval", "makes": "eval"},
        {**chain["steps"][1], "name": "hot", "makes": "hot", "set": {"model_name_or_path": "out//sft", "beta": 1}},
    ]
    write(chains / "base" / "chain.yaml", chain)
    settings = {"grpo": {"teacher": "./out/teacher", "dataset_path": "data/rows.jsonl"}}
    pipeline = load_pipeline(chains / "base" / "chain.yaml", "two", settings=settings)
    assert config(pipeline, "sft") == {"output_dir": "two/sft", "max_steps": 5, "teacher": "two/teacher", "seed": 3}
    assert config(pipeline, "hot")["model_name_or_path"] == "two/sft"
    assert config(pipeline, "grpo")["teacher"] == "two/teacher"
    assert config(pipeline, "grpo")["dataset_path"] == "data/rows.jsonl"
    moved = "evaluate two/sft --data=two/data --annotator synthetic:two/data data/out outside out.jsonl two/x"
    assert pipeline.step("score").command == ["aurora", *moved.split(), "--output", "two/eval"]
    own = load_pipeline(chains / "base" / "chain.yaml")
    assert own.step("score").command[2:7] == words.split()[1:6]
    assert fingerprints(own)["score"] == fingerprints(pipeline)["score"]


def test_a_path_inside_a_text_is_refused_where_it_would_stay(chains, capsys):
    chain = read_yaml(chains / "base" / "chain.yaml")
    chain["steps"].append({"name": "copy", "run": "bash -c 'cp out/sft/x {output_dir}/y'", "makes": "y"})
    chain["steps"].append({"name": "said", "run": "echo 'it ran out of memory' out-2", "makes": "z"})
    file = chains / "base" / "chain.yaml"
    write(file, chain)
    assert load_pipeline(file).step("copy").command[2] == "cp out/sft/x out/y"
    for flags in (["--dry-run"], []):
        assert main(["run", str(file), "--output_dir", str(chains / "two"), *flags]) == 1
        said = capsys.readouterr().err
        assert f"{file}: step `copy`: 'cp out/sft/x {{output_dir}}/y' names out inside a text" in said
        assert "write {output_dir} there, in `run` or `set`" in said
    assert not (chains / "two").exists()


def test_in_the_current_folder_what_steps_make_moves(chains, monkeypatch):
    """With `output_dir: .` every word may be a path in it."""
    monkeypatch.chdir(chains)
    write(chains / "base" / "grpo.yaml", {"model_name_or_path": "sft", "data": "rows.jsonl", "output_dir": "grpo"})
    chain = read_yaml(chains / "base" / "chain.yaml")
    write(chains / "base" / "chain.yaml", {**chain, "output_dir": "."})
    pipeline = load_pipeline(chains / "base" / "chain.yaml", "two")
    made = {"model_name_or_path": "two/sft", "data": "rows.jsonl", "output_dir": "two/grpo", "seed": 3}
    assert config(pipeline, "grpo") == made


def test_an_included_chain_shares_its_steps_and_outputs(chains):
    """What the chain itself has done is done for the study, which has the same folder and the same fingerprints."""
    own, study = load_pipeline(chains / "base" / "chain.yaml"), load_pipeline(chains / "study" / "study.yaml")
    assert [step.name for step in study.steps] == ["sft", "grpo", "short", "grpo-short"]
    assert (study.output_dir, study.seed) == (own.output_dir, own.seed)
    assert fingerprints(own).items() < fingerprints(study).items()
    assert [study.record(step) for step in study.steps[:2]] == [own.record(step) for step in own.steps]


def test_a_chain_that_two_others_include_comes_once(chains):
    write(chains / "study" / "other.yaml", {"include": ["../base/chain.yaml"], "steps": []})
    write(chains / "all.yaml", {"include": ["study/study.yaml", "study/other.yaml"], "steps": []})
    assert [step.name for step in load_pipeline(chains / "all.yaml").steps] == ["sft", "grpo", "short", "grpo-short"]


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ("set of a row", {"short", "grpo-short"}),
        ("set of a row's row", {"grpo-short"}),
        ("the included chain's YAML", {"sft", "grpo", "short", "grpo-short"}),
    ],
)
def test_what_changes_runs_again_with_what_needs_it(chains, change, rerun):
    study = chains / "study" / "study.yaml"
    before = fingerprints(load_pipeline(study))
    content = read_yaml(study)
    if change == "set of a row":
        content["steps"][0]["set"]["max_steps"] = 3
    elif change == "set of a row's row":
        content["steps"][1]["set"]["beta"] = 0.1
    else:
        write(chains / "base" / "sft.yaml", {"output_dir": "out/sft", "learning_rate": 1, "teacher": "out/teacher"})
    write(study, content)
    after = fingerprints(load_pipeline(study))
    assert {name for name in after if after[name] != before[name]} == rerun


def test_flags_of_a_run_reach_a_phase(chains):
    settings = read_settings(["short.max_steps=7", "sft.feature_cache=features", "sft.bf16=false"])
    assert settings == {"short": {"max_steps": 7}, "sft": {"feature_cache": "features", "bf16": False}}
    study = chains / "study" / "study.yaml"
    pipeline = load_pipeline(study, settings=settings)
    assert config(pipeline, "short")["max_steps"] == 7
    assert config(pipeline, "sft")["feature_cache"] == "features"
    assert config(pipeline, "sft")["output_dir"] == "out/sft"
    before, after = fingerprints(load_pipeline(study)), fingerprints(pipeline)
    assert all(after[name] != before[name] for name in after)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"include": "none.yaml", "steps": []}, "which is no file"),
        ({"include": 3, "steps": []}, "`include` must name another chain"),
        ({"include": "study.yaml", "steps": []}, "includes itself, through study.yaml"),
        ({"steps": []}, "a chain has `output_dir`"),
        ({"output_dir": "o", "steps": [{"name": "a", "run": "x", "makes": "a", "set": {"b": 1}}]}, "that trains"),
        (
            {
                "output_dir": "o",
                "steps": [
                    {
                        "name": "a",
                        "train": "recipes/sft.py",
                        "config": "../base/sft.yaml",
                        "makes": "a",
                        "set": {"output_dir": "b"},
                    }
                ],
            },
            "`output_dir` can not be set there: `makes` says",
        ),
    ],
)
def test_what_is_wrong_is_named(chains, content, message):
    study = chains / "study" / "study.yaml"
    write(study, content)
    with pytest.raises(DataError, match=message):
        load_pipeline(study)


@pytest.mark.parametrize("text", ["max_steps=3", "sft.max_steps", "sft.x=[1", "sft.max_steps=0100"])
def test_a_setting_that_can_not_be_read_is_named(text):
    with pytest.raises(DataError, match="--set"):
        read_settings([text])


def test_an_unknown_key_or_step_is_an_error_before_anything_runs(chains, capsys, monkeypatch):
    monkeypatch.chdir(chains)
    run = ["run", str(chains / "study" / "study.yaml"), "--set"]
    write(chains / "study" / "study.yaml", {"include": "../base/chain.yaml", "steps": []})
    assert main([*run, "sft.max_step=3"]) == 1
    assert "step `sft` sets `max_step`, which recipes/sft.py does not have; did you mean `max_steps`?" in (
        capsys.readouterr().err
    )
    assert main([*run, "sftt.max_steps=3"]) == 1
    assert "no step `sftt`; it has sft, grpo" in capsys.readouterr().err
    assert main([*run, "sft.activation_checkpointing_kwargs.use_reentrant=false"]) == 1
    assert (
        "is set with it: --set 'sft.activation_checkpointing_kwargs={use_reentrant: False}'" in capsys.readouterr().err
    )
    assert not (chains / "out").exists()


def test_paths_are_read_as_a_shell_reads_them(chains, tmp_path, monkeypatch, capsys):
    """`~` and variables, in a chain, in the YAML of a phase and behind a flag; else a folder of that name was made."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    own = tmp_path / "own"
    own.mkdir()
    phase = {"model_name_or_path": "~/base", "output_dir": "$SCRATCH/run/a", "dataset_path": "$SCRATCH/run/rows.jsonl"}
    (own / "a.yaml").write_text(yaml.safe_dump(phase))
    steps = [
        {"name": "rows", "run": "cp ~/my\\ rows ${SCRATCH}/run/rows.jsonl", "makes": "rows.jsonl"},
        {"name": "script", "run": "sh -c 'for i in 1; do echo $i; done'", "makes": "b"},
        {"name": "a", "train": "recipes/sft.py", "config": "a.yaml", "makes": "a"},
    ]
    write(own / "chain.yaml", {"output_dir": "$SCRATCH/run", "steps": steps})
    pipeline = load_pipeline(own / "chain.yaml")
    assert pipeline.output_dir == tmp_path / "scratch" / "run"
    rows, script, phase = pipeline.steps
    assert rows.command == ["cp", f"{tmp_path}/home/my rows", f"{tmp_path}/scratch/run/rows.jsonl"]
    assert script.command[2] == "for i in 1; do echo $i; done"
    moved = load_pipeline(own / "chain.yaml", output_dir="~/elsewhere")
    assert moved.steps[0].command[2] == f"{tmp_path}/home/elsewhere/rows.jsonl"
    content = yaml.safe_load(moved.configs[moved.step("a").config])
    assert content["model_name_or_path"] == f"{tmp_path}/home/base"
    assert content["dataset_path"] == f"{tmp_path}/home/elsewhere/rows.jsonl"
    before = [pipeline.fingerprint(step) for step in pipeline.steps]
    monkeypatch.setenv("SCRATCH", str(tmp_path / "other"))  # another machine: the same work
    pipeline = load_pipeline(own / "chain.yaml")
    assert [pipeline.fingerprint(step) for step in pipeline.steps] == before
    assert pipeline.output_dir == tmp_path / "other" / "run"
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(DataError, match="chain.yaml: '.SCRATCH/run': the environment variable SCRATCH is not set"):
        load_pipeline(own / "chain.yaml")
    assert main(["check-data", "--format=json", "~/none.jsonl"]) == 1
    assert f"{tmp_path}/home/none.jsonl" in capsys.readouterr().err
