"""Features of frozen models on disk: losses stay what they are, and nothing is computed twice."""

import gc
import logging
import shutil
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from grpo_helpers import build as build_grpo
from grpo_helpers import logged
from PIL import Image
from sft_helpers import build, losses

from aurora_trl import AuroraModel, AuroraSFTConfig
from aurora_trl.data.schema import clip_key
from aurora_trl.errors import DataError
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora


@pytest.fixture(scope="module")
def few_rows(cot_rows):
    """Twelve references about three clips."""
    rows = cot_rows.select(range(12))
    assert len({clip_key(row) for row in rows}) == 3
    return rows


def count_passes(**parts):
    """How often each part is run from now on, by its name."""
    passes: Counter[str] = Counter()
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: passes.update([name]))
    return passes


def run_sft(checkpoint, rows, processor, folder, *, distilled=True, resume=None, **settings):
    """A run that is distilled from its own beginning, and how often the frozen parts ran."""
    model = AuroraModel.from_pretrained(checkpoint)
    parts = {"encoder": model.mask_decoder.image_encoder}
    if distilled:
        settings["teacher"] = AuroraModel.from_pretrained(checkpoint)
        parts["teacher"] = settings["teacher"].policy
    trainer = build(model, rows, processor, folder, **settings)
    passes = count_passes(**parts)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, passes


@pytest.fixture(scope="module")
def filled(checkpoint, few_rows, processor, tmp_path_factory):
    """A folder with the features of `few_rows`, to be copied by who changes it."""
    folder = tmp_path_factory.mktemp("filled")
    run_sft(checkpoint, few_rows, processor, folder / "run", max_steps=1, feature_cache=str(folder / "cache"))
    return folder / "cache"


@pytest.mark.parametrize("frames", [None, 4])
def test_losses_are_those_without_it_to_the_bit(frames, checkpoint, few_rows, processor, tmp_path):
    """In the first run and in the second, which does not run the encoder; the second epoch begins on the way."""
    settings = {"distilled": False, "per_device_train_batch_size": 1, "max_steps": 14, "mask_frames_per_step": frames}
    plain, passes = run_sft(checkpoint, few_rows, processor, tmp_path / "plain", **settings)
    assert passes["encoder"] == 14
    settings.update(feature_cache=str(tmp_path / "cache"), dataloader_num_workers=2)
    first, made = run_sft(checkpoint, few_rows, processor, tmp_path / "first", **settings)
    second, again = run_sft(checkpoint, few_rows, processor, tmp_path / "second", **settings)
    assert made["encoder"] == 3
    assert not again
    assert len(losses(plain)) == 14
    assert losses(first) == losses(plain)
    assert losses(second) == losses(plain)


def test_distillation_is_that_without_it(checkpoint, few_rows, processor, tmp_path):
    """The teacher reads all rows about a clip at once, which may change the last bits; another run changes none."""
    settings = {"max_steps": 8, "per_device_train_batch_size": 3, "learning_rate": 1e-4, "save_strategy": "steps"}
    settings["save_steps"] = 5
    plain, _ = run_sft(checkpoint, few_rows, processor, tmp_path / "plain", **settings)
    settings["feature_cache"] = str(tmp_path / "cache")
    first, made = run_sft(checkpoint, few_rows, processor, tmp_path / "first", **settings)
    assert dict(made) == {"encoder": 3, "teacher": 3}
    assert first.teacher is None
    second, again = run_sft(checkpoint, few_rows, processor, tmp_path / "second", **settings)
    resume = str(tmp_path / "first" / "checkpoint-5")
    resumed, resumed_passes = run_sft(checkpoint, few_rows, processor, tmp_path / "first", resume=resume, **settings)
    assert not again
    assert not resumed_passes
    torch.testing.assert_close(torch.tensor(losses(first)), torch.tensor(losses(plain)), atol=1e-5, rtol=0)
    assert losses(second) == losses(first)
    assert losses(resumed)[-3:] == losses(first)[-3:]
    assert all(entry["distillation_loss"] > 0 for entry in first.state.log_history if "loss" in entry)


def test_changed_weights_and_files_are_made_anew(checkpoint, few_rows, filled, processor, tmp_path):
    cache = shutil.copytree(filled, tmp_path / "cache")
    settings = {"max_steps": 1, "feature_cache": str(cache)}
    first_clip = clip_key(few_rows[0])
    files = [shutil.copy(path, tmp_path / Path(path).name) for path in few_rows[0]["frames"]]
    moved = [{**row, "frames": list(map(str, files))} if clip_key(row) == first_clip else row for row in few_rows]
    moved = Dataset.from_list(moved, features=few_rows.features)
    _, passes = run_sft(checkpoint, moved, processor, tmp_path / "moved", **settings)
    assert not passes  # another name is not another clip
    Image.new("RGB", Image.open(files[2]).size).save(files[2])
    _, passes = run_sft(checkpoint, moved, processor, tmp_path / "changed", **settings)
    assert dict(passes) == {"encoder": 1, "teacher": 1}

    other = AuroraModel.from_pretrained(checkpoint)
    with torch.no_grad():
        next(iter(other.mask_decoder.image_encoder.parameters())).add_(0.01)
    other.save_pretrained(tmp_path / "other")
    _, passes = run_sft(tmp_path / "other", few_rows, processor, tmp_path / "encoder", distilled=False, **settings)
    assert passes["encoder"] == 3
    larger = type(processor).from_pretrained(checkpoint)
    larger.instruction += " Look closely."
    longer = shutil.copytree(checkpoint, tmp_path / "longer")  # a teacher is asked what it was taught
    larger.save_pretrained(longer)
    _, passes = run_sft(longer, few_rows, larger, tmp_path / "words", **settings)
    assert dict(passes) == {"teacher": 3}  # the encoder does not read


def test_an_encoder_that_changed_between_two_trainings_of_one_trainer(checkpoint, few_rows, processor, tmp_path):
    def change(model):
        with torch.no_grad():
            for weight in model.mask_decoder.trainable_modules()["mask_encoder"].parameters():
                weight.mul_(1.5)

    model, settings = AuroraModel.from_pretrained(checkpoint), {"max_steps": 1, "learning_rate": 0.0}
    kept = build(model, few_rows, processor, tmp_path, feature_cache=str(tmp_path / "kept"), **settings)
    kept.train()
    change(model)
    kept.train()
    model = AuroraModel.from_pretrained(checkpoint)
    change(model)
    plain = build(model, few_rows, processor, tmp_path, **settings)
    plain.train()
    assert losses(kept) == losses(plain)


@pytest.mark.parametrize("marks", ["masks", "points"])
def test_rows_that_are_annotated_in_some_frames_alone(marks, checkpoint, few_rows, processor, tmp_path):
    """Which frames are taken of a clip is up to these, so its features are those of other frames."""
    rows = few_rows.to_list()
    for number, row in enumerate(rows[:6]):
        given = row["masks"] if marks == "masks" else [[[5, 5]]] * len(row["frames"])
        row["masks"], row[marks] = None, [mark if i % 3 == number % 3 else None for i, mark in enumerate(given)]
        row["frames"] = [*row["frames"], *row["frames"]]  # twice as many as the model takes
        row[marks] += row[marks]
    rows = Dataset.from_list(rows)
    settings = {"max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 1e-4}
    plain, _ = run_sft(checkpoint, rows, processor, tmp_path / "plain", **settings)
    settings["feature_cache"] = str(tmp_path / "cache")
    kept, _ = run_sft(checkpoint, rows, processor, tmp_path / "kept", **settings)
    torch.testing.assert_close(torch.tensor(losses(kept)), torch.tensor(losses(plain)), atol=1e-5, rtol=0)


def test_a_damaged_file_is_made_anew(checkpoint, few_rows, filled, processor, tmp_path, caplog):
    cache = shutil.copytree(filled, tmp_path / "cache")
    whole = {path: path.read_bytes() for path in sorted(cache.rglob("*.safetensors"))}
    largest = sorted(whole, key=lambda path: len(whole[path]))[-3:]
    largest[0].write_bytes(whole[largest[0]][:-100])
    flipped = bytearray(whole[largest[1]])
    flipped[-1] ^= 255
    largest[1].write_bytes(flipped)
    settings = {"max_steps": 1, "feature_cache": str(cache)}
    _, passes = run_sft(checkpoint, few_rows, processor, tmp_path / "run", **settings)
    assert dict(passes) == {"encoder": 2}
    assert all(f"{path}: not " in caplog.text for path in largest[:2])
    assert {path: path.read_bytes() for path in sorted(cache.rglob("*.safetensors"))} == whole


def test_later_phases_find_them(checkpoint, few_rows, filled, processor, tmp_path):
    """After LoRA, after a phase that trained the decoder, and in GRPO, whose rewards and losses they leave alone."""
    settings = {"max_steps": 2, "feature_cache": str(filled)}
    model = AuroraModel.from_pretrained(checkpoint)
    groups = AuroraSFTConfig(output_dir=str(tmp_path), use_cpu=True).trainable_groups()
    adapter = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = build(model, few_rows, processor, tmp_path / "lora", peft_config=adapter, **settings)
    passes = count_passes(encoder=unwrap_aurora(trainer.model).mask_decoder.image_encoder)
    trainer.train()
    trainer.save_model()
    assert not passes
    results = []
    for cache in (None, str(filled)):
        model = AuroraModel.from_pretrained(tmp_path / "lora")
        folder = tmp_path / f"grpo-{cache is None}"
        trainer = build_grpo(model, few_rows, processor, folder, feature_cache=cache)
        passes = count_passes(encoder=model.mask_decoder.image_encoder)
        trainer.train()
        results.append(logged(trainer, "loss", "reward", "iou", "grad_norm"))
        assert passes["encoder"] == (2 if cache is None else 0)
    assert len(results[0]) == 2
    torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]), atol=1e-5, rtol=1e-5)


def test_an_encoder_that_trains_keeps_none(checkpoint, few_rows, processor, tmp_path, caplog):
    settings = {"feature_cache": str(tmp_path / "cache"), "freeze_mask_encoder": False, "max_steps": 1}
    with caplog.at_level(logging.WARNING):
        _, passes = run_sft(checkpoint, few_rows, processor, tmp_path / "run", distilled=False, **settings)
    assert "is not used for the mask encoder: `freeze_mask_encoder: false` trains it" in caplog.text
    assert passes["encoder"] == 1
    assert not (tmp_path / "cache").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in (str(tmp_path / "file"), ""):
        with pytest.raises(ValueError, match="`feature_cache` must name a folder"):
            AuroraSFTConfig(output_dir=str(tmp_path), use_cpu=True, feature_cache=name)


def test_evaluation_has_them_too(checkpoint, cot_rows, few_rows, filled, processor, tmp_path):
    cache = shutil.copytree(filled, tmp_path / "cache")
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = build(model, few_rows, processor, tmp_path / "run", feature_cache=str(cache), max_steps=1)
    known = {clip_key(row) for row in few_rows}
    others = cot_rows.filter(lambda row: clip_key(row) not in known).select(range(3))
    trainer.train()
    with pytest.raises(DataError, match="no features of a clip"):
        trainer.data_collator(list(others))
    passes = count_passes(encoder=model.mask_decoder.image_encoder)
    assert trainer.evaluate(others)["eval_loss"] > 0
    assert passes["encoder"] == len({clip_key(row) for row in others})
    assert trainer.evaluate(others)["eval_loss"] > 0
    assert passes["encoder"] == len({clip_key(row) for row in others})


def test_the_teacher_is_let_go(checkpoint, cot_rows, few_rows, filled, processor, tmp_path):
    """Its features outlive it; a row that it has not read can not be asked for."""
    settings = {"feature_cache": str(filled), "max_steps": 1, "teacher": AuroraModel.from_pretrained(checkpoint)}
    teacher = weakref.ref(settings["teacher"])
    trainer = build(AuroraModel.from_pretrained(checkpoint), few_rows, processor, tmp_path, **settings)
    del settings["teacher"]
    trainer.train()
    gc.collect()
    assert teacher() is None
    assert trainer.teacher_features(few_rows.to_list()).shape[0] == 12
    with pytest.raises(DataError, match=rf"row '{cot_rows[-1]['id']}': .* has no teacher feature"):
        trainer.teacher_features([few_rows[0], cot_rows[-1]])
