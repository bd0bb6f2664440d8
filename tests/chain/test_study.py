"""`recipes/study`: every row's YAML is parsed, and runs for a few steps in one chain, shared phases once."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from launching import run_with
from small_chain import SMALL_FLAGS, write_small_recipe

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.set_keys import CONFIGS, require_known_keys
from aurora_trl.cli import build_parser
from aurora_trl.evaluation.study.published import TABLES
from aurora_trl.text_files import read_yaml
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe

STUDY = REPOSITORY / "recipes" / "study"
CHAINS = [STUDY / "tiny.yaml", STUDY / "videollama2.yaml"]


@pytest.mark.parametrize("file", CHAINS, ids=lambda file: file.stem)
def test_every_row_of_the_tables_is_evaluated_once(file):
    pipeline = load_pipeline(file)
    names = [step.name for step in pipeline.steps]
    assert len(names) == len(set(names))
    made = {str(step.makes.relative_to(pipeline.output_dir)) for step in pipeline.steps}
    wanted = {row.evaluation for table in TABLES for row in table.rows if row.evaluation}
    assert {f"eval/{name}" for name in wanted} <= made
    tables = pipeline.step("tables")
    assert {f"evaluate-{name}" for name in wanted} == set(tables.needs)
    require_known_keys(pipeline)


@pytest.mark.parametrize("file", CHAINS, ids=lambda file: file.stem)
def test_every_row_is_parsed(file, tmp_path):
    pipeline = load_pipeline(file)
    assert {step.name for step in parse_rows(pipeline, tmp_path)} > {"sft-no-cot", "grpo-no-reflective", "s4"}
    phases = [step.name for step in load_pipeline(file.parent.parent / file.stem / "pipeline.yaml").steps]
    assert names_of(pipeline)[: len(phases)] == phases


def test_every_part_beyond_the_paper_is_parsed_and_scored(tmp_path):
    """Each part of a stronger `[SEG]` alone and all together, one value apart from the demo's phase."""
    pipeline = load_pipeline(STUDY / "beyond.yaml")
    require_known_keys(pipeline)
    rows = {step.name: step for step in parse_rows(pipeline, tmp_path)}
    parts = [rows[f"sft-{part}"].changes for part in ("layers", "spatial", "existence", "alignment")]
    assert {key: value for part in parts for key, value in part.items()} == rows["sft-strong"].changes
    made = {str(step.makes.relative_to(pipeline.output_dir)) for step in pipeline.steps}
    assert {f"eval/{name}" for name in rows if name.startswith("sft-")} < made
    for step in pipeline.steps:
        if step.config is None:
            build_parser().parse_args(step.command[1:])


def parse_rows(pipeline, tmp_path):
    """The steps of a study that set something, their YAMLs read as a run reads them."""
    rows = [step for step in pipeline.steps if step.changes]
    for step in rows:
        copy = tmp_path / step.config.name
        copy.write_text(pipeline.configs[step.config])
        script = Path(step.command[step.command.index("--config") - 1])
        flags = ["--config", str(copy), "--use_cpu", "true"]
        recipe, _, config = parse_recipe((RecipeArguments, LoraArguments, CONFIGS[script.stem]), flags)
        assert config.output_dir == str(step.makes)
        for key, value in step.changes.items():
            if isinstance(value, str) and "{output_dir}" in value:
                assert getattr(recipe, key) == value.replace("{output_dir}", str(pipeline.output_dir))
    return rows


def names_of(pipeline):
    return [step.name for step in pipeline.steps]


@pytest.mark.slow
def test_every_row_runs_for_a_few_steps(forked, tmp_path):
    """The study's own file, on small numbers of the demo's: one chain, in which each phase is trained once."""
    for name in ("tiny", "study"):
        (tmp_path / name).mkdir()
    chain = write_small_recipe(tmp_path / "tiny")
    chain["steps"] = [step for step in chain["steps"] if step["name"] not in ("evaluate-teacher", "report")]
    study = read_yaml(STUDY / "tiny.yaml")
    for step in [*chain["steps"], *study["steps"]]:
        if "train" in step:
            step["train"] = str(REPOSITORY / step["train"])
        else:
            words = step["run"].split()
            for flag, value in SMALL_FLAGS.items():
                if flag in words:
                    words[words.index(flag) + 1] = value
            if words[1] == "evaluate":  # of a flag that comes twice the last counts
                words += ["--max-rows", "2", "--max-new-tokens", "8", "--swaps"]
                words += [] if "--splits" in words else ["--splits", "test_s", "test_u"]
            step["run"] = " ".join(words)
    for name, content in (("tiny/pipeline.yaml", chain), ("study/tiny.yaml", study)):
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    output = tmp_path / "out"
    command = [*run_with(forked.folder), str(tmp_path / "study" / "tiny.yaml"), "--output_dir", str(output)]
    long = [step["name"] for step in study["steps"] if "max_steps" in step.get("set", {})]
    result = forked.run([*command, "--set", *(f"{name}.max_steps=2" for name in long)])
    assert result.returncode == 0, result.stderr[-4000:]
    trained = [line for line in result.stderr.splitlines() if line.startswith("    accelerate launch")]
    assert len(trained) == len(set(trained)) == 5 + 13
    for phase in [step["makes"] for step in study["steps"] if "train" in step]:
        assert json.loads((output / phase / "trainer_state.json").read_text())["global_step"] > 0
    assert "| ours | not run |" not in (output / "tables.md").read_text()
