"""Whatever is wrong, one line says what and where; nothing is run that came as data, and nothing is lost."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_adapters
import bad_checkpoints
import bad_commands
import bad_data
import bad_recipes
import bad_replies
import bad_reports
import bad_videos
import pytest
from conftest import REPOSITORY
from kinds import Kind, Place
from peft import get_peft_model

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.cli import main
from aurora_trl.models.checkpoints.adapters import describe_base, save_adapter
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

KINDS: list[Kind] = [
    *bad_checkpoints.KINDS,
    *bad_adapters.KINDS,
    *bad_commands.KINDS,
    *bad_replies.KINDS,
    *bad_reports.KINDS,
    *bad_data.KINDS,
    *bad_videos.KINDS,
    *bad_recipes.KINDS,
]


@pytest.fixture(scope="session")
def adapter(checkpoint, tmp_path_factory) -> Path:
    """An adapter of the checkpoint as a LoRA phase saves it, before its first step."""
    folder = tmp_path_factory.mktemp("checkpoints") / "adapter"
    model = AuroraModel.from_pretrained(checkpoint)
    groups = {"language_model", "seg_projector", "mask_decoder"}
    adapted = get_peft_model(model, lora_config(model, LoraArguments(use_lora=True), groups))
    adapted.save_pretrained(folder)
    save_adapter(adapted, folder, describe_base(str(checkpoint)), {})
    AuroraProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, checkpoint, adapter, world) -> Iterator[Place]:
    root = tmp_path / "place"
    root.mkdir()
    place = Place(root, checkpoint, adapter, world)
    yield place
    for kept in place.kept:
        kept.close()


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command, or of a recipe, in this process."""
    try:
        if words[:1] not in (["sft"], ["grpo"]):
            return main(words)
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(REPOSITORY / "recipes" / f"{words[0]}.py"), run_name="__main__")
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_the_table_is_long_and_its_names_are_distinct():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 80


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_one_line_says_what_is_wrong(kind, place, monkeypatch, capfd):
    words = kind.command(place)
    before = place.files()
    capfd.readouterr()
    code = run(words, monkeypatch)
    out, err = capfd.readouterr()
    assert code != 0, out + err
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.strip() and "%|" not in line]  # but for bars of progress
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], err
    for name in kind.named:
        assert name in lines[-1], lines[-1]
    assert not place.executed.exists()
    after = place.files()
    assert {name: after.get(name) for name in before} == before
