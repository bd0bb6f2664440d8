"""What a dry run says of time, disk and money, and what it finds before anything runs."""

import argparse
import shutil
import sys

import pytest
import yaml
from conftest import REPOSITORY
from transformers import TrainingArguments

from aurora_trl.chain.costs import Costs, Counter, command_costs, kept_checkpoints
from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.experts import feed_forward_states, feed_forward_width, idle_weights
from aurora_trl.chain.machines import MACHINES, Machine, Work
from aurora_trl.chain.memory_estimate import count_parameters
from aurora_trl.chain.plan_summary import summarize
from aurora_trl.chain.planned_model import plan_model
from aurora_trl.chain.published_sizes import published_config, published_tokens
from aurora_trl.chain.readiness import annotator_problem, checkpoint_problem, media_problems
from aurora_trl.chain.workload import (
    Passes,
    TrainingFacts,
    answering_work,
    logits_bytes,
    phase_bytes,
    row_passes,
    training_work,
)
from aurora_trl.cli import build_parser, main

PUBLISHED = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
FACTS = TrainingFacts(
    steps=10,
    micro_batches=8,
    batch_size=1,
    num_generations=1,
    prompt=1000,
    answer=100,
    checkpointing=True,
    trains_all=False,
)


def test_the_authors_machine_is_known():
    first = MACHINES[0]
    assert (first.name, first.gpus, first.memory) == ("2 x A40", 2, 48)


def test_hours_by_hand():
    machine = Machine("one", 4, 80, teraflops=100.0, bandwidth=1000.0)
    # 35 TFLOP/s on each of four GPUs.
    assert Work(flops=4 * 35e12 * 3600, shares=8).hours(machine) == pytest.approx(1.0)
    # Three micro-batches are shared evenly by three GPUs, one of them by one.
    assert Work(flops=35e12 * 3600, shares=3).hours(machine) == pytest.approx(1 / 3)
    assert Work(flops=35e12 * 3600).hours(machine) == pytest.approx(1.0)
    # 30 ms at least; 60 GB of weights at 600 GB/s take 100 ms.
    assert Work(token_steps=120_000, weight_bytes=1e9).hours(machine) == pytest.approx(1.0)
    assert Work(token_steps=36_000, weight_bytes=60e9).hours(machine) == pytest.approx(1.0)
    assert Work(seconds=1800).hours(machine) == 0.5


def test_the_work_of_a_phase_by_hand():
    passes = Passes(clip=500.0, token=2.0)
    work = training_work(FACTS, passes, weights=7)
    # 10 steps of 8 rows: the clip, and 1,100 tokens forward, again, and back.
    assert work.flops == 80 * (500 + 2 * 1100 * 3)
    assert (work.token_steps, work.shares, work.weight_bytes) == (0.0, 8, 14.0)
    grpo = TrainingFacts(
        **{**vars(FACTS), "batch_size": 3, "num_generations": 3, "checkpointing": False, "trains_all": True}
    )
    work = training_work(grpo, passes, weights=7)
    # The prompt once for three answers, forward and back twice, and once more when they are written.
    assert work.flops == 80 * (500 + 2 * 1300 * 3 + 2 * 1000)
    assert work.token_steps == 10 * 100
    work = answering_work(rows=33, batch_size=16, prompt=1000, answer=100, passes=passes, weights=7)
    assert (work.flops, work.token_steps) == (33 * (500 + 2 * 1100), 300)


def test_the_published_model_by_hand():
    parameters = count_parameters(PUBLISHED)
    passes = row_passes(PUBLISHED, parameters, 10)
    assert passes.token == 2 * 7_615_616_512
    # SigLIP's 27 x 27 patches and SAM's 14 x 14 of each frame.
    assert passes.clip == 20 * (parameters["vision_tower"] * 729 + parameters["mask_encoder"] * 196)
    assert logits_bytes(100, 10, PUBLISHED) == 100 * 10 * 56 * 56 * 2
    # Two checkpoints with three float32 numbers for each trained weight, and the result.
    assert phase_bytes(10, 100, 2, adapter=True) == 20 + 2 * (20 + 120)
    assert phase_bytes(10, 100, 2, adapter=False) == 200 + 2 * (200 + 120)


def test_a_token_reads_a_few_of_many_experts():
    """All weights of Qwen3-Omni's thinker are in memory; a token's work is that of a tenth of them."""
    config = published_config("Qwen/Qwen3-Omni-30B-A3B-Instruct", "sam_vit_h_4b8939.pth", 224)
    parameters = count_parameters(config)
    # Qwen3-30B-A3B's published count, with 128 more words in embeddings and head, without the routers.
    assert parameters["language_model"] == 30_532_122_624 + 2 * 128 * 2048 - 48 * 128 * 2048
    text, expert = config.get_text_config(), 3 * 2048 * 768
    assert idle_weights(text) == 48 * 120 * expert
    active = parameters["language_model"] - 48 * 120 * expert
    assert active == pytest.approx(3.34e9, rel=0.01)
    assert row_passes(config, parameters, 10).token == 2 * active
    # Two tokens share an expert once in sixteen.
    assert idle_weights(text, rows=2) == 48 * 112.5 * expert
    assert feed_forward_width(text) == 8 * 768
    plain = PUBLISHED.get_text_config()
    assert (idle_weights(plain), feed_forward_width(plain), feed_forward_states(plain)) == (0, 18944, 0)
    # Patches where frames have any size: four make a place.
    towers = row_passes(config, parameters, 10, media_tokens=1000).clip - row_passes(config, parameters, 10).clip
    assert towers == 2 * 4000 * parameters["vision_tower"]


@pytest.mark.parametrize(
    ("policy", "pixels", "places", "language"),
    [
        ("lkhl/VideoLLaMA3-7B-Image-HF", 100352, 10 * (8 * 15 + 8), 7_615_616_512),
        ("lkhl/VideoLLaMA3-2B-Image-HF", None, 10 * (26 * 46 + 8), 1_543_714_304),
        ("Qwen/Qwen3-Omni-30B-A3B-Thinking", 200704, 5 * 10 * 18 + 130 + 2, None),
    ],
)
def test_newer_policies_before_their_files_are_here(policy, pixels, places, language):
    assert published_tokens(policy, 10, 10.0, pixels) == places
    if language is not None:
        config = published_config(policy, "sam_vit_h_4b8939.pth", 224)
        assert count_parameters(config)["language_model"] == language


def test_the_published_chain_has_hours_disk_money_and_a_missing_key(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    command = ["run", "recipes/videollama2/pipeline.yaml", "--output_dir", str(tmp_path / "out"), "--dry-run"]
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    for machine in MACHINES:
        (line,) = [line for line in lines if line.startswith(f"{machine.name}: about")]
        assert all(f"{step} " in line for step in ("cot", "teacher", "sft", "grpo", "evaluate-grpo"))
        assert "not known" not in line
    hours = [float(line.split("about ")[1].split(" h")[0]) for line in lines if " h (" in line]
    assert hours == sorted(hours, reverse=True)
    for beginning in ("disk: about", "services: about", "correct: problem: the environment variable GEMINI_API_KEY"):
        assert any(line.startswith(beginning) for line in lines)
    assert any("720 steps of 8 rows" in line for line in lines)
    assert not any("min left" in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_an_annotator_lacks_its_key_or_its_package(monkeypatch):
    parser = build_parser()

    def problem(*words):
        return annotator_problem(parser.parse_args(["annotate", "data", "--output", "o", "--annotator", *words]))

    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    assert "GEMINI_API_KEY" in problem("gemini:gemini-2.5-pro")
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    assert problem("gemini:gemini-2.5-pro") is None
    assert problem("qwen-omni:Qwen/Qwen2.5-Omni-7B") is None
    assert "NO_KEY" in problem("openai:some", "--key-variable", "NO_KEY")
    monkeypatch.setitem(sys.modules, "openai", None)  # as where it is not installed
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert "pip install aurora-trl[annotate]" in problem("openai:some")


def test_a_missing_key_stops_a_run_before_its_first_step(tmp_path, capsys, monkeypatch):
    """A step before the one that needs it would be paid for in hours."""
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    steps = [
        {"name": "long", "run": f"{sys.executable} -c pass", "makes": "long"},
        {
            "name": "asks",
            "run": "aurora annotate data --annotator gemini:m --output o",
            "makes": "o",
            "needs": ["long"],
        },
    ]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": steps}))
    assert main(["run", str(file)]) == 1
    assert "step `asks`: the environment variable GEMINI_API_KEY is not set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["run", str(file), "--only", "long", "--before", "asks"]) == 1
    assert "`--only` runs a step alone and `--before` what a step needs: name one" in capsys.readouterr().err
    assert main(["run", str(file), "--before", "asks"]) == 1  # what is run makes nothing, and is run
    assert "step `long` did not make" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "frames"),
    [("--num-frames 8", 8), ("--num-frames=8", 8), ("--num-frames 4 --num-frames 8", 8), ("--num-frames few", None)],
)
def test_a_flag_is_read_as_its_command_reads_it(flags, frames, tmp_path):
    run = f"aurora init DAMO-NLP-SG/VideoLLaMA2.1-7B-AV --mask-decoder=sam_vit_h_4b8939.pth {flags} --output x"
    file = tmp_path / "chain.yaml"
    step = {"name": "base", "run": run, "makes": "base"}
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": [step]}))
    plan = plan_model(load_pipeline(file), str(tmp_path / "out" / "base"))
    assert (plan and plan.num_frames) == frames


def test_stated_minutes_are_added_up():
    pipeline = load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", "nowhere")
    lines, _ = summarize(pipeline, [(step, Costs(Work()), None) for step in pipeline.steps])
    assert lines == ["time: about 0.3 h on the machine that the recipe names"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"save_steps": 100}, 10),  # all stay where no limit is set
        ({"save_steps": 100, "save_total_limit": 2}, 2),
        ({"save_steps": 600, "save_total_limit": 3}, 2),
        ({"save_steps": 5000}, 1),
        ({"save_steps": 0.25}, 4),
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 4}, 4),
    ],
)
def test_how_many_checkpoints_stay(settings, kept, tmp_path):
    settings = {"save_strategy": "steps", "max_steps": 1000, **settings}
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert kept_checkpoints(args, steps=1000) == kept


def test_disk_that_is_not_there_is_a_problem(tmp_path):
    file = tmp_path / "chain.yaml"
    step = {"name": "a", "run": "aurora env", "makes": "a"}
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": [step]}))
    pipeline = load_pipeline(file)
    costs = command_costs(pipeline, argparse.Namespace(command="env"), Counter())
    costs.disk = 10**18
    _, problems = summarize(pipeline, [(pipeline.steps[0], costs, None)])
    assert "takes about 1000000000 GB" in problems[0]


def test_a_checkpoint_of_zeros_is_found(tmp_path, checkpoint):
    sam = tmp_path / "sam_vit_h_4b8939.pth"
    sam.write_bytes(bytes(1000))
    assert "sam_vit_h_4b8939.pth: cut short, or not a file of tensors" in checkpoint_problem(str(sam))
    assert checkpoint_problem(str(checkpoint)) is None
    cut = shutil.copytree(checkpoint, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in checkpoint_problem(str(cut))
    assert "holds no config.json" in checkpoint_problem(str(tmp_path))


def test_a_dataset_without_media_is_found_in_every_split(tmp_path, world):
    bare = tmp_path / "data"
    bare.mkdir()
    shutil.copy(world / "metadata.csv", bare)
    found = media_problems(str(bare), None, None)
    assert found
    assert all(str(bare) in problem for problem in found)
    assert media_problems(str(world), None, None) == []
    # One split alone is damaged.
    whole = shutil.copytree(world, tmp_path / "whole")
    for line in (whole / "metadata.csv").read_text().splitlines()[1:]:
        video, _, split = line.split(",")[:3]
        if split == "test_u":
            shutil.rmtree(whole / "media" / video, ignore_errors=True)
    (problem,) = media_problems(str(whole), None, None)
    assert "test_u: " in problem
    assert "rows that were looked at can not be read; the first: " in problem


def test_the_commands_of_a_chain_say_what_they_take(checkpoint, world, tmp_path):
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "steps": []}))
    pipeline, parser = load_pipeline(file), build_parser()

    def costs(*words):
        return command_costs(pipeline, parser.parse_args(words), Counter())

    evaluate = costs("evaluate", str(checkpoint), "--data", str(world), "--splits", "test_n", "--output", "o")
    assert evaluate.disk > 0
    assert "answers" in evaluate.lines[0]
    bare = costs(
        "evaluate", str(checkpoint), "--data", str(world), "--splits", "test_n", "--output", "o", "--no-logits"
    )
    assert bare.disk == 0
    away = costs("evaluate", str(checkpoint), "--data", "data/none", "--output", "o")
    assert away.lines[0].startswith("4972 answers")
    assert away.lines[1] == "data/none is not there yet: rows of Ref-AVS"
    priced = ["--annotator", "openai:some", "--input-price", "1", "--output-price", "10", "--output", "o"]
    # 1,505 rows: ten pictures of 800, ten seconds of 25, 600 of words; 450 come back.
    paid = costs("correct", "hard.jsonl", "--plain", "cot.jsonl", *priced)
    assert paid.money == pytest.approx(1505 * (8850 + 10 * 450) / 1e6)
    assert "give --input-price" in costs("annotate", str(world), *priced[:2], "--output", "o").lines[0]
