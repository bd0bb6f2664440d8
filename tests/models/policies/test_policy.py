"""The VideoLLaMA2.1-AV policy."""

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram

from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.policies.videollama2 import VideoLlama2Processor


def test_filter_bank_equals_the_reference(processor):
    """Kaldi's bank as transformers computes it frame by frame (their AST extractor's settings, without dither)."""
    policy = VideoLlama2Processor(processor.tokenizer)
    wave = np.random.default_rng(0).normal(0, 0.1, 16000 * 2).astype(np.float32)
    ours = policy._filter_bank(torch.from_numpy(wave) * 2**15)
    bank = mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=128,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    window = np.power(np.hanning(400), 0.85)  # povey
    theirs = spectrogram(
        (wave * 2**15).astype(np.float64),
        window,
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=bank,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    assert ours.shape == theirs.shape == (198, 128)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)


def test_sound_is_cut_to_its_own_length(processor):
    """No padding to 30 s: two thirds of the places would hold silence."""
    policy = processor.policy_processor
    seconds = [policy.process_audio(np.zeros(16000 * n, np.float32)).shape[0] for n in (10, 30)]
    assert seconds[0] == seconds[1] == 249


def test_places_are_expanded(cot_rows, processor):
    row = cot_rows[0]
    clip = ClipLoader(processor).clip(row)
    ids = processor.prompt_ids(row, clip)
    policy = processor.policy_processor
    assert ids.count(policy.video_token_id) == 4
    assert ids.count(policy.audio_token_id) == 30
    without = {name: value for name, value in clip.items() if name != "audio_values"}
    silent = processor.prompt_ids({**row, "audio": None}, without)
    assert silent.count(policy.audio_token_id) == 0


def test_layer_drop_is_off_where_the_tower_is_frozen(model):
    model.set_trainable({"language_model"})
    model.train()
    assert not model.policy.model.audio_tower.training
    assert not any(module.training for module in model.policy.model.audio_tower.modules())
    assert model.policy.model.language_model.training


def test_a_clip_without_sound_beside_one_with_sound(model, cot_rows, processor):
    """One batch may hold both; the silent row is what it is alone."""
    loader = ClipLoader(processor)
    other = next(row for row in cot_rows if row["frames"] != cot_rows[0]["frames"])
    silent = {**cot_rows[0], "audio": None}
    model.eval()
    with torch.no_grad():
        both = SFTCollator(loader)([other, silent])
        alone = SFTCollator(loader)([silent])
        for batch in (both, alone):
            batch.pop("masks"), batch.pop("labels")
        output, single = model(**both), model(**alone)
    torch.testing.assert_close(output["mask_logits"][1], single["mask_logits"][0], atol=1e-5, rtol=1e-4)


def test_a_tower_that_trains_is_run_without_sound(model, cot_rows, processor):
    """So that no process waits for another; what it makes of silence changes nothing."""
    batch = SFTCollator(ClipLoader(processor))([{**cot_rows[0], "audio": None}])
    batch.pop("masks"), batch.pop("labels")
    model.eval().set_trainable(set())
    with torch.no_grad():
        plain = model(**batch).logits
    model.set_trainable({"audio_tower", "connector"})
    logits = model(**batch).logits
    assert torch.equal(logits, plain)
    logits.sum().backward()
    assert all(value.grad is not None for value in model.trainable_modules()["audio_tower"].parameters())


def test_features_that_do_not_fit_are_an_error(model, cot_rows, processor):
    batch = SFTCollator(ClipLoader(processor))([cot_rows[0]])
    batch.pop("masks"), batch.pop("labels")
    first = int((batch["input_ids"] == processor.policy_processor.video_token_id).nonzero()[0, 1])
    for name in ("input_ids", "attention_mask"):
        batch[name] = batch[name][:, first + 1 :]
    batch["seg_positions"] -= first + 1
    with pytest.raises(ValueError, match="<video> places do not fit features"):
        model(**batch)
