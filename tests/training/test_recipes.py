"""Recipes: every YAML is parsed, every phase runs from its YAML, what is wrong is one line."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from layouts import write_ms3, write_s4
from video_layouts import write_mevis

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraSFTConfig
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.launch import read_launch
from aurora_trl.cli import build_parser
from aurora_trl.data import DataError, load_refavs, save_json
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe, save_recipe

RECIPES = REPOSITORY / "recipes"
TINY = sorted(path for path in (RECIPES / "tiny").rglob("*.yaml") if path.name != "pipeline.yaml")
POLICIES = ("videollama2", "videollama2/strong", "qwen_omni", "qwen3_omni", "videollama3")
PUBLISHED = [
    RECIPES / policy / f"{phase}.yaml" for policy in POLICIES for phase in ("teacher", "sft", "reflective", "grpo")
]
OWN = sorted(path for path in (RECIPES / "own").glob("*.yaml") if path.name != "pipeline.yaml")
# Of a policy that writes boxes: GRPO from published weights, and what may come before it.
QWEN_VL = [RECIPES / "qwen_vl" / f"{phase}.yaml" for phase in ("sft", "grpo")]
PHASES = [*TINY, *PUBLISHED, *OWN, *QWEN_VL]
PIPELINES = [RECIPES / name / "pipeline.yaml" for name in ("tiny", *POLICIES, "own")]


BOX_PIPELINES = [RECIPES / name / "pipeline.yaml" for name in ("tiny/boxes", "qwen_vl", "qwen3_vl")]


def config_class(path: Path) -> type:
    return AuroraGRPOConfig if path.stem.startswith("grpo") else AuroraSFTConfig


def test_every_yaml_is_known():
    known = {*PHASES, *PIPELINES, *BOX_PIPELINES, *(RECIPES / "accelerate").glob("*.yaml")}
    known |= {
        RECIPES / "study" / f"{name}.yaml" for name in ("tiny", "videollama2", "beyond")
    }  # tests/chain/test_study.py
    assert set(RECIPES.rglob("*.yaml")) == known


@pytest.mark.parametrize("path", PHASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_phase_yaml_is_parsed(path):
    flags = ["--config", str(path), "--use_cpu", "true"]
    recipe, _, config = parse_recipe((RecipeArguments, LoraArguments, config_class(path)), flags)
    content = yaml.safe_load(path.read_text())
    assert recipe.model_name_or_path == content["model_name_or_path"]
    lengths = (config.max_steps, config.num_train_epochs)
    assert lengths == (content.get("max_steps", -1), content.get("num_train_epochs", 3))
    assert path.read_text().startswith("#")  # what it is, how it is launched, what it reached


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.parent.name)
def test_pipeline_yaml_is_parsed(path):
    pipeline = load_pipeline(path)
    names = [step.name for step in pipeline.steps]
    assert [name for name in names if name in ("teacher", "sft", "mine", "correct", "reflective", "grpo")] == [
        "teacher",
        "sft",
        "mine",
        "correct",
        "reflective",
        "grpo",
    ]
    for step in pipeline.steps:
        assert all(names.index(needed) < names.index(step.name) for needed in step.needs)
        if step.config is not None:
            assert step.command[:2] == ["accelerate", "launch"]
            assert step.command[step.command.index("--config") + 1] == str(step.config)


@pytest.mark.parametrize("path", BOX_PIPELINES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_chains_of_policies_that_write_boxes(path, tmp_path):
    """Their phases say so themselves, and start from what the step before made."""
    pipeline = load_pipeline(path, output_dir=tmp_path)
    steps = {step.name: step for step in pipeline.steps}
    for file, text in pipeline.configs.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    for name in {"sft", "grpo"} & set(steps):
        config = config_class(Path(name))
        recipe, _, args = parse_recipe(
            (RecipeArguments, LoraArguments, config), ["--config", str(steps[name].config), "--use_cpu", "true"]
        )
        assert args.mask_source == "box"
        assert not args.uses_mask_losses
        assert Path(recipe.model_name_or_path) in [steps[needed].makes for needed in steps[name].needs]
        assert Path(args.output_dir) == steps[name].makes
    assert {"base", "grpo", "evaluate-grpo"} <= set(steps)


@pytest.mark.parametrize("path", PIPELINES[1:-1], ids=lambda path: path.parent.name)
def test_a_published_chain_uses_every_gpu(path):
    for processes, supervised, grpo in ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (64, 8, 24)):
        pipeline = load_pipeline(path, num_processes=processes)
        for step in pipeline.steps:
            if step.config is not None:
                used = int(step.command[step.command.index("--num_processes") + 1])
                assert used == (grpo if step.name == "grpo" else supervised)
            elif step.name in ("cot", "mine") or step.name.startswith("evaluate"):
                assert ("torchrun" in step.command) == (processes > 1)
                assert processes == 1 or step.command[3] == str(processes)


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_yaml_is_parsed(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    several_machines = path.stem.endswith("_nodes")
    assert config.num_processes == (1 if path.stem == "single" else 16 if several_machines else 2)
    assert config.num_machines == (2 if several_machines else 1)
    if config.distributed_type == "DEEPSPEED":  # each machine starts its own processes
        assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard"
    assert read_launch(path).num_processes == config.num_processes


def test_the_slurm_script_is_bash():
    """And its flags are those of `aurora run`."""
    script = RECIPES / "slurm" / "chain.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    command = next(line for line in script.read_text().splitlines() if line.startswith("aurora run"))
    words = shlex.split(command.replace("$chain", str(PIPELINES[1])).replace("$gpus", "16").replace('"${@:2}"', ""))
    arguments = build_parser().parse_args(words[1:])
    assert shlex.split(arguments.launcher)[0] == "srun"
    assert arguments.num_processes == 16


def run_recipe(script, *flags, cwd=REPOSITORY):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["accelerate", "launch", "--cpu", str(RECIPES / script), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def inputs(checkpoint, world, cot_rows, tmp_path):
    """What a phase stands on, where its YAML expects it."""
    for folder in (tmp_path / "outputs" / "tiny", tmp_path / "outputs" / "tiny_boxes"):
        for name in ("base", "pretrained", "teacher", "sft", "reflective"):
            shutil.copytree(checkpoint, folder / name)
        (folder / "data").symlink_to(world)
        for name in ("cot", "described", "reflective"):
            save_json(cot_rows, folder / f"{name}.jsonl")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", TINY, ids=lambda path: "-".join([*path.parts[-2:-1], path.stem]))
def test_phase_runs_from_its_yaml(path, inputs):
    script = "grpo.py" if path.stem == "grpo" else "sft.py"
    output = inputs / "outputs" / "new"
    flags = ["--config", str(path), "--output_dir", str(output), "--max_steps", "2", "--use_cpu", "true"]
    result = run_recipe(script, *flags, "--per_device_train_batch_size", "4", cwd=inputs)
    assert result.returncode == 0, result.stderr[-3000:]
    AuroraModel.from_pretrained(output)
    assert (output / "trainer_state.json").is_file()
    assert (output / "aurora_processor.json").is_file()


SMALL = {
    "model_name_or_path": "{checkpoint}",
    "dataset_path": "{world}",
    "targets": "answer",
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
}


@pytest.fixture
def small(checkpoint, world, tmp_path):
    """A YAML that works, to be broken in one place."""

    def write(**changes):
        values = {**SMALL, "output_dir": str(tmp_path / "out")}
        values = {
            k: v.format(checkpoint=checkpoint, world=world) if isinstance(v, str) else v for k, v in values.items()
        }
        values.update(changes)
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
        return file

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1e-3}, "unknown key `learning_rat`; did you mean `learning_rate`?"),
        ({"mask_bce_loss_weight": -1.0}, "`mask_bce_loss_weight` must not be negative, got -1.0"),
        ({"targets": "nothing"}, "`targets` must be one of row, answer, class, got 'nothing'"),
        ({"mask_frames_per_step": 0}, "`mask_frames_per_step` must be at least 1, got 0"),
        ({"max_train_samples": 0}, "`max_train_samples` must be at least 1, got 0"),
        ({"dataset_format": "csv"}, "`dataset_format` must be one of refavs, r2avsbench, avsbench, omniavs"),
        ({"on_bad_sample": "ignore"}, "`on_bad_sample` must be one of error, skip, got 'ignore'"),
        ({"packing": True}, "`packing` and `padding_free` do not work with clips"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_yaml_is_one_line(changes, message, small, capsys):
    with pytest.raises(SystemExit) as error:
        parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), ["--config", str(small(**changes))])
    assert error.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "small.yaml" in lines[-1]
    assert message in lines[-1]


def test_the_saved_recipe_runs_the_phase_again(small, tmp_path):
    """The YAML and the flags that override it, without what is secret."""
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
    argv = ["--config", str(small(hub_token="hf_secret")), "--learning_rate", "3e-3", "--lora_r=4"]
    configs = parse_recipe(classes, argv)
    save_recipe(configs, argv)
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    assert "hf_secret" not in text
    saved = parse_recipe(classes, ["--config", str(tmp_path / "out" / "recipe.yaml")])
    assert saved[:2] == configs[:2]
    assert saved[1].lora_r == 4
    assert saved[2].learning_rate == configs[2].learning_rate == 3e-3
    assert saved[2].targets == "answer"


@pytest.mark.parametrize(
    ("flags", "saved"),
    [
        (["--no_freeze_vision_tower"], {"freeze_vision_tower": False}),
        (["--no-freeze-vision-tower"], {"freeze_vision_tower": False}),
        (["--freeze-vision-tower", "false"], {"freeze_vision_tower": False}),
        (["--no_shared_prefix", "--use_lora"], {"shared_prefix": False, "use_lora": True}),
    ],
    ids=str,
)
def test_a_flag_of_any_form_is_in_the_saved_recipe(flags, saved, small, tmp_path):
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
    argv = ["--config", str(small()), *flags]
    save_recipe(parse_recipe(classes, argv), argv)
    file = tmp_path / "out" / "recipe.yaml"
    assert {name: yaml.safe_load(file.read_text()).get(name) for name in saved} == saved
    values = {
        name: value for one in parse_recipe(classes, ["--config", str(file)]) for name, value in vars(one).items()
    }
    assert {name: values[name] for name in saved} == saved


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_r", "1e-3"], "unknown flag `--learning_r`; did you mean `--learning_rate`?"),
        (["--max_grad=0.3"], "unknown flag `--max_grad`; did you mean `--max_grad_norm`?"),
        (["--no_freeze_vison_tower"], "did you mean `--no_freeze_vision_tower`?"),
        (["--qqq"], "unknown flag `--qqq`; --help lists what there is"),
    ],
    ids=str,
)
def test_a_flag_is_written_out(flags, message, small, capsys):
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), ["--config", str(small()), *flags])
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_paths_are_read_as_a_shell_reads_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WORK", "/w")
    text = (
        "model_name_or_path: ~/base\ndataset_path: ${WORK}/rows\noutput_dir: $WORK/out\nuse_cpu: true\nbf16: false\n"
    )
    (tmp_path / "phase.yaml").write_text(text)
    words = ["--config", str(tmp_path / "phase.yaml"), "--eval_dataset_path=~/eval", "--eval_split", "val"]
    recipe, _, config = parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), words)
    paths = (recipe.model_name_or_path, recipe.dataset_path, recipe.eval_dataset_path, config.output_dir)
    assert paths == (f"{tmp_path}/base", "/w/rows", f"{tmp_path}/eval", "/w/out")
    monkeypatch.delenv("WORK")
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), words)
    assert "phase.yaml: '${WORK}/rows': the environment variable WORK is not set" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--config", "nowhere.yaml"], ["--config", "README.md"]])
def test_no_yaml_at_all(flags, capsys):
    with pytest.raises(SystemExit) as error:
        parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), flags)
    assert error.value.code == 1
    assert flags[1] in capsys.readouterr().err


def sft_main(small, monkeypatch, capsys, **changes):
    """Run the recipe in this process; returns its last line."""
    sys.path.insert(0, str(RECIPES))
    try:
        import sft
    finally:
        sys.path.remove(str(RECIPES))
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(small(**changes))])
    with pytest.raises(SystemExit) as error:
        sft.main()
    assert error.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_missing_dataset(small, monkeypatch, capsys):
    line = sft_main(small, monkeypatch, capsys, dataset_path="no/such/folder")
    assert line.startswith("error: no/such/folder: no such dataset folder")


def test_how_a_model_is_loaded_stays_in_the_saved_recipe(small, monkeypatch, tmp_path):
    """As a flag, too: the recipe's script loads the model itself, and hands the trainer none of it."""
    sys.path.insert(0, str(RECIPES))
    try:
        import sft
    finally:
        sys.path.remove(str(RECIPES))
    flags = ["--model_init_kwargs", '{"dtype": "float32"}', "--max_steps", "1"]
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(small()), *flags])
    sft.main()
    saved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert saved["model_init_kwargs"] == {"dtype": "float32"}


def test_missing_frame_before_training(small, world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world, tmp_path / "world")
    frame = next((tmp_path / "world" / "media").glob("synth_*/frames/4.jpg"))
    for path in (tmp_path / "world" / "media").glob("*/frames/4.jpg"):
        path.unlink()
    line = sft_main(small, monkeypatch, capsys, dataset_path=str(tmp_path / "world"))
    assert frame.name in line
    assert "no such frame" in line
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_skipped_and_reported(small, world, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "world")
    for path in (tmp_path / "world" / "media").glob("synth_00000/frames/4.jpg"):
        path.unlink()
    changes = {"dataset_path": str(tmp_path / "world"), "on_bad_sample": "skip", "eval_split": "val"}
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
    recipe, _, config = parse_recipe(classes, ["--config", str(small(**changes))])
    whole = load_refavs(tmp_path / "world", "train")
    rows = recipe.load_train(config)
    lost = [row["id"] for row in whole if "/synth_00000/" in row["frames"][0]]
    assert lost
    assert rows["id"] == [row_id for row_id in whole["id"] if row_id not in lost]
    assert f"skipped {len(lost)} of {len(whole)} rows" in capsys.readouterr().err
    lines = (tmp_path / "out" / "skipped_train.jsonl").read_text().splitlines()
    assert len(lines) == len(lost)
    assert "synth_00000/frames/4.jpg: no such frame" in lines[0]
    assert len(recipe.load_eval(config)) == len(load_refavs(world, "val"))
    assert not (tmp_path / "out" / "skipped_eval.jsonl").exists()


def test_a_recipe_reads_every_format(small, tmp_path):
    write_s4(tmp_path / "avsbench" / "Single-source")
    write_ms3(tmp_path / "avsbench" / "Multi-sources")
    changes = {"dataset_path": str(tmp_path / "avsbench"), "dataset_format": "avsbench", "dataset_subset": "ms3"}
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
    recipe, _, config = parse_recipe(classes, ["--config", str(small(**changes, eval_split="test"))])
    assert recipe.load_train(config)["reference"] == ["The sounding object"]
    assert recipe.load_eval(config)["split"] == ["test"]


def test_what_is_evaluated_on_is_read_as_what_is_trained_on(small, cot_rows, tmp_path):
    """Objects, format and subset hold for `eval_dataset_path`, too, where they fit; another format shows itself."""
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)

    def load_eval(**changes):
        changes = {name: str(value) for name, value in changes.items()}
        recipe, _, config = parse_recipe(classes, ["--config", str(small(**changes))])
        return recipe.load_eval(config)

    for name in ("one", "two"):
        write_mevis(tmp_path / "mevis" / name)
        write_s4(tmp_path / "avs" / name)
        write_ms3(tmp_path / "avs" / name)
    save_json(cot_rows.select(range(2)), tmp_path / "own.jsonl")
    mevis = {"dataset_path": tmp_path / "mevis" / "one", "eval_split": "valid_u"}
    both = load_eval(**mevis, eval_dataset_path=tmp_path / "mevis" / "two", dataset_objects="apart")[1]["masks"][0]
    assert len(json.loads(both)) == 2, "a list with the mask of each"
    other = {"eval_dataset_path": tmp_path / "own.jsonl", "eval_split": "train"}
    rows = load_eval(**{**mevis, **other, "dataset_format": "mevis", "dataset_objects": "apart"})
    assert rows["id"] == cot_rows["id"][:2]
    avs = {"dataset_path": tmp_path / "avs" / "one", "eval_dataset_path": tmp_path / "avs" / "two"}
    for subset, path in (("s4", "s4_data"), ("ms3", "ms3_data")):
        frames = load_eval(**avs, dataset_subset=subset, eval_split="val" if subset == "s4" else "test")[0]["frames"]
        assert path in frames[0]


def test_the_rows_to_train_on_are_not_evaluated_on(small, cot_rows, tmp_path):
    """A file that names no split would be taken for both; one that names another is none to train on."""
    classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
    rows = [{**row, "split": None} for row in cot_rows.to_list()[:2]]
    path = str(save_json(rows, tmp_path / "own.jsonl"))
    recipe, _, config = parse_recipe(classes, ["--config", str(small(dataset_path=path, eval_split="test"))])
    assert len(recipe.load_train(config)) == 2
    for one in (recipe, RecipeArguments("x", datasets=[{"path": path}], eval_split="test")):
        with pytest.raises(DataError, match=r"own\.jsonl: all its rows are of one split, and `eval_split` 'test'"):
            one.load_eval(config)
    save_json([{**row, "split": split} for row, split in zip(rows, ("train", "test"), strict=True)], path)
    assert recipe.load_eval(config)["id"] == [rows[1]["id"]]
    save_json([{**row, "split": "test"} for row in rows], path)
    with pytest.raises(DataError, match=r"own\.jsonl: no row of split 'train'; its rows name test"):
        recipe.load_train(config)


def test_checkpoint_without_the_projector(small, checkpoint, tmp_path, monkeypatch, capsys):
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path / "bad")
    weights = load_file(tmp_path / "bad" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("seg_projector")}
    save_file(kept, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    line = sft_main(small, monkeypatch, capsys, model_name_or_path=str(tmp_path / "bad"))
    assert "bad: not a whole AuroraModel checkpoint, missing keys: seg_projector.0.bias" in line


def test_nothing_is_written_over(small, checkpoint, tmp_path, monkeypatch, capsys):
    shutil.copytree(checkpoint, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    line = sft_main(small, monkeypatch, capsys)
    assert "holds a model already" in line
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_unknown_reward(checkpoint, world, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(RECIPES))
    try:
        import grpo
    finally:
        sys.path.remove(str(RECIPES))
    flags = [
        "--model_name_or_path",
        str(checkpoint),
        "--dataset_path",
        str(world),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    monkeypatch.setattr(sys, "argv", ["grpo.py", *flags, "--reward_functions", "iuo_reward", "--use_cpu", "true"])
    with pytest.raises(SystemExit) as error:
        grpo.main()
    assert error.value.code == 1
    assert "unknown reward function `iuo_reward`" in capsys.readouterr().err.splitlines()[-1]


def test_null_rows_can_come_more_often(world, tmp_path):
    flags = ["--model_name_or_path", "m", "--dataset_path", str(world), "--output_dir", str(tmp_path / "out")]
    flags += ["--use_cpu", "true", "--bf16", "false"]
    counts = []
    for repeats in ([], ["--repeat_null_rows", "5"]):
        recipe, _, config = parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), [*flags, *repeats])
        counts.append(Counter(recipe.load_train(config)["is_null"]))
    assert counts[0][True] > 0
    assert counts[1] == {True: 5 * counts[0][True], False: counts[0][False]}
    recipe.train_split = "test_s"
    with pytest.raises(DataError, match="`repeat_null_rows` is 5, and no row of 'test_s'"):
        recipe.load_train(config)


def test_null_rows_come_at_least_once(capsys):
    flags = ["--model_name_or_path", "m", "--dataset_path", "d", "--output_dir", "o", "--repeat_null_rows", "0"]
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig), [*flags, "--use_cpu", "true"])
    assert "repeat_null_rows" in capsys.readouterr().err
