"""The processor called as transformers' are: text becomes tokens, and clips are not left out in silence."""

import copy

import pytest

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
