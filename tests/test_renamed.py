"""What earlier versions called otherwise still loads, and a line says so."""

import json
import logging

import pytest
import yaml

from aurora_trl import AuroraProcessor, AuroraSFTConfig
from aurora_trl.data import DataError, load_json
from aurora_trl.training.arguments import RecipeArguments, parse_recipe, save_recipe


def test_a_recipe(tmp_path, caplog):
    file = tmp_path / "old.yaml"
    settings = {"model_name_or_path": "m", "dataset_path": "d", "output_dir": str(tmp_path / "out"), "use_cpu": True}
    file.write_text(yaml.safe_dump({**settings, "bf16": False, "max_targets": 3}))
    with caplog.at_level(logging.WARNING):
        parsed = parse_recipe((RecipeArguments, AuroraSFTConfig), ["--config", str(file)])
    assert parsed[1].max_objects == 3
    assert [record.getMessage() for record in caplog.records if "max_targets" in record.getMessage()] == [
        f"{file}: `max_targets` is called `max_objects` now, and is read as that"
    ]
    save_recipe(parsed, ["--config", str(file)])
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["max_objects"] == 3


def test_a_checkpoint(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "aurora_processor.json"
    content = json.loads(file.read_text())
    content["max_targets"] = content.pop("max_objects") + 1
    file.write_text(json.dumps(content))
    assert AuroraProcessor.from_pretrained(tmp_path).max_objects == 2


def test_rows(tmp_path):
    row = {"id": "1", "reference": "both", "video": "a.mp4", "num_targets": 2}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert load_json(file)["num_objects"] == [2]
    file.write_text(json.dumps({**row, "num_objects": 2}) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl.*`num_targets` is what `num_objects` was called"):
        load_json(file)
