"""`aurora recipes`: a recipe as files of one's own."""

import filecmp
import re

import pytest
import yaml
from conftest import REPOSITORY

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.recipe_files import recipe_names, write_recipe
from aurora_trl.cli import main
from aurora_trl.data import DataError

RECIPES = REPOSITORY / "recipes"


def test_the_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == sorted(recipe_names())
    assert {path.parent.name for path in RECIPES.glob("*/pipeline.yaml")} <= set(recipe_names())
    assert "tiny: The four phases on the synthetic world, from random weights to the report." in lines


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_written_as_it_is(name, tmp_path):
    files = write_recipe(name, tmp_path)
    assert {"sft.py", "grpo.py", "accelerate", name} <= {path.name for path in (tmp_path / "recipes").iterdir()}
    assert len(files) == sum(path.is_file() for path in (RECIPES / name).rglob("*"))
    for file in (tmp_path / "recipes").rglob("*.*"):
        assert filecmp.cmp(file, RECIPES / file.relative_to(tmp_path / "recipes"), shallow=False)


def test_recipes_stand_beside_each_other(tmp_path, capsys):
    assert main(["recipes", "tiny", str(tmp_path / "mine")]) == 0
    assert main(["recipes", "own", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"next: cd {tmp_path / 'mine'} && aurora run recipes/own/pipeline.yaml --dry-run"
    )
    changed = tmp_path / "mine" / "recipes" / "sft.py"
    changed.write_text("print('mine')\n")
    assert main(["recipes", "videollama2", str(tmp_path / "mine")]) == 1
    assert f"{changed}: exists already with other content" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "recipes" / "videollama2").exists()


def test_the_demo_runs_from_there(tmp_path, monkeypatch, capsys):
    """All steps of the chain in a folder that is no checkout: files, YAMLs, scripts."""
    write_recipe("tiny", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "recipes/tiny/pipeline.yaml", "--dry-run"]) == 0
    steps = len(load_pipeline("recipes/tiny/pipeline.yaml").steps)
    assert f"recipes/tiny/pipeline.yaml: {steps} steps checked, all is well" in capsys.readouterr().out


def test_own_data_need_no_editing(checkpoint, world, tmp_path, monkeypatch, capsys):
    """Paths relative to where the command is given, which is not where the recipe is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(world)
    (tmp_path / "base").symlink_to(checkpoint)
    words = ["recipes", "own", "mine", "--data", "clips", "--model", "base", "--annotator", f"synthetic:{world}"]
    assert main(words) == 0
    monkeypatch.chdir(tmp_path / "mine")
    texts = {path.name: path.read_text() for path in (tmp_path / "mine" / "recipes" / "own").glob("*.yaml")}
    assert not any(re.search(r"data/own|models/own|qwen-omni", text) for text in texts.values())
    assert yaml.safe_load(texts["teacher.yaml"])["model_name_or_path"] == str(checkpoint)
    assert main(["run", "recipes/own/pipeline.yaml", "--dry-run"]) == 0
    pipeline = load_pipeline("recipes/own/pipeline.yaml")
    assert f"{pipeline.file}: {len(pipeline.steps)} steps checked, all is well" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("none", {}, "no recipe `none`; there are own, qwen3_omni, qwen3_vl, qwen_omni"),
        ("tiny", {"data": "x"}, "--data: the recipe `tiny` takes no such flag"),
        ("videollama2", {"model": "x"}, "--model: the recipe `videollama2` takes --data"),
        ("own", {"data": "my clips"}, "--data 'my clips': has a character that YAML needs quotes for; rename it"),
    ],
)
def test_what_a_recipe_does_not_take(name, values, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_recipe(name, tmp_path, values)
    assert not any(tmp_path.iterdir())


def test_a_folder_is_asked_for(capsys):
    assert main(["recipes", "tiny"]) == 1
    assert "name a folder for it, too: `aurora recipes tiny mine`" in capsys.readouterr().err
