"""The processor called as transformers' are: text becomes tokens, and clips are not left out in silence."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from aurora_trl.data import DataError


def test_text_is_tokenized(processor):
    ids = processor(text="the object that sounds first")["input_ids"]
    assert ids == processor.tokenizer("the object that sounds first")["input_ids"]


@pytest.mark.parametrize("media", [{"videos": "clip.mp4"}, {"audio": "nope.wav"}, {"images": ["frame.png"]}], ids=str)
def test_media_are_refused_by_name(processor, media):
    with pytest.raises(ValueError, match=f"`{next(iter(media))}` is not taken here: AuroraPipeline"):
        processor(text="the object that sounds first", **media)


def test_a_conversation_with_media_has_text_and_no_tokens(processor):
    asked = [{"role": "user", "content": [{"type": "video", "video": "gone.mp4"}, {"type": "text", "text": "Who?"}]}]
    for turns in (asked, [asked]):
        with pytest.raises(ValueError, match="a part of type 'video' is not taken here: AuroraPipeline"):
            processor.apply_chat_template(turns, tokenize=True, return_dict=True)
    words = [{"role": "user", "content": "Who?"}]
    assert processor.apply_chat_template(words) == processor.tokenizer.apply_chat_template(words, tokenize=False)
    assert processor.apply_chat_template(words, tokenize=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pixel_mean", [0.0, 0.0, 0.0]), ("pixel_std", [1.0, 1.0, 1.0]), ("mask_image_size", 48)],
)
def test_another_decoders_geometry_is_named(model, processor, name, value):
    processor.require_fit(model)
    other = copy.copy(processor)
    setattr(other, name, value)
    with pytest.raises(DataError, match=f"a processor of another model: its `{name}` is"):
        other.require_fit(model)


FRAMES, WAVE = np.full((10, 24, 32, 3), 90, np.uint8), np.full(1600, 0.1, np.float32)


@pytest.mark.parametrize(
    ("frames", "waveform", "seconds", "said"),
    [
        (FRAMES / 255, None, None, r"`frames` must be RGB pixels .* in uint8, from 0 to 255, got float64"),
        (FRAMES.astype(np.uint16) * 256, None, None, "got uint16"),
        (FRAMES.transpose(0, 3, 1, 2), None, None, r"got uint8 of shape \(10, 3, 24, 32\)"),
        (FRAMES[..., :1], None, None, r"got uint8 of shape \(10, 24, 32, 1\)"),
        (FRAMES[:0], None, None, r"got uint8 of shape \(0, 24, 32, 3\)"),
        (FRAMES, (WAVE * 32767).astype(np.int16), None, r"`waveform` must be mono samples .* got int16"),
        (FRAMES, np.stack([WAVE, WAVE]), None, r"got float32 of shape \(2, 1600\)"),
        (FRAMES, WAVE[:0], None, r"got float32 of shape \(0,\)"),
        (FRAMES, WAVE * 32767, None, "`waveform`: its samples reach 3,277"),
        (FRAMES, WAVE * np.nan, None, "`waveform`: some of its samples are no numbers"),
        (FRAMES, WAVE, [0.0, 1.0], "`frame_seconds` must have a time for each of 10 frames, got 2"),
    ],
)
def test_pixels_and_samples_of_another_kind_are_refused(processor, frames, waveform, seconds, said):
    """A model takes numbers of any size, and what it is shown is black, or noise."""
    with pytest.raises(ValueError, match=said):
        processor.process_clip(frames, waveform, frame_seconds=seconds)


def test_pixels_and_samples_of_the_same_kind_are_taken(processor):
    expected = processor.process_clip(FRAMES, WAVE)
    for frames, waveform in (
        (list(FRAMES), WAVE.astype(np.float64)),
        (torch.from_numpy(FRAMES), torch.from_numpy(WAVE)),
        ([Image.fromarray(frame) for frame in FRAMES], WAVE.tolist()),
    ):
        found = processor.process_clip(frames, waveform)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
