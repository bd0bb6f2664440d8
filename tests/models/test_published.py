"""VideoLLaMA2.1-AV as it is published: every weight finds its place, and the outputs are the published code's.

`videollama2_expected.json` holds what the published implementation gives for the same small weights and inputs.
"""

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_checkpoints import (
    FULL,
    formula_pixels,
    formula_sound,
    formula_weight,
    save_shards,
    videollama2_shapes,
    write_tokenizer,
    write_videollama2,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config

from aurora_trl.data.media.loading import load_audio
from aurora_trl.errors import DataError
from aurora_trl.generation.clip_loader import pad_ids
from aurora_trl.models.checkpoints.weight_files import check_keys
from aurora_trl.models.policies.base import stack_media
from aurora_trl.models.policies.registry import load_policy
from aurora_trl.models.policies.videollama2 import VideoLlama2ForConditionalGeneration, VideoLlama2Processor
from aurora_trl.models.policies.videollama2.published import (
    POSITION_TABLE,
    POSITION_TABLES,
    UNUSED,
    load_tokenizer,
    our_names,
    translate_config,
)
from aurora_trl.models.policies.videollama2.published import (
    load_videollama2 as load,
)

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


def test_the_real_sizes_fit(tmp_path):
    """Names and shapes of VideoLLaMA2.1-7B-AV, whose config names a vision tower and little else."""
    weights = {k: torch.empty(s, device="meta") for k, s in videollama2_shapes(FULL).items() if not UNUSED.match(k)}
    for key in [key for key in weights if POSITION_TABLES.fullmatch(key) and key != POSITION_TABLE]:
        del weights[key]
    published = {
        "model_type": "videollama2_qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_theta": 1000000.0,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
    }
    config = translate_config(published, weights, tmp_path)
    with torch.device("meta"):
        model = VideoLlama2ForConditionalGeneration(config)
    check_keys(tmp_path, our_names(weights), model.state_dict())
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (384, 14)
    assert (config.audio_config.num_attention_heads, config.audio_config.conv_pos_groups) == (12, 16)
    processor = VideoLlama2Processor(load_tokenizer(write_videollama2(tmp_path / "small"))[0])
    places = [processor.video_token_id, processor.audio_token_id]
    media = {"pixel_values_videos": torch.empty(10, 3, 384, 384), "audio_values": torch.empty(2998, 128)}
    ids = processor.expand_ids(places, media)
    assert [ids.count(place) for place in places] == [845, 1496]


def test_frames_are_padded_and_resized_as_published(published, loaded):
    """By Pillow, in square frames of the mean colour."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 50, 3), dtype=np.uint8)
    frames = frames.repeat(4, axis=1).repeat(4, axis=2)
    frames[1] = 0  # a frame that is not there
    ours = loaded[1].process_video(frames)
    assert ours.shape == (2, 3, 36, 36)
    for frame, pixels in zip(frames, ours, strict=True):
        square = Image.new("RGB", (200, 200), (127, 127, 127))
        square.paste(Image.fromarray(frame), (0, 40))
        theirs = np.asarray(square.resize((36, 36), Image.Resampling.BICUBIC)).astype(np.float32)
        np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), (theirs / 255 - 0.5) / 0.5, atol=1e-6)


def test_sound_is_padded_to_30_seconds_unless_told(published, loaded):
    sound = formula_sound(1.0)
    padded = loaded[1].process_audio(sound)
    assert padded.shape == (2998, 128)
    assert torch.equal(loaded[1].process_audio(formula_sound(40.0)), loaded[1].process_audio(formula_sound(30.0)))
    trimmed = load_policy(published, audio_seconds=1.0)[1].process_audio(sound)
    assert trimmed.shape == (98, 128)
    torch.testing.assert_close(trimmed, padded[:98])
    assert padded[100:].unique().numel() == 1  # silence


@torch.no_grad()
def test_sounds_of_their_own_length(published):
    """Not padded to 30 s, each clip of a batch is what it is alone, also beside a longer one and a silent one."""
    policy, processor = load_policy(published, pad_audio=False)
    frames = np.zeros((2, 36, 36, 3), np.uint8)
    sounds = [formula_sound(0.5), None, formula_sound(2.0), np.zeros(10, np.float32)]
    clips = [processor.process_media(frames, sound) for sound in sounds]
    assert [len(clip.get("audio_values", ())) for clip in clips] == [48, 0, 198, 16]
    prompts = [processor.expand_ids([processor.video_token_id, processor.audio_token_id, 5], clip) for clip in clips]
    assert [ids.count(processor.audio_token_id) for ids in prompts] == [24, 0, 96, 8]
    together = policy(
        input_ids=pad_ids(prompts, 0),
        attention_mask=pad_ids([[1] * len(ids) for ids in prompts], 0),
        **stack_media(clips),
    ).logits
    for clip, ids, logits in zip(clips, prompts, together, strict=True):
        media = stack_media([{name: value for name, value in clip.items() if name != "audio_lengths"}])
        alone = policy(input_ids=torch.tensor([ids]), **media).logits[0]
        torch.testing.assert_close(logits[: len(ids)], alone, atol=1e-5, rtol=1e-4)
    embeds = policy.model.encode_media(**stack_media(clips)).as_inputs()
    again = policy(
        input_ids=pad_ids(prompts, 0), attention_mask=pad_ids([[1] * len(ids) for ids in prompts], 0), **embeds
    ).logits
    assert torch.equal(together, again)


def test_the_files_are_left_as_they_are(published):
    """Weights are mapped from the files, and the new rows are written into memory alone."""
    before = {file.name: file.read_bytes() for file in published.iterdir() if file.is_file()}
    policy, processor = load(published)
    with torch.no_grad():
        policy.lm_head.weight.zero_()
    assert {file.name: file.read_bytes() for file in published.iterdir() if file.is_file()} == before


def test_chat_of_plain_strings_is_the_published(published, loaded):
    messages = [{"role": "user", "content": "<video>\nWhich object is it?"}]
    published_tokenizer = AutoTokenizer.from_pretrained(published, config=Qwen2Config())
    theirs = published_tokenizer.apply_chat_template(messages, tokenize=False)
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


def test_the_position_table_may_be_saved_once(broken, loaded):
    """By any layer's name, as safetensors does with shared tensors; two that differ are an error."""
    file = broken / "audio_tower.bin"
    weights = torch.load(file, weights_only=True)
    first, second = (f"model.audio_tower.encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in (0, 1))
    table = weights.pop(first)
    torch.save(weights, file)
    states = load(broken)[0].state_dict()
    assert all(torch.equal(states[key], value) for key, value in loaded[0].state_dict().items())
    torch.save({**weights, first: table + 1}, file)
    with pytest.raises(DataError, match="relative_attention_bias differs between layers"):
        load(broken)


def test_dtype(tmp_path):
    folder = write_videollama2(tmp_path / "half", dtype=torch.float16)
    policy, processor = load(folder)
    assert policy.dtype == torch.bfloat16
    bank = processor.process_audio(formula_sound())[:32]
    assert policy.model.encode_media(audio_values=bank[None]).audio_embeds.isfinite().all()
    assert load(folder, torch.float32)[0].dtype == torch.float32
    with pytest.raises(ValueError, match="can not run in float16.*use bfloat16"):
        load(folder, torch.float16)


def test_float16_is_refused_however_it_comes(loaded):
    """Also by `fp16: true` in a recipe, or a cast after loading."""
    policy, ids = copy.deepcopy(loaded[0]), torch.tensor([[1, 2, 3]])
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="can not run in float16"):
        policy(input_ids=ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert policy(input_ids=ids).logits.isfinite().all()
    with pytest.raises(ValueError, match="can not run in float16"):
        policy.half()(input_ids=ids)


def test_a_repository_is_found_by_its_name(published, tmp_path, monkeypatch):
    """As the Hub client keeps it once it is downloaded."""
    cached = tmp_path / "models--DAMO-NLP-SG--VideoLLaMA2.1-7B-AV"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(published, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV")[0].dtype == torch.float32
    with pytest.raises(DataError, match="DAMO-NLP-SG/Other: no such folder, and not downloaded"):
        load("DAMO-NLP-SG/Other")


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
    "no words": (lambda f: (f / "merges.txt").unlink(), "merges.txt: no such file"),
    "no tower": (lambda f: _edit_config(f, mm_vision_tower="no/such/tower"), "no/such/tower: no such folder"),
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
    write_tokenizer(broken, **{name: None})
    with pytest.raises(DataError, match=f"the tokenizer has no `{name}`"):
        load(broken)
