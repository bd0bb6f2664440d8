"""`aurora run --dry-run`: what is wrong with a chain, and the numbers of its phases."""

import json
import shutil

import pytest
import yaml
from conftest import REPOSITORY

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.dry_run import check_pipeline
from aurora_trl.chain.planned_model import plan_model
from aurora_trl.chain.sharing import share_samples
from aurora_trl.cli import build_parser, main
from aurora_trl.data import DataError
from aurora_trl.generation.clip_loader import ClipLoader


def test_the_places_of_a_clip_are_those_of_a_row(checkpoint, rows, processor, tmp_path):
    # In a folder of its own: `outputs/tiny` may hold a demo.
    pipeline = load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", output_dir=tmp_path)
    plan = plan_model(pipeline, str(checkpoint))
    row = rows[0]
    ids = processor.prompt_ids(row, ClipLoader(processor).clip(row))
    places = {processor.policy_processor.video_token_id, processor.policy_processor.audio_token_id}
    assert plan.media_tokens == sum(token in places for token in ids)
    # A step that has not run is followed back to the command that builds the first model.
    assert plan_model(pipeline, str(tmp_path / "reflective")).what == "the tiny model"


@pytest.fixture
def write(checkpoint, world, tmp_path):
    """A chain of one data step and one phase that is all right, to be broken in one place."""

    def write(recipe=None, **changes):
        content = {
            "model_name_or_path": str(checkpoint),
            "dataset_path": str(tmp_path / "out" / "cot.jsonl"),
            "output_dir": str(tmp_path / "out" / "sft"),
            "max_steps": 2,
            "report_to": "none",
            "bf16": True,
            **(recipe or {}),
        }
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(content))
        command = f"aurora annotate {world} --annotator synthetic:{world} --output {{output_dir}}/cot.jsonl"
        steps = [
            {"name": "cot", "run": command, "makes": "cot.jsonl"},
            {
                "name": "sft",
                "train": str(REPOSITORY / "recipes" / "sft.py"),
                "config": "sft.yaml",
                "accelerate": str(REPOSITORY / "recipes" / "accelerate" / "zero2.yaml"),
                "makes": "sft",
                "needs": ["cot"],
            },
        ]
        for name, change in changes.items():
            next(step for step in steps if step["name"] == name).update(change)
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "seed": 1, "steps": steps}))
        return file

    return write


def test_all_is_well(write, tmp_path, capsys):
    assert main(["run", str(write()), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "sft: memory per GPU, ZeRO-2 on 2" in out
    assert "2 steps checked, all is well" in out
    assert not (tmp_path / "out").exists()


def test_a_phase_hands_on_how_many_targets_there_are(write, tmp_path):
    for said, expected in ((None, 1), (3, 3)):
        pipeline = load_pipeline(write({} if said is None else {"max_objects": said}))
        assert plan_model(pipeline, str(tmp_path / "out" / "sft")).max_objects == expected


@pytest.mark.parametrize(("source", "tables"), [(None, True), ("queries", False)])
def test_queries_train_no_table_of_tokens(source, tables, write, tmp_path, capsys):
    recipe = {"use_lora": True, **({} if source is None else {"seg_source": source})}
    assert main(["run", str(write(recipe)), "--dry-run"]) == 0
    assert ("(LoRA of rank 8, embeddings and head)" in capsys.readouterr().out) == tables
    plan = plan_model(load_pipeline(write(recipe)), str(tmp_path / "out" / "sft"))
    assert plan.config.seg_source == (source or "token")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"learning_rat": 1}}, "unknown key `learning_rat`; did you mean `learning_rate`?"),
        ({"recipe": {"targets": "nothing"}}, "`targets` must be one of"),
        ({"recipe": {"dataset_path": "no/rows.jsonl"}}, "`dataset_path` no/rows.jsonl: no such file or folder"),
        ({"recipe": {"model_name_or_path": "no/such/model"}}, "`model_name_or_path` no/such/model: no such file"),
        ({"recipe": {"output_dir": "elsewhere"}}, "`output_dir` elsewhere, but `makes`"),
        ({"recipe": {"use_lora": True, "freeze_language_model": True}}, "`use_lora` adapts the language model"),
        ({"recipe": {"model_name_or_path": "outputs/sftt"}}, "`model_name_or_path` outputs/sftt: no such folder, and"),
        ({"sft": {"train": "no/sft.py"}}, "no/sft.py: no such script"),
        ({"sft": {"accelerate": "no.yaml"}}, "accelerate config: no.yaml: no such file"),
        ({"cot": {"run": "aurora anotate x"}}, "invalid choice: 'anotate'"),
        ({"cot": {"run": "no-such-command x"}}, "no-such-command: no such command"),
        ({"cot": {"run": "aurora annotate no/data --annotator a:b --output o"}}, "`data` no/data: no such file"),
    ],
    ids=lambda value: str(next(iter(value.values())))[:40] if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(changes, message, write, capsys):
    assert main(["run", str(write(**changes)), "--dry-run"]) == 1
    captured = capsys.readouterr()
    assert message in captured.out
    assert captured.err.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("start", [None, "sft"])
def test_a_phase_whose_model_is_not_known_ends_no_dry_run(start, write, tmp_path, capsys):
    """The first phase names no model, or its own; the second starts from what the first makes."""
    file = write()
    recipe, chain = yaml.safe_load((tmp_path / "sft.yaml").read_text()), yaml.safe_load(file.read_text())
    made = str(tmp_path / "out" / "sft")
    more = {**recipe, "model_name_or_path": made, "output_dir": str(tmp_path / "out" / "more")}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    recipe.pop("model_name_or_path")
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**recipe, **({"model_name_or_path": made} if start else {})}))
    second = {**chain["steps"][1], "name": "more", "config": "more.yaml", "makes": "more", "needs": ["cot", "sft"]}
    file.write_text(yaml.safe_dump({**chain, "steps": [*chain["steps"], second]}))
    assert main(["run", str(file), "--dry-run"]) == 1
    said = capsys.readouterr()
    assert "model_name_or_path" in said.err
    assert "more: model: its sizes are known once the first step has made it" in said.out


def test_a_text_longer_than_the_model_reads_is_a_problem(write, checkpoint, tmp_path, capsys):
    short = tmp_path / "short"
    shutil.copytree(checkpoint, short)
    config = json.loads((short / "config.json").read_text())
    config["policy_config"]["text_config"]["max_position_embeddings"] = 60
    (short / "config.json").write_text(json.dumps(config))
    assert main(["run", str(write({"model_name_or_path": str(short)})), "--dry-run"]) == 1
    said = capsys.readouterr()
    assert "tokens, and the language model has 60 positions: take fewer frames" in said.out + said.err


def test_a_teacher_whose_features_are_kept_takes_no_memory(write, checkpoint, tmp_path):
    teacher = {"teacher_model_name_or_path": str(checkpoint)}
    weights = [
        check_pipeline(load_pipeline(write(recipe={**teacher, **more})), build_parser())[-1].memory.weights
        for more in ({}, {"feature_cache": str(tmp_path / "features")})
    ]
    assert weights[0] == 2 * weights[1]


def test_the_tiny_recipe_in_another_folder(tmp_path):
    """Its YAMLs, moved, are not on disk yet."""
    plans = check_pipeline(
        load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", tmp_path / "new", 5), build_parser()
    )
    assert not [problem for plan in plans for problem in plan.problems]
    assert {plan.step.name for plan in plans if plan.memory} == {"pretrain", "teacher", "sft", "reflective", "grpo"}


def test_the_published_recipe(monkeypatch):
    """What is missing here is the data and the weights, and nothing else; every phase fits a GPU of 80 GB."""
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    for processes, longest in ((1, 70), (2, 62), (8, 62)):
        pipeline = load_pipeline(REPOSITORY / "recipes" / "videollama2" / "pipeline.yaml", num_processes=processes)
        plans = check_pipeline(pipeline, build_parser())
        for plan in plans[1:]:  # the first step needs files that only a user has
            assert all("data/refavs" in problem for problem in plan.problems)
        totals = {plan.step.name: plan.memory.total / 1024**3 for plan in plans if plan.memory}
        assert set(totals) == {"teacher", "sft", "reflective", "grpo"}
        assert 20 < max(totals.values()) < longest


def test_another_number_of_gpus_sees_as_many_samples(write):
    file = write(recipe={"gradient_accumulation_steps": 4})  # 8 at a time, by 2, 4 times: 64
    for processes, flags in (
        (1, ["--gradient_accumulation_steps", "8"]),
        (8, ["--gradient_accumulation_steps", "1"]),
        (16, ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]),
    ):
        command = load_pipeline(file, num_processes=processes).step("sft").command
        assert command[command.index("--num_processes") + 1] == str(processes)
        assert command[command.index("--config") + 2 :] == flags
    with pytest.raises(
        DataError, match=r"takes 64 samples per step \(8 at a time on 2 processes, 4 times\), which 3 "
    ):
        load_pipeline(file, num_processes=3)
    single = {"accelerate": str(REPOSITORY / "recipes" / "accelerate" / "single.yaml")}
    assert load_pipeline(write(sft=single), num_processes=1)
    with pytest.raises(DataError, match=r"on 2 processes, and accelerate starts one with .*single\.yaml; name"):
        load_pipeline(write(sft=single), num_processes=2)
    capped = write(recipe={"gradient_accumulation_steps": 4}, sft={"most_processes": 8})
    for processes, used in ((64, "8"), (4, "4")):
        command = load_pipeline(capped, num_processes=processes).step("sft").command
        assert command[command.index("--num_processes") + 1] == used
    with pytest.raises(DataError, match="`most_processes` must be a whole number of at least 1, got 'few'"):
        load_pipeline(write(sft={"most_processes": "few"}))
    file = write(recipe={"gradient_accumulation_steps": 4})
    same = load_pipeline(file)
    assert same.fingerprint(same.step("sft")) == load_pipeline(file, num_processes=8).fingerprint(same.step("sft"))
    with pytest.raises(DataError, match="has no `accelerate` config to start processes with"):
        load_pipeline(write(sft={"accelerate": None}), num_processes=2)


@pytest.mark.parametrize(
    ("settings", "processes", "flags"),
    [
        # 3 at a time, by 2, 4 times: 24, of which 3 processes take 8 each, 2 at a time.
        ({}, 3, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
        ({}, 24, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}),
        ({"steps_per_generation": 8}, 1, {"gradient_accumulation_steps": 8, "steps_per_generation": 16}),
        ({"generation_batch_size": 12}, 8, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}),
    ],
)
def test_a_rollout_is_shared_by_any_number_that_divides_it(settings, processes, flags):
    written = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, **settings}
    zero2 = str(REPOSITORY / "recipes" / "accelerate" / "zero2.yaml")
    if settings.get("generation_batch_size"):  # 12 completions can not be made by 8 processes
        with pytest.raises(DataError, match="which 8 processes can not share evenly"):
            share_samples("step", written, zero2, processes)
        return
    words = share_samples("step", written, zero2, processes)
    assert dict(zip(words[::2], map(int, words[1::2]), strict=True)) == {f"--{k}": v for k, v in flags.items()}


def test_all_phases_keep_features_in_one_folder(write, tmp_path, capsys):
    file = write()
    plain = load_pipeline(file)
    chain = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**chain, "feature_cache": "{output_dir}/features"}))
    pipeline = load_pipeline(file, output_dir=tmp_path / "new")
    assert pipeline.step("sft").command[-2:] == ["--feature_cache", f"{tmp_path}/new/features"]
    same = load_pipeline(file)
    assert same.fingerprint(same.step("sft")) == plain.fingerprint(plain.step("sft"))  # they decide no result
    assert main(["run", str(file), "--dry-run"]) == 0
    for wrong in ("{somewhere}", 3, ""):
        file.write_text(yaml.safe_dump({**chain, "feature_cache": wrong}))
        with pytest.raises(DataError, match="`feature_cache` must name a folder"):
            load_pipeline(file)


@pytest.mark.parametrize(
    ("flag", "recipe", "said"),
    [
        # 2 steps of 2 on 2 processes.
        ("", {}, "annotates all rows, of which training takes 8 at most; `--max-rows 8` there"),
        ("", {"max_train_samples": 5}, "annotates all rows, of which training takes 5 at most; `--max-rows 5` there"),
        (" --max-rows 9", {}, "annotates 9 rows, of which training takes 8 at most; `--max-rows 8` there"),
        (" --max-rows 6", {"repeat_null_rows": 3}, "data: 6 rows of step `cot`, 8 samples, null rows 3 times"),
        ("", {"max_steps": -1}, None),
    ],
)
def test_what_is_annotated_is_what_training_sees(flag, recipe, said, write, world, capsys):
    command = f"aurora annotate {world} --annotator synthetic:{world}{flag} --output {{output_dir}}/cot.jsonl"
    file = write(recipe={"per_device_train_batch_size": 2, **recipe}, cot={"run": command})
    assert main(["run", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (said in out) if said else ("step `cot`" not in out)


def test_data_steps_run_on_the_processes_that_training_has(write, world):
    accelerate = str(REPOSITORY / "recipes" / "accelerate" / "ddp.yaml")
    command = f"aurora annotate {world} --annotator qwen-omni:q/m --output {{output_dir}}/cot.jsonl"
    file = write(recipe={"gradient_accumulation_steps": 4}, cot={"run": command, "accelerate": accelerate})
    words = load_pipeline(file, num_processes=4).step("cot").command
    assert words[:6] == ["torchrun", "--standalone", "--nproc_per_node", "4", "-m", "aurora_trl.cli"]
    assert words[6:] == load_pipeline(file, num_processes=1).step("cot").command[1:]
    assert load_pipeline(file).step("cot").command[3] == "2"  # the config's
    one, four = load_pipeline(file), load_pipeline(file, num_processes=4)
    assert one.fingerprint(one.step("cot")) == four.fingerprint(four.step("cot"))
    for serve in ("--serve q/m", "--serve=q/m"):
        served = command.replace("--annotator qwen-omni:q/m", serve)
        file = write(cot={"run": served, "accelerate": accelerate})
        assert load_pipeline(file).step("cot").command[-2:] == ["--replicas", "2"]
    joined = write(cot={"run": command.replace("--annotator ", "--annotator="), "accelerate": accelerate})
    assert load_pipeline(joined).step("cot").command[0] == "torchrun"
    for wrong in (command.replace("qwen-omni", "gemini"), "aurora synth x"):
        with pytest.raises(DataError, match="leave it out for"):
            load_pipeline(write(cot={"run": wrong, "accelerate": accelerate}))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "torchrun --nproc_per_node 2 -m aurora_trl.cli annotate {world} --annotator synthetic:{world} --output o",
            None,
        ),
        ("accelerate launch --num_processes 2 -m aurora_trl.cli anotate x", "invalid choice: 'anotate'"),
        (
            "torchrun --nproc_per_node 2 -m aurora_trl.cli annotate no/data --annotator a:b --output o",
            "no/data: no su",
        ),
        ("torchrun --nproc_per_nod 2 -x nowhere.py", "torchrun: "),
        ("torchrun --nproc_per_node 2 nowhere.py", "nowhere.py: no such script"),
        ("accelerate launch --config_file no.yaml nowhere.py", "accelerate config: no.yaml: no such file"),
        ("torchrun --nproc_per_node 2 {recipes}/sft.py --config {tmp}/other.yaml", "unknown key `learning_rat`"),
    ],
)
def test_what_a_launcher_starts_is_checked(command, message, write, world, tmp_path, capsys):
    (tmp_path / "other.yaml").write_text("model_name_or_path: m\ndataset_path: d\noutput_dir: o\nlearning_rat: 1\n")
    command = command.format(world=world, recipes=REPOSITORY / "recipes", tmp=tmp_path)
    assert main(["run", str(write(cot={"run": command})), "--dry-run"]) == (message is not None)
    out = capsys.readouterr().out
    assert (message or "all is well") in out
    assert "no such command" not in out
