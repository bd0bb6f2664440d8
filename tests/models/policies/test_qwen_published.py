"""The Qwen policies from checkpoints in the published layout: file names, weight names, config fields."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_qwen import published_text_config, write_published
from published_sams import small_sam
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniProcessor

from aurora_trl.errors import DataError
from aurora_trl.models import AuroraModel, load_published
from aurora_trl.models.policies.base import stack_media
from aurora_trl.models.policies.qwen import (
    Qwen3VLPolicy,
    Qwen3VLPolicyProcessor,
    QwenOmniPolicy,
    QwenOmniPolicyProcessor,
    QwenVLPolicy,
)
from aurora_trl.models.policies.qwen.published import load_qwen3_vl, load_qwen_omni, load_qwen_vl
from aurora_trl.models.policies.registry import load_policy
from aurora_trl.models.processing_aurora import AuroraProcessor

LOADERS = {False: load_qwen_vl, True: load_qwen_omni}


@pytest.mark.parametrize("sound", [False, True], ids=["vl", "omni"])
@torch.no_grad()
def test_the_published_layout_loads(sound, qwen_checkpoints, tmp_path):
    """Every weight in its place, the prompt and the clip as in the policy that was written."""
    model = write_published(qwen_checkpoints[sound], tmp_path, sound)
    policy, processor = load_policy(tmp_path)
    assert type(policy) is (QwenOmniPolicy if sound else QwenVLPolicy)
    assert not policy.training
    assert policy.state_dict().keys() == model.policy.state_dict().keys()
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in model.policy.state_dict().items())
    assert policy.generation_config.repetition_penalty is None
    assert policy.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert (processor.sampling_rate == 16000) if sound else (processor.sampling_rate is None)

    frames = np.random.default_rng(0).integers(0, 256, (4, 320, 240, 3), dtype=np.uint8)
    waveform = np.random.default_rng(1).normal(0, 0.1, 32000).astype(np.float32)
    media = processor.process_media(frames, waveform if sound else None)
    steps, height, width, milliseconds = media["pixel_grid"].tolist()
    assert (steps, milliseconds) == (2, 2000)
    low, high = (Qwen2_5OmniProcessor.videos_kwargs["size"][edge] for edge in ("shortest_edge", "longest_edge"))
    assert low <= height * width * 64 <= high
    content = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": "Where is it?"}]
    tokenizer = processor.tokenizer
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids = processor.expand_ids(tokenizer(text)["input_ids"], media)
    logits = policy(torch.tensor([ids]), **stack_media([media])).logits
    assert torch.equal(logits, model.policy(torch.tensor([ids]), **stack_media([media])).logits)


def test_settings_and_dtype(qwen_checkpoints, tmp_path):
    """Settings are set on the processor, kept in its files, and reach the clip."""
    write_published(qwen_checkpoints[True], tmp_path, sound=True)
    settings = {"seconds_per_frame": 0.5, "audio_seconds": 2.0, "video_max_pixels": 90_000}
    policy, processor = load_policy(tmp_path, torch.bfloat16, **settings)
    assert {value.dtype for value in policy.parameters()} == {torch.bfloat16}
    processor.save_pretrained(tmp_path / "saved")
    again = QwenOmniPolicyProcessor.from_pretrained(tmp_path / "saved")
    assert {name: getattr(again, name) for name in settings} == settings
    frames = np.zeros((4, 1080, 1920, 3), np.uint8)
    _, height, width, milliseconds = again.process_frames(frames)["pixel_grid"].tolist()
    assert milliseconds == 1000
    assert height * width * 64 <= 90_000
    waveform = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    cut = again.process_audio(waveform)
    assert len(cut) == 50
    assert torch.equal(cut, again.process_audio(waveform[:32_000]))


def test_one_table_for_embeddings_and_head(qwen_checkpoints, tmp_path):
    """As in the 3B of Qwen2.5-VL, whose file holds it once."""
    write_published(qwen_checkpoints[False], tmp_path, sound=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    policy, _ = load_qwen_vl(tmp_path)
    assert policy.get_output_embeddings().weight is policy.get_input_embeddings().weight
    assert torch.equal(policy.get_input_embeddings().weight, weights["model.embed_tokens.weight"])
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    model, processor = load_published(tmp_path, tmp_path / "sam.pth", num_frames=2)
    model.save_pretrained(tmp_path / "base")
    again = AuroraModel.from_pretrained(tmp_path / "base")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


@pytest.mark.parametrize("sound", [False, True], ids=["vl", "omni"])
def test_every_weight_is_accounted_for(sound, qwen_checkpoints, tmp_path):
    write_published(qwen_checkpoints[sound], tmp_path, sound)
    load, file = LOADERS[sound], tmp_path / "model.safetensors"
    weights = load_file(file)
    prefix = "thinker." if sound else ""
    norm = weights.pop(f"{prefix}model.norm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing: model\.language_model\.norm\.weight"):
        load(tmp_path)
    weights |= {f"{prefix}model.norm.weight": norm, f"{prefix}model.extra.weight": norm.clone()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 unexpected: model\.language_model\.extra\.weight"):
        load(tmp_path)
    with pytest.raises(DataError, match="its model type is"):
        LOADERS[not sound](tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="model.safetensors: cut short"):
        load(tmp_path)


VISION_FILE = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
VISION_FILE |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "processor_class": "Qwen3VLProcessor"}


def write_published_qwen3(checkpoint: Path, folder: Path, *, tied: bool) -> AuroraModel:
    """The tiny Qwen3-VL as it is published: names without a change, a file for images and one for videos."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    policy, tokenizer = model.policy.eval(), processor.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    image = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    image["size"] = {"longest_edge": 16777216, "shortest_edge": 65536}
    video = {"video_processor_type": "Qwen3VLVideoProcessor"}
    video["size"] = {"longest_edge": 25165824, "shortest_edge": 4096}
    (folder / "preprocessor_config.json").write_text(json.dumps(VISION_FILE | image))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VISION_FILE | video))
    config = policy.config.to_dict()
    text = published_text_config(policy.config.text_config, "default")
    text["rope_scaling"] |= {"rope_type": text["rope_scaling"].pop("type"), "mrope_interleaved": True}
    config |= {"model_type": "qwen3_vl", "tie_word_embeddings": tied, "dtype": None}
    config["text_config"] = {**text, "model_type": "qwen3_vl_text", "tie_word_embeddings": tied, "dtype": "float32"}
    config["vision_config"]["model_type"] = "qwen3_vl"  # so in the first files
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(policy.state_dict())
    if tied:
        weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model


@torch.no_grad()
def test_published_qwen3_loads(qwen_checkpoints, tmp_path):
    """Every weight in its place, and frames of the size that Qwen's own tools give them."""
    model = write_published_qwen3(qwen_checkpoints["qwen3"], tmp_path, tied=False)
    policy, processor = load_policy(tmp_path)
    assert type(policy) is Qwen3VLPolicy
    assert (policy.dtype, policy.training, processor.sampling_rate) == (torch.float32, False, None)
    assert policy.state_dict().keys() == model.policy.state_dict().keys()
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in model.policy.state_dict().items())
    frames = np.random.default_rng(0).integers(0, 256, (4, 1080, 1920, 3), dtype=np.uint8)
    media = processor.process_media(frames, None)
    steps, height, width, milliseconds, num_frames = media["pixel_grid"].tolist()
    assert (steps, milliseconds, num_frames) == (2, 2000, 4)
    assert 700 < height * width / 4 <= 768
    content = [{"type": "video"}, {"type": "text", "text": "Where is it?"}]
    tokenizer = processor.tokenizer
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids = processor.expand_ids(tokenizer(text)["input_ids"], media)
    assert ids.count(processor.video_token_id) == 2 * height * width // 4
    logits = policy(torch.tensor([ids]), **stack_media([media]), logits_to_keep=1).logits
    expected = model.policy(torch.tensor([ids]), **stack_media([media]), logits_to_keep=1).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_settings_of_qwen3_and_its_one_table(qwen_checkpoints, tmp_path):
    write_published_qwen3(qwen_checkpoints["qwen3"], tmp_path, tied=True)
    settings = {"seconds_per_frame": 0.5, "video_max_pixels": 100 * 256}
    policy, processor = load_policy(tmp_path, torch.bfloat16, **settings)
    assert policy.get_output_embeddings().weight is policy.get_input_embeddings().weight
    assert {value.dtype for value in policy.parameters()} == {torch.bfloat16}
    processor.save_pretrained(tmp_path / "saved")
    again = Qwen3VLPolicyProcessor.from_pretrained(tmp_path / "saved")
    assert {name: getattr(again, name) for name in settings} == settings
    _, height, width, milliseconds, _ = again.process_media(np.zeros((4, 1080, 1920, 3), np.uint8), None)["pixel_grid"]
    assert milliseconds == 1000
    assert 80 < height * width / 4 <= 100
    with pytest.raises(DataError, match="its model type is 'qwen3_vl', not 'qwen2_5_vl'"):
        load_qwen_vl(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.visual.deepstack_merger_list.1.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing: model\.visual\.deepstack_merger_list\.1\.norm\.weight"):
        load_qwen3_vl(tmp_path)
