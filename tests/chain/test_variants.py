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


@pytest.mark.parametrize("text", ["max_steps=3", "sft.max_steps", "sft.x=[1"])
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
    assert not (chains / "out").exists()
