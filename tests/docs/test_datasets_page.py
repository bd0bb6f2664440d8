"""docs/datasets.md names every format and protocol, and its recipe parses."""

import re

import yaml
from conftest import REPOSITORY

from aurora_trl import AuroraSFTConfig
from aurora_trl.data.formats.registry import FORMATS
from aurora_trl.evaluation.metrics import PROTOCOLS
from aurora_trl.training.arguments import RecipeArguments, parse_recipe

TEXT = (REPOSITORY / "docs" / "datasets.md").read_text()


def test_every_format_is_named():
    assert [name for name in FORMATS if f"`{name}`" not in TEXT] == []
    assert [name for name in ("rvos", "revos", "omniavs", "refcoco", "avss") if f"`{name}`" not in TEXT] == []
    assert set(re.findall(r"--protocol (\w+)", TEXT)) <= set(PROTOCOLS)


def test_the_mixture_parses(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    rest = {"model_name_or_path": "m", "output_dir": str(tmp_path / "out"), "bf16": False, "use_cpu": True}
    (tmp_path / "recipe.yaml").write_text(block + yaml.safe_dump(rest))
    recipe, _ = parse_recipe((RecipeArguments, AuroraSFTConfig), ["--config", str(tmp_path / "recipe.yaml")])
    assert [entry.name for entry in recipe.entries()] == ["refavs", "mevis", "refcocog"]
    assert [entry.weight for entry in recipe.entries()] == [4, 2, 1]
    assert [entry.eval_split for entry in recipe.entries()] == ["val", "valid_u", None]
