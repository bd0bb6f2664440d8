"""Two processes: the same losses as one with the same global batch, and nobody waits for ever."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from published_sams import small_sam2_video

from aurora_trl import AuroraConfig, AuroraModel, AuroraProcessor
from aurora_trl.data import load_json, save_json
from aurora_trl.generation.feature_store import clip_digest
from aurora_trl.models import ClipMemory
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
SCRIPT = str(Path(__file__).with_name("distributed_step.py"))


@pytest.fixture(scope="module")
def rows_file(cot_rows, tmp_path_factory):
    return str(save_json(cot_rows, tmp_path_factory.mktemp("rows") / "rows.jsonl"))


@pytest.fixture(scope="module")
def launch(forked):
    """Run the step script; a hang is a failure."""

    def run(how, phase, checkpoint, rows_file, output, *options, steps=3):
        command = forked.script(SCRIPT, phase, checkpoint, rows_file, output, *options)
        launched = {"one": lambda _: command, "ddp": forked.two}.get(how, partial(forked.accelerate, how))(command)
        result = forked.run(launched)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        world_size, losses = json.loads((output / "losses.json").read_text())
        assert world_size == (1 if how == "one" else 2)
        assert len(losses) == steps
        return torch.tensor(losses)

    return run


@pytest.fixture(scope="module")
def one_process(launch, checkpoint, rows_file, tmp_path_factory):
    """The losses of one process, by phase."""
    return {
        phase: launch(
            "one",
            phase,
            checkpoint,
            rows_file,
            tmp_path_factory.mktemp(phase) / "one",
            "per_device_train_batch_size=4",
        )
        for phase in ("sft", "grpo")
    }


@pytest.mark.parametrize("phase", ["sft", "grpo"])
@pytest.mark.parametrize("how", ["ddp", "zero2"])
def test_two_processes_equal_one(launch, how, phase, checkpoint, rows_file, one_process, tmp_path):
    losses = launch(how, phase, checkpoint, rows_file, tmp_path, "per_device_train_batch_size=2")
    torch.testing.assert_close(losses, one_process[phase], atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [["sft", "teacher"], ["grpo"], ["grpo", "rollouts"]], ids="-".join)
def test_zero3_trains_and_its_checkpoint_loads(launch, options, checkpoint, rows_file, tmp_path):
    phase, *options = options
    options += ["per_device_train_batch_size=2", "max_steps=1"]
    losses = launch("zero3", phase, checkpoint, rows_file, tmp_path, *options, steps=1)
    assert torch.isfinite(losses).all()
    before, after = AuroraModel.from_pretrained(checkpoint), AuroraModel.from_pretrained(tmp_path)
    assert not torch.equal(before.get_output_embeddings().weight, after.get_output_embeddings().weight)
    assert torch.equal(
        before.policy.model.vision_tower.state_dict()["embeddings.patch_embedding.weight"],
        after.policy.model.vision_tower.state_dict()["embeddings.patch_embedding.weight"],
    )


@pytest.mark.parametrize("phase", ["sft", "grpo"])
@pytest.mark.parametrize("how", ["ddp", "zero3"])
def test_a_rank_without_seg_does_not_hang(launch, how, phase, checkpoint, rows_file, tmp_path):
    options = ["no_seg", "per_device_train_batch_size=2", "max_steps=2"]
    losses = launch(how, phase, checkpoint, rows_file, tmp_path, *options, steps=2)
    assert torch.isfinite(losses).all()


def test_queries_behind_answers_train_under_zero3(launch, rows_file, tmp_path):
    """
    They are added to a model that is held in parts, train as one process trains them, and are kept. Here they are many
    and wide enough to be split.
    """
    wide = create_tiny_checkpoint(tmp_path / "wide", image_size=32, hidden_size=384, num_layers=1)
    options = ['seg_source="queries"', "num_queries=300", "max_steps=2", "learning_rate=0.001"]
    rows = {"one": 4, "ddp": 2, "zero3": 2}

    def losses_of(how, *more):
        settings = [*options, f"per_device_train_batch_size={rows[how]}", *more]
        return launch(how, "sft", wide, rows_file, tmp_path / "_".join((how, *more)), *settings, steps=2)

    torch.testing.assert_close(losses_of("zero3"), losses_of("one"), atol=1e-4, rtol=1e-4)
    start = AuroraModel.from_pretrained(wide)
    start.set_seg_source("queries", 300)
    one, both = (AuroraModel.from_pretrained(tmp_path / how).seg_queries.embeddings for how in ("one", "zero3"))
    torch.testing.assert_close(both, one, atol=1e-4, rtol=0)
    assert ((one - start.seg_queries.embeddings).abs().sum(dim=1) > 0).all()
    # Where the answers of one process draw nothing.
    for how in ("ddp", "zero3"):
        assert torch.isfinite(losses_of(how, "no_seg")).all()


def test_a_rank_without_seg_does_not_hang_with_several_objects(launch, checkpoint, rows_file, tmp_path):
    options = ["no_seg", "per_device_train_batch_size=2", "max_objects=2", "max_steps=2"]
    losses = launch("ddp", "grpo", checkpoint, rows_file, tmp_path, *options, steps=2)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize("policy", ["videollama2", True, "omni3"], ids=["videollama2", "omni", "omni3"])
def test_a_rank_without_sound_does_not_hang(launch, policy, checkpoint, qwen_checkpoints, rows_file, tmp_path):
    """ZeRO-3 gathers the audio tower on both processes, also where one's clips are silent, and all of the experts."""
    folder = checkpoint if policy == "videollama2" else qwen_checkpoints[policy]
    options = ["no_sound", "per_device_train_batch_size=2", "max_steps=2"]
    losses = launch("zero3", "sft", folder, rows_file, tmp_path, *options, steps=2)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize(("how", "option"), [("ddp", "mask_frames_per_step=1"), ("zero3", "no_seg")])
def test_a_memory_across_frames_does_not_hang(launch, how, option, checkpoint, rows_file, tmp_path):
    """What reads and writes it runs on both processes, also where nothing is drawn, or there is one frame alone."""
    small_sam2_video().save_pretrained(tmp_path / "sam2")
    decoder = load_mask_decoder(tmp_path / "sam2", image_size=32, memory=ClipMemory(3, "first", True))
    base = AuroraModel.from_pretrained(checkpoint)
    config = AuroraConfig(base.config.policy_config, decoder.config, base.config.seg_token_id)
    AuroraModel(config, policy=base.policy, mask_decoder=decoder).save_pretrained(tmp_path / "base")
    processor = AuroraProcessor.from_pretrained(checkpoint)
    processor.keep_aspect_ratio = False  # as SAM 2 has it
    processor.save_pretrained(tmp_path / "base")
    options = [option, "per_device_train_batch_size=2", "max_steps=1"]
    losses = launch(how, "sft", tmp_path / "base", rows_file, tmp_path / "run", *options, steps=1)
    assert torch.isfinite(losses).all()


def test_a_mixture_is_shared_and_goes_on_where_it_was(forked, checkpoint, rows_file, tmp_path):
    """Cut in the second epoch: both processes draw the rows that they would have drawn, 3 of 4 of the first source."""
    script = str(Path(__file__).with_name("distributed_mixture.py"))
    result = forked.run(forked.two(forked.script(script, checkpoint, rows_file, tmp_path)))
    assert result.returncode == 0, result.stderr[-4000:]
    runs = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for whole, again in runs:
        assert again["batches"][0] == whole["batches"][4]
        assert [source for source, _ in whole["batches"][4]].count("a") == 3
        assert again["logs"][-1]["loss"] == whole["logs"][-1]["loss"]
    # What is logged is the mean of both.
    first, second = (run[0]["logs"] for run in runs)
    assert [log["a/iou"] for log in first] == [log["a/iou"] for log in second]
    for log in first:
        assert 0.75 * log["a/iou"] + 0.25 * log["b/iou"] == pytest.approx(log["iou"], abs=1e-4)
    assert runs[0][0]["batches"] != runs[1][0]["batches"]


def feature_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_teacher_is_asked_by_all_or_none(launch, rows_file, tmp_path):
    """
    In a second epoch one process has rows that it has not seen, and another none. ZeRO-3 makes them wait for the parts
    of weights that are wide enough to be split.
    """
    checkpoint = create_tiny_checkpoint(tmp_path / "wide", image_size=32, hidden_size=384, num_layers=1)
    few = save_json(load_json(rows_file).select(range(0, 24, 3)), tmp_path / "few.jsonl")  # two steps an epoch
    options = ("teacher", "per_device_train_batch_size=2", "max_steps=6", "learning_rate=0.001")
    losses = [launch(how, "sft", checkpoint, str(few), tmp_path / how, *options, steps=6) for how in ("ddp", "zero3")]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_processes_share_a_feature_cache(launch, checkpoint, rows_file, processor, one_process, tmp_path):
    """Two fill a folder, each with its share of the clips, and train as one does without it; GRPO finds all there."""
    cache, files = tmp_path / "cache", []
    for phase in ("sft", "grpo"):
        settings = ["per_device_train_batch_size=2", f'feature_cache="{cache}"']
        losses = launch("ddp", phase, checkpoint, rows_file, tmp_path / phase, *settings)
        torch.testing.assert_close(losses, one_process[phase], atol=1e-4, rtol=0)
        files.append(feature_files(cache))
    distinct = {clip_digest(row, processor.num_frames, sound=False) for row in load_json(rows_file)}
    assert len(files[0]) == len(distinct)
    assert files[0] == files[1]


def test_zero3_shares_a_feature_cache(launch, checkpoint, rows_file, tmp_path):
    """The weights of teacher and mask encoder are split, and each process runs them on clips of its own."""
    settings = ["per_device_train_batch_size=2", "learning_rate=1e-4", "max_steps=2"]
    plain = launch("zero3", "sft", checkpoint, rows_file, tmp_path / "plain", "teacher", *settings, steps=2)
    settings.append(f'feature_cache="{tmp_path / "cache"}"')
    kept = launch("zero3", "sft", checkpoint, rows_file, tmp_path / "kept", "teacher", *settings, steps=2)
    torch.testing.assert_close(kept, plain, atol=1e-4, rtol=0)
    files = feature_files(tmp_path / "cache")
    losses = launch("zero3", "grpo", checkpoint, rows_file, tmp_path / "grpo", *settings, steps=2)
    assert torch.isfinite(losses).all()
    assert feature_files(tmp_path / "cache") == files


def test_small_steps_arrive_however_it_is_launched(launch, checkpoint, processor, rows_file, tmp_path):
    """From a bfloat16 checkpoint: of steps that bfloat16 would lose, master weights add up what all of them make."""
    AuroraModel.from_pretrained(checkpoint).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    before = AuroraModel.from_pretrained(tmp_path / "base").state_dict()
    shares = {}
    for how in ("one", "ddp", "zero2", "zero3"):
        rows = 4 if how == "one" else 2
        settings = [f"per_device_train_batch_size={rows}", "learning_rate=5e-5", "max_steps=12", "logging_steps=4"]
        launch(how, "sft", tmp_path / "base", rows_file, tmp_path / how, "bf16=true", *settings)
        after = AuroraModel.from_pretrained(tmp_path / how)
        assert after.dtype == torch.bfloat16
        names = [name for name in before if name.startswith("seg_projector") and name.endswith("weight")]
        moved = [(after.state_dict()[name] != before[name]).float().mean() for name in names]
        shares[how] = float(torch.stack(moved).mean())
    assert min(shares.values()) > 0.3, shares
    assert max(shares.values()) - min(shares.values()) < 0.1, shares
