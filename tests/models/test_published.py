"""VideoLLaMA2.1-AV as it is published: every weight finds its place, and the outputs are the published code's.

`videollama2_expected.json` holds what the published implementation gives for the same small weights and inputs.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from published_checkpoints import (
    formula_pixels,
    formula_sound,
    formula_weight,
    published_tokenizer,
    save_shards,
    write_videollama2,
)
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from aurora_trl.data.media import load_audio
from aurora_trl.data.schema import DataError
from aurora_trl.models.policies.videollama2.published import load

EXPECTED = json.loads((Path(__file__).parent / "videollama2_expected.json").read_text())
BLOCKS = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": "Which object is it?"}]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_videollama2(tmp_path_factory.mktemp("published") / "VideoLLaMA2.1-7B-AV")


@pytest.fixture(scope="module")
def loaded(published):
    return load(published)


@pytest.fixture
def broken(published, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(published, tmp_path / "copy"))


def assert_expected(values, name):
    torch.testing.assert_close(values.flatten(), torch.tensor(EXPECTED[name]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_connector_equals_the_published(loaded):
    features = formula_weight("features", 5 * 25 * 32, 1).reshape(1, 5, 25, 32)
    output = loaded[0].model.mm_projector(features)
    assert output.shape == (1, 8, 64)
    assert_expected(output[0, :, ::8], "connector")


@torch.no_grad()
def test_audio_tower_equals_the_published(loaded):
    policy, processor = loaded
    bank = processor.process_audio(formula_sound())
    assert bank.shape == (2998, 128)
    assert_expected(bank[::300, ::16], "filter_bank")
    states = policy.model.audio_tower(bank[None])
    assert states.shape == (1, 1496, 48)
    assert_expected(states[0, ::150, ::8], "audio_tower")


@pytest.mark.skipif("AURORA_REAL_DATA" not in os.environ, reason="AURORA_REAL_DATA names no folder with real clips")
@torch.no_grad()
def test_audio_tower_equals_the_published_on_a_real_sound(loaded):
    policy, processor = loaded
    clip = Path(os.environ["AURORA_REAL_DATA"]) / "clips" / "clip_6s_360p.mp4"
    bank = processor.process_audio(load_audio({"video": str(clip)}, sampling_rate=16000))
    assert_expected(bank[:600:60, ::16], "clip_filter_bank")
    assert_expected(policy.model.audio_tower(bank[None])[0, ::150, ::8], "clip_audio_tower")


@torch.no_grad()
def test_logits_of_a_clip_equal_the_published(published, loaded):
    """The prompt's ids, the places of the features, the positions and the logits."""
    policy, processor = loaded
    bank = processor.process_audio(formula_sound())
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": BLOCKS}], tokenize=False, add_generation_prompt=True
    )
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    # Upstream has one place, -201, for video and audio together.
    joint = [-201 if i == processor.video_token_id else i for i in ids if i != processor.audio_token_id]
    assert joint == EXPECTED["prompt_ids"]
    media = {"pixel_values_videos": formula_pixels(6, 36)[0], "audio_values": bank}
    input_ids = torch.tensor([processor.expand_ids(ids, media)])
    logits = policy(input_ids=input_ids, **{name: value[None] for name, value in media.items()}).logits[0]
    assert len(logits) == EXPECTED["num_positions"]
    assert_expected(logits[::96, 8:296:24], "logits")
    assert_expected(logits[-1, 8:296:12], "last_logits")


def test_chat_of_plain_strings_is_the_published(published, loaded):
    messages = [{"role": "user", "content": "<video>\nWhich object is it?"}]
    theirs = PreTrainedTokenizerFast.from_pretrained(published).apply_chat_template(messages, tokenize=False)
    assert loaded[1].tokenizer.apply_chat_template(messages, tokenize=False) == theirs


def test_new_tokens_take_the_free_rows(loaded):
    policy, processor = loaded
    tokenizer = processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(["<video>", "<audio>", "[SEG]"])
    assert ids == [303, 304, 305]
    assert "[SEG]" not in tokenizer.all_special_tokens
    assert policy.media_token_ids == (303, 304)
    for table, key in ((policy.get_input_embeddings(), "model.embed_tokens"), (policy.lm_head, "lm_head")):
        original = formula_weight(f"{key}.weight", 512, 64)
        assert table.weight.shape == (512, 64)
        torch.testing.assert_close(table.weight[ids], original[:303].mean(0).expand(3, -1))
        assert torch.equal(table.weight[:303], original[:303])
        assert torch.equal(table.weight[306:], original[306:])


def test_a_full_vocabulary_grows(broken):
    """Where the published table has no free rows."""
    weights = {}
    for shard in sorted(broken.glob("*.safetensors")):
        weights.update(load_file(shard))
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = weights[key][:303].clone()
    save_shards(weights, broken, 4)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "vocab_size": 303}))
    policy, processor = load(broken)
    assert policy.get_input_embeddings().weight.shape == policy.lm_head.weight.shape == (320, 64)
    assert policy.config.text_config.vocab_size == 320
    assert torch.equal(policy.lm_head.weight[:303], weights["lm_head.weight"])
    torch.testing.assert_close(policy.lm_head.weight[305], weights["lm_head.weight"].mean(0))


@pytest.mark.parametrize("name", ["audio_tower.bin", "mm_projector_a.bin"])
def test_audio_weights_may_be_in_the_shards(name, broken, loaded):
    """And count before those in the file of their own."""
    weights = torch.load(broken / name, weights_only=True)
    for shard in sorted(broken.glob("*.safetensors")):
        weights.update(load_file(shard))
    save_shards(weights, broken, 4)
    torch.save({"model.unread": torch.zeros(1)}, broken / name)
    policy, _ = load(broken)
    for (key, ours), theirs in zip(policy.state_dict().items(), loaded[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


def test_dtype(tmp_path):
    folder = write_videollama2(tmp_path / "half", dtype=torch.float16)
    policy, processor = load(folder)
    assert policy.dtype == torch.bfloat16
    bank = processor.process_audio(formula_sound())[:32]
    assert policy.model.encode_media(audio_values=bank[None]).audio_embeds.isfinite().all()
    assert load(folder, torch.float32)[0].dtype == torch.float32
    with pytest.raises(ValueError, match="can not run in float16.*use bfloat16"):
        load(folder, torch.float16)


def _without(file, key):
    weights = load_file(file)
    index = file.parent / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"].pop(key, None)
    index.write_text(json.dumps(content))
    del weights[key]
    save_file(weights, file, metadata={"format": "pt"})


def _shard_of(folder, key):
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][key]


def test_a_missing_key_is_listed(broken):
    key = "model.mm_projector.s2.b3.se.fc1.bias"
    _without(_shard_of(broken, key), key)
    with pytest.raises(DataError, match=r"copy: its weights do not fit .* 1 missing: model\.mm_projector\.s2\.b3"):
        load(broken)


def test_unexpected_keys_are_listed(broken):
    weights = torch.load(broken / "mm_projector_a.bin", weights_only=True)
    weights["model.mm_projector_a.4.weight"] = torch.zeros(2)
    torch.save(weights, broken / "mm_projector_a.bin")
    with pytest.raises(DataError, match=r"1 unexpected: model\.mm_projector_a\.4\.weight"):
        load(broken)


def test_a_key_of_another_shape_is_listed(broken):
    weights = torch.load(broken / "mm_projector_a.bin", weights_only=True)
    weights["model.mm_projector_a.0.weight"] = torch.zeros(64, 3)
    torch.save(weights, broken / "mm_projector_a.bin")
    with pytest.raises(DataError, match=r"1 of another shape: .*0\.weight \(64, 3\) in place of \(64, 48\)"):
        load(broken)


def _cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _edit_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


class Thing:
    """What a file of tensors must never hold."""


BREAKS = {
    "half a shard": (lambda f: _cut(f / "model-00002-of-00004.safetensors"), "00002-of-00004.safetensors: cut short"),
    "no shard": (lambda f: (f / "model-00003-of-00004.safetensors").unlink(), "00003-of-00004.*: no such file"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file; .* not the folder of a publi"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
    "half audio": (lambda f: _cut(f / "audio_tower.bin"), "audio_tower.bin: cut short, or not a file of tensors"),
    "no audio": (lambda f: (f / "audio_tower.bin").unlink(), "audio_tower.* is missing in its shards or in audio_t"),
    "code": (lambda f: torch.save({"a": Thing()}, f / "audio_tower.bin"), "audio_tower.bin: cut short, or not a fi"),
    "list": (lambda f: torch.save([1], f / "audio_tower.bin"), "audio_tower.bin: not a dictionary of tensors"),
    "connector": (
        lambda f: _edit_config(f, mm_projector_type="stc_connector"),
        "`mm_projector_type` is 'stc_connector'; only 'stc_connector_v35' is ported",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer_config.json").unlink(), "tokenizer_config.json: no such file"),
    "no tower": (lambda f: _edit_config(f, mm_vision_tower="no/such/tower"), "no/such/tower: no such checkpoint"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_checkpoint_is_one_clear_line(name, broken):
    break_it, message = BREAKS[name]
    break_it(broken)
    with pytest.raises(DataError, match=message) as caught:
        load(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["eos_token", "pad_token", "chat_template"])
def test_a_tokenizer_without_what_is_needed(name, broken):
    tokenizer = published_tokenizer()
    setattr(tokenizer, name, None)
    tokenizer.save_pretrained(broken)
    (broken / "chat_template.jinja").unlink(missing_ok=name == "chat_template")
    if name != "chat_template":
        tokenizer.save_pretrained(broken)
    with pytest.raises(DataError, match=f"the tokenizer has no `{name}`"):
        load(broken)
