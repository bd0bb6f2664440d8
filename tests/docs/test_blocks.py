"""
Every code block of README, the documentation and the recipes' READMEs runs, or is read by what it is for.

Python runs page by page, in order, beside small checkpoints and a small world that stand where the pages say. Commands
are parsed by their own parsers, with the YAMLs that they name. One test per block: pytest counts them.
"""

import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from code_blocks import commands, read_blocks
from conftest import REPOSITORY
from PIL import Image
from videos import write_clip

from aurora_trl import AuroraGRPOConfig, AuroraSFTConfig
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.launched_phase import divide_words
from aurora_trl.chain.step_entries import STEP_KEYS
from aurora_trl.cli import build_parser
from aurora_trl.data.schema import COLUMNS, OPTIONAL_COLUMNS
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe

PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "recipes").rglob("README.md")),
]
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
# `tests/data/formats/test_own_data.py` runs that page beside the media that it names.
RUN_ELSEWHERE = REPOSITORY / "docs" / "data.md"
CONFIGS = {"sft": AuroraSFTConfig, "grpo": AuroraGRPOConfig}


@pytest.fixture(scope="module")
def workplace(drawing_checkpoint, world, tmp_path_factory):
    """A folder in which the pages' names stand for something."""
    folder = tmp_path_factory.mktemp("workplace")
    tiny = folder / "outputs" / "tiny"
    tiny.mkdir(parents=True)
    for name in ("base", "pretrained", "teacher", "sft", "reflective", "grpo"):
        (tiny / name).symlink_to(drawing_checkpoint)
    (tiny / "data").symlink_to(world)
    for name in ("clip", "other"):
        write_clip(folder / f"{name}.mp4", [100, 120, 140, 160, 180, 200])
    Image.new("RGB", (64, 48)).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def pages_run(workplace):
    """The names that a page's blocks have made, and how many of its blocks have run."""
    return {}


def run_up_to(block, pages_run):
    names, done = pages_run.setdefault(block.page, ({"__name__": "__page__"}, set()))
    runnable = [each for each in read_blocks(block.page) if each.language == "python" and each.reason is None]
    for each in runnable:
        if each.number <= block.number and each.number not in done:
            exec(compile(each.text, str(each), "exec"), names)
            done.add(each.number)


def check_phase(method, words):
    """The YAML and the flags of a phase, as its script reads them."""
    flags = ["--use_cpu", "true"]
    parse_recipe((RecipeArguments, LoraArguments, CONFIGS[method]), [*words, *flags])


def check_aurora(words):
    arguments = build_parser().parse_args(words)
    if arguments.command in CONFIGS:
        phase, launch = divide_words(arguments.command, arguments.words)
        launch_command_parser().parse_args([*launch, "script.py"])
        check_phase(arguments.command, phase)
    elif arguments.command == "run" and Path(arguments.pipeline).parts[0] == "recipes":
        load_pipeline(arguments.pipeline, arguments.output_dir, arguments.seed, arguments.num_processes)


def check_command(words):
    """Parse a command with the parser of what it starts."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # of the environment
        words = words[1:]
    name, *rest = words
    if name == "aurora":
        check_aurora(rest)
    elif name == "accelerate":
        assert rest[0] == "launch"
        arguments = launch_command_parser().parse_args(rest[1:])
        assert Path(arguments.training_script).is_file()
        if arguments.training_script_args:
            check_phase(Path(arguments.training_script).stem, arguments.training_script_args)
    elif name == "torchrun":
        check_aurora(rest[rest.index("aurora_trl.cli") + 1 :])
    elif name == "make":
        for target in rest:
            assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.M), target
    elif name == "pip":
        check_install(rest)
    elif name == "python" and rest[0] == "-m":
        module = Path(*rest[1].split("."))
        assert rest[1] == "venv" or module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), rest[1]
    elif name == "python":
        assert Path(rest[0]).is_file(), rest[0]
    elif not name.endswith("/bin/pip"):  # of another environment
        assert name in ("cd", "export", "vllm") or words == ["source", ".venv/bin/activate"], words


def check_install(words):
    assert words[0] == "install"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    what = words[-1]
    name, _, extras = what.rstrip("]").partition("[")
    assert name == ("." if words[1] == "-e" else project["name"]), what
    assert not extras or set(extras.split(",")) <= set(project["optional-dependencies"]), what


def check_yaml(text):
    """Keys of a recipe, or of a chain with its steps."""
    content = yaml.safe_load(text)
    known = {name for cls in (RecipeArguments, LoraArguments, *CONFIGS.values()) for name in cls.__dataclass_fields__}
    for step in content.pop("steps", ()):
        assert set(step) <= STEP_KEYS
        if "run" in step:
            check_command(commands(step["run"])[0])
        known |= {"output_dir", "seed", "include"}
    assert set(content) <= known


def check_rows(text):
    for line in text.splitlines():
        assert set(json.loads(line)) <= {*COLUMNS, *OPTIONAL_COLUMNS}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_works(block, request, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    if block.language == "bash":
        found = commands(block.text)
        assert found
        for words in found:
            check_command(words)
    elif block.language == "yaml":
        check_yaml(block.text)
    elif block.language == "json":
        check_rows(block.text)
    elif block.language == "python" and (block.reason is not None or block.page == RUN_ELSEWHERE):
        compile(block.text, str(block), "exec")
    elif block.language == "python":
        monkeypatch.chdir(request.getfixturevalue("workplace"))
        monkeypatch.setenv("HF_DATASETS_CACHE", os.getcwd())
        run_up_to(block, request.getfixturevalue("pages_run"))
    elif block.language != "text":
        assert re.fullmatch(r"[\w./{}\n -]+", block.text), "a block without a language is a tree of files"


def test_every_block_is_seen(capsys):
    """The number of blocks, and how few are not run."""
    languages = ("bash", "python", "yaml", "json", "text", "")
    counts = {name: sum(block.language == name for block in BLOCKS) for name in languages}
    assert sum(counts.values()) == len(BLOCKS)
    parsed = [str(block) for block in BLOCKS if block.reason is not None]
    with capsys.disabled():
        sys.stdout.write(f"\n{len(BLOCKS)} code blocks: {counts}; Python that is parsed only: {parsed}\n")
    assert len(parsed) <= 1
