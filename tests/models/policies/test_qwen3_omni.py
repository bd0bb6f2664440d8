"""Qwen3-Omni: sound among frames, experts, and transformers' own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_qwen import SOUND_FILE, published_text_config
from safetensors.torch import load_file, save_file
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.errors import DataError
from aurora_trl.generation.clip_loader import pad_ids
from aurora_trl.models.policies.base import stack_media
from aurora_trl.models.policies.qwen import Qwen3OmniPolicy, Qwen3OmniPolicyProcessor
from aurora_trl.models.policies.qwen.published import load_qwen3_omni
from aurora_trl.models.policies.registry import load_policy

ROW = {"reference": "The object that sounds.", "audio": "a.wav"}
OTHER = {"reference": "The one behind the guitar that starts to sound first.", "audio": "a.wav"}


@pytest.fixture
def parts(qwen_checkpoints) -> tuple[AuroraModel, AuroraProcessor]:
    folder = qwen_checkpoints["omni3"]
    return AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)


def noise(seed: int, seconds: float, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Frames `(T, 48, 64, 3)` and sound."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    return frames, random.normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def make_batch(processor: AuroraProcessor, clips, rows=(ROW, OTHER), side: str = "left") -> dict[str, torch.Tensor]:
    prompts = [processor.prompt_ids(row, clip) for row, clip in zip(rows, clips, strict=True)]
    return {
        "input_ids": pad_ids(prompts, processor.tokenizer.pad_token_id, side=side),
        "attention_mask": pad_ids([[1] * len(ids) for ids in prompts], 0, side=side),
    }


def test_a_sound_that_begins_before_its_frames_stands_behind_them(parts):
    """Frames at 20.5 s would stand among the sound of the first seconds: places count from the begin of both."""
    processor = parts[1].policy_processor
    frames, waveform = noise(0, 30.0)
    tokens = [processor.video_token_id, processor.audio_token_id]
    for first, among in ((0.0, True), (0.5, True), (20.5, False)):
        media = processor.process_media(frames, waveform, frame_seconds=[first + i for i in range(4)])
        ids = [token for token in processor.expand_ids(tokens, media) if token in tokens]
        assert ids.count(processor.audio_token_id) > 100
        assert (ids == sorted(ids, key=tokens.index)) is not among


def theirs(policy: Qwen3OmniPolicy) -> Qwen3OmniMoeThinkerForConditionalGeneration:
    """Transformers' own class with the same weights."""
    fields = {k: v for k, v in policy.config.to_dict().items() if k != "model_type"}
    fields["text_config"].pop("model_type")
    other = Qwen3OmniMoeThinkerForConditionalGeneration(
        Qwen3OmniMoeThinkerForConditionalGeneration.config_class(**fields)
    ).eval()
    other.load_state_dict(policy.state_dict())
    return other


@pytest.mark.parametrize("where", ["among", "behind", "silent"])
@pytest.mark.parametrize(("count", "step"), [(4, 1.0), (3, 0.55), (1, 1.0)], ids=["clip", "odd", "image"])
@torch.no_grad()
def test_equals_transformers(count, step, where, parts):
    """Ids, spectrograms, positions and logits, with moments that fall between two positions, too."""
    model, processor = parts
    policy_processor, tokenizer = processor.policy_processor, processor.tokenizer
    policy_processor.audio_in_video = where == "among"
    among = where == "among" and count > 1
    clips, videos, sounds, texts = [], [], [], []
    for seed, row in enumerate((ROW, OTHER)):
        frames, waveform = noise(seed, 2.507, count)
        heard = None if where == "silent" else waveform
        seconds = [step * i for i in range(count)]
        clips.append(policy_processor.process_media(frames, heard, frame_seconds=seconds))
        videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2))
        sounds.append(waveform)
        content = [{"type": "video" if count > 1 else "image"}]
        content += [{"type": "audio"}] if where == "behind" or (where == "among" and count == 1) else []
        text = {"type": "text", "text": processor.instruction.format(reference=row["reference"])}
        turns = [{"role": "user", "content": [*content, text]}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    batch = make_batch(processor, clips)
    size = policy_processor.video_processor.size
    size = {"shortest_edge": size.shortest_edge, "longest_edge": size.longest_edge}
    settings = {"videos": videos, "videos_kwargs": {"fps": 1 / step, "size": size, "do_sample_frames": False}}
    if count == 1:
        settings = {"images": [[video[0]] for video in videos]}
    if where != "silent":
        settings["audio"] = sounds
    if among:
        settings |= {"load_audio_from_video": True, "audio_from_video_indices": [0, 1]}
    reference = policy_processor(text=texts, **settings, padding=True, padding_side="left", return_tensors="pt")
    assert torch.equal(batch["input_ids"], reference["input_ids"])
    other, media = theirs(model.policy), stack_media(clips)
    expected = other(**reference, use_audio_in_video=among).logits
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(model(**batch, **media).logits[mask], expected[mask], atol=1e-5, rtol=1e-5)
    positions = model.policy.position_ids(**batch, **media)
    if count == 3 and where == "behind":  # 0.55 s from frame to frame: 14.3 positions from step to step
        assert bool((positions % 1 != 0).any())
    if among:
        clips = [{**clip, "pixel_grid": clip["pixel_grid"].clone()} for clip in clips]
        for clip in clips:
            clip["pixel_grid"][3] //= 2  # the frames are shown at twice the rate
        assert not torch.equal(make_batch(processor, clips)["input_ids"], batch["input_ids"])


@torch.no_grad()
def test_each_row_of_a_batch_is_what_it_is_alone(parts):
    """Sound among the frames, none, a sound that is cut and stands behind, an image."""
    model, processor = parts
    policy_processor = processor.policy_processor
    policy_processor.audio_seconds = 2.6
    clips = []
    for seed, (seconds, count) in enumerate(((2.5, 4), (0, 4), (4.0, 4), (2.0, 1))):
        frames, waveform = noise(seed, seconds, count)
        clips.append(policy_processor.process_media(frames, waveform if seconds else None))
    assert [int(clip["pixel_grid"][4]) for clip in clips] == [1, 0, 0, 0]
    assert [int(clip.get("audio_lengths", 0)) for clip in clips] == [250, 0, 260, 200]
    rows = (ROW, OTHER, ROW, OTHER)
    batch, media = make_batch(processor, clips, rows), stack_media(clips)
    logits = model(**batch, **media).logits
    positions = model.policy.position_ids(**batch, **media)
    for i, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        single, own = make_batch(processor, [clip], [row]), stack_media([clip])
        alone = model(**single, **own).logits[0]
        torch.testing.assert_close(logits[i, -len(alone) :], alone, atol=1e-5, rtol=1e-5)
        assert torch.equal(positions[:, i, -len(alone) :], model.policy.position_ids(**single, **own)[:, 0])


def test_routers_stay_as_published(parts):
    """Also where the language model trains in full; its experts train then, and no layer of LoRA is theirs."""
    model, processor = parts
    model.set_trainable({"language_model"})
    routers = [name for name, value in model.named_parameters() if ".mlp." in name and not value.requires_grad]
    text = [name for name in routers if "language_model" in name]
    assert text == [f"policy.model.language_model.layers.{i}.mlp.gate.weight" for i in range(3)]
    clip = processor.policy_processor.process_media(*noise(0, 2.0))
    model.train()
    model(**make_batch(processor, [clip], [ROW]), **stack_media([clip])).logits.sum().backward()
    experts = [value.grad for name, value in model.named_parameters() if ".experts." in name]
    assert len(experts) == 6
    assert all(bool(grad.any()) for grad in experts)


def write_published(checkpoint: Path, folder: Path) -> AuroraModel:
    """The tiny policy as it is published: each expert by itself, a talker beside the thinker."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    policy, tokenizer = model.policy.eval(), processor.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    image = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    image |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "Qwen2VLImageProcessor"}
    sound = SOUND_FILE | {"chunk_length": 30, "hop_length": 160, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(image | sound))
    config = policy.config.to_dict()
    text = published_text_config(policy.config.text_config, "default")
    text["rope_scaling"] |= {"mrope_interleaved": True, "interleaved": True, "rope_type": "default"}
    thinker = {**config, "model_type": "qwen3_omni_moe_thinker", "dtype": "float32"}
    thinker["text_config"] = {**text, "model_type": "qwen3_omni_moe_text"}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_omni_moe", "thinker_config": thinker}))
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05, "eos_token_id": 2}))
    weights = {"talker.codec_head.weight": torch.zeros(2), "code2wav.decoder.0.x": torch.zeros(2)}
    for name, value in policy.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.removeprefix("model.") if name.startswith(("model.visual.", "model.audio_tower.")) else name
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for number, expert in enumerate(value):
                for kind, part in zip(("gate", "up"), expert.chunk(2), strict=True):
                    weights[f"thinker.{stem}.{number}.{kind}_proj.weight"] = part.clone()
        elif last == "down_proj":
            weights |= {f"thinker.{stem}.{n}.down_proj.weight": part.clone() for n, part in enumerate(value)}
        else:
            weights[f"thinker.{name}"] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model


@torch.no_grad()
def test_the_published_layout_loads(qwen_checkpoints, tmp_path):
    """Every weight in its place; saved, the experts of a layer stay together."""
    model = write_published(qwen_checkpoints["omni3"], tmp_path)
    settings = {"audio_seconds": 2.0, "video_max_pixels": 90_000, "audio_in_video": False}
    policy, processor = load_policy(tmp_path, **settings)
    assert type(policy) is Qwen3OmniPolicy
    assert (policy.dtype, policy.training, processor.sampling_rate) == (torch.float32, False, 16000)
    assert policy.state_dict().keys() == model.policy.state_dict().keys()
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in model.policy.state_dict().items())
    assert policy.generation_config.repetition_penalty is None
    assert policy.config.text_config.router_aux_loss_coef == 0.0  # published: 0.001
    processor.save_pretrained(tmp_path / "saved")
    again = Qwen3OmniPolicyProcessor.from_pretrained(tmp_path / "saved")
    assert {name: getattr(again, name) for name in settings} == settings
    policy.save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(policy.state_dict())
    frames = np.zeros((4, 360, 640, 3), np.uint8)
    _, height, width, _, among = again.process_media(frames, noise(0, 1.0)[1])["pixel_grid"].tolist()
    assert height * width * 64 <= 90_000
    assert not among
    _, plain = load_qwen3_omni(tmp_path)
    _, height, width, _, among = plain.process_media(frames, noise(0, 1.0)[1])["pixel_grid"].tolist()
    assert 128 * 32 * 32 <= height * width * 64 <= 768 * 32 * 32
    assert among


def test_every_weight_is_accounted_for(qwen_checkpoints, tmp_path):
    write_published(qwen_checkpoints["omni3"], tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    expert = weights.pop("thinker.model.layers.1.mlp.experts.2.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"1 missing: model\.language_model\.layers\.1\.mlp\.experts\.2\.up_proj\.weight"
    ):
        load_qwen3_omni(tmp_path)
    weights["thinker.model.layers.1.mlp.experts.2.up_proj.weight"] = expert
    weights["thinker.model.extra.weight"] = weights.pop("thinker.visual.merger_list.1.ln_q.bias")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"1 missing: model\.visual\.merger_list\.1\.ln_q\.bias; 1 unexpected: model\."
    ):
        load_qwen3_omni(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_5_omni"}))
    with pytest.raises(DataError, match="its model type is 'qwen2_5_omni', not 'qwen3_omni_moe'"):
        load_qwen3_omni(tmp_path)
