"""VideoLLaMA3: transformers' own numbers, in our layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, Qwen2ForCausalLM, VideoLlama3ForConditionalGeneration

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.errors import DataError
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.language_model import language_model_config, language_model_weights
from aurora_trl.models.policies.base import stack_media
from aurora_trl.models.policies.registry import load_policy
from aurora_trl.models.policies.videollama3 import VideoLlama3Policy, VideoLlama3PolicyProcessor
from aurora_trl.models.policies.videollama3.published import load_videollama3

ROW = {"reference": "The object that sounds.", "audio": "a.wav"}
OTHER = {"reference": "The one behind the guitar that starts to sound first.", "audio": "a.wav"}


@pytest.fixture
def parts(videollama3_checkpoint) -> tuple[AuroraModel, AuroraProcessor]:
    return (
        AuroraModel.from_pretrained(videollama3_checkpoint).eval(),
        AuroraProcessor.from_pretrained(videollama3_checkpoint),
    )


def make_frames(seed: int, size: tuple[int, int] = (48, 64), count: int = 4) -> np.ndarray:
    """Noise `(T, H, W, 3)` whose left half stays as it is after the first frame."""
    frames = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    frames[2:, :, : size[1] // 2] = frames[1:2, :, : size[1] // 2]
    return frames


def make_clip(processor: AuroraProcessor, seed: int, **settings) -> dict[str, torch.Tensor]:
    return processor.policy_processor.process_media(make_frames(seed, **settings), None)


def make_batch(processor: AuroraProcessor, clips, rows=(ROW, OTHER), side: str = "left") -> dict[str, torch.Tensor]:
    prompts = [processor.prompt_ids(row, clip) for row, clip in zip(rows, clips, strict=True)]
    return {
        "input_ids": pad_ids(prompts, processor.tokenizer.pad_token_id, side=side),
        "attention_mask": pad_ids([[1] * len(ids) for ids in prompts], 0, side=side),
    }


def theirs(policy: VideoLlama3Policy) -> VideoLlama3ForConditionalGeneration:
    """Transformers' own class with the same weights."""
    cls = VideoLlama3ForConditionalGeneration
    other = cls(cls.config_class(**{k: v for k, v in policy.config.to_dict().items() if k != "model_type"})).eval()
    other.load_state_dict(policy.state_dict())
    return other


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "whole"])
@pytest.mark.parametrize("count", [4, 3, 1], ids=["clip", "odd", "image"])
@torch.no_grad()
def test_equals_transformers(count, compressed, parts):
    """The ids, the times, the kept features and the logits that transformers makes of the same clips and texts."""
    model, processor = parts
    policy_processor, tokenizer = processor.policy_processor, processor.tokenizer
    policy_processor.video_processor.use_token_compression = compressed
    policy_processor.video_max_pixels = 48 * 64
    videos, texts, clips = [], [], []
    for seed, row in enumerate((ROW, OTHER)):
        frames = make_frames(seed, size=((48, 64), (64, 48))[seed], count=count)
        seconds = [0.5 * (1 + seed) * i for i in range(count)]
        clips.append(policy_processor.process_media(frames, None, frame_seconds=seconds))
        videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2))
        text = {"type": "text", "text": processor.instruction.format(reference=row["reference"])}
        turns = [{"role": "user", "content": [{"type": "video" if count > 1 else "image"}, text]}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    batch = make_batch(processor, clips)
    if count > 1:
        rates = (2.0, 1.0)
        metadata = [{"fps": fps, "total_num_frames": count, "frames_indices": list(range(count))} for fps in rates]
        media = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
        media["size"] = policy_processor._clip_size(count)
        assert all(bool(clip["pixel_kept"].all()) != compressed for clip in clips)
    else:
        media = {"images": [[video[0]] for video in videos]}
    reference = policy_processor(text=texts, **media, padding=True, padding_side="left", return_tensors="pt")
    assert torch.equal(batch["input_ids"], reference["input_ids"])
    other = theirs(model.policy)
    inputs = {name: value for name, value in reference.items() if name != "video_metadata"}
    expected = other(**inputs).logits
    ours = model(**batch, **stack_media(clips)).logits
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[mask], expected[mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_clips_are_encoded_once_and_share_a_batch(parts):
    """Raw, encoded, repeated by `clip_index`, and alone: one result, whatever sizes stand beside each other."""
    model, processor = parts
    clips = [make_clip(processor, 0, size=(32, 64)), make_clip(processor, 1, size=(64, 48), count=3)]
    media, batch = stack_media(clips), make_batch(processor, clips, side="right")
    raw = model(**batch, **media).logits
    embeds = model.base_model.encode_media(**media).as_inputs()
    assert set(media) <= set(model.policy.media_inputs)
    assert set(embeds) == set(model.policy.media_embeds)
    torch.testing.assert_close(model(**batch, **embeds).logits, raw, atol=1e-5, rtol=1e-5)
    index = torch.tensor([1, 0, 1])
    shared = {name: value[index] for name, value in batch.items()}
    for given in (media, embeds):
        logits = model(**shared, **given, clip_index=index).logits
        torch.testing.assert_close(logits, raw[index], atol=1e-5, rtol=1e-5)
    for i, (clip, row) in enumerate(zip(clips, (ROW, OTHER), strict=True)):
        alone = model(**make_batch(processor, [clip], [row]), **stack_media([clip])).logits[0]
        torch.testing.assert_close(raw[i, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    first = batch["input_ids"][0].tolist().index(processor.tokenizer.video_token_id)
    with pytest.raises(ValueError, match="<video> places do not fit features"):
        model(input_ids=batch["input_ids"][:, first + 1 :], **media)


@torch.no_grad()
def test_a_prompt_may_be_read_before_and_shared(parts):
    """Step by step, from a cache, and in one row with another completion: the same log-probs."""
    model, processor = parts
    assert model.policy.supports_shared_prefix
    clip = make_clip(processor, 0)
    embeds = model.base_model.encode_media(**stack_media([clip])).as_inputs()
    batch = make_batch(processor, [clip], [ROW])
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    output = model.generate(**batch, **embeds, **settings, output_logits=True, return_dict_in_generate=True)
    whole, prompt = output.sequences, batch["input_ids"][0].tolist()
    assert not set(whole[0].tolist()[len(prompt) :]) & set(model.policy.media_token_ids)
    trained = model(input_ids=whole, **embeds).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(trained, torch.cat(output.logits).log_softmax(-1), atol=1e-4, rtol=1e-4)
    positions = model.policy.position_ids(**batch, **embeds)
    cache = DynamicCache(config=model.config.get_text_config())
    ids = batch["input_ids"][:, :-1]
    model.base_model(input_ids=ids, position_ids=positions[:, :-1], cache=cache, use_cache=True, **embeds)
    assert torch.equal(model.generate(**batch, **embeds, cache=cache, **settings), whole)

    completions = [processor.completion_ids("It is [SEG]."), processor.completion_ids("The guitar. It is [SEG].")]
    row = torch.tensor([prompt + completions[0] + completions[1]])
    owner = torch.tensor([-1] * len(prompt) + [i for i, ids in enumerate(completions) for _ in ids])
    index = torch.arange(len(owner))
    sees = (index[None] <= index[:, None]) & ((owner[None] == -1) | (owner[None] == owner[:, None]))
    after = [len(prompt) + torch.arange(len(completion)) for completion in completions]
    positions = torch.cat([torch.arange(len(prompt)), *after])[None]
    hidden = model.base_model(input_ids=row, attention_mask=sees[None, None], position_ids=positions, **embeds)[0][0]
    for i, completion in enumerate(completions):
        alone = model.base_model(input_ids=torch.tensor([prompt + completion]), **embeds)[0][0, len(prompt) :]
        torch.testing.assert_close(hidden[owner == i], alone, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_it_gives_the_same_masks(parts, cot_rows, tmp_path):
    """And answers the same one by one and together, also about images; sound is not asked for."""
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows, outputs = [{**row, "audio": "nowhere.wav"} for row in cot_rows.to_list()[:3]], []
    for folder in (None, tmp_path):
        again = model if folder is None else AuroraModel.from_pretrained(folder).eval()
        loaded = processor if folder is None else AuroraProcessor.from_pretrained(folder)
        batch = SFTCollator(ClipLoader(loaded))(rows)
        batch.pop("masks"), batch.pop("labels")
        with torch.no_grad():
            outputs.append(again(**batch)["mask_logits"])
    assert torch.equal(*outputs)
    processor.num_frames, processor.policy_frames = 1, None
    images = [{**row, "frames": row["frames"][:1], "masks": row["masks"][:1]} for row in rows]
    clip = ClipLoader(processor).clip(images[0])
    ids = processor.prompt_ids(images[0], clip)
    # A place of an image is a quarter of a place of a clip's frame.
    assert (ids.count(processor.tokenizer.image_token_id), ids.count(processor.tokenizer.video_token_id)) == (16, 0)
    one = list(answer_rows(model, processor, images, batch_size=1, max_new_tokens=6))
    many = list(answer_rows(model, processor, images, batch_size=3, max_new_tokens=6))
    assert [answer.completion for answer in one] == [answer.completion for answer in many]


@torch.no_grad()
def test_engines_for_text_read_its_embeddings(parts):
    """What vLLM is given: transformers' Qwen2 makes the same logits of them."""
    model, processor = parts
    clip = make_clip(processor, 0)
    batch, media = make_batch(processor, [clip], [ROW]), stack_media([clip])
    config = language_model_config(model)
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    served = Qwen2ForCausalLM(model.policy.config.get_text_config()).eval()
    served.load_state_dict(dict(language_model_weights(model)))
    embeds = model.base_model.embed_inputs(batch["input_ids"], **media)
    expected = model(**batch, **media).logits
    torch.testing.assert_close(served(inputs_embeds=embeds).logits, expected, atol=1e-5, rtol=1e-5)


def write_published(checkpoint: Path, folder: Path, *, tied: bool) -> AuroraModel:
    """The tiny policy in transformers' layout, as it is published, with the files that lie beside it."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    policy, tokenizer = model.policy.eval(), processor.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    both = {"patch_size": 8, "temporal_patch_size": 1, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    both["processor_class"] = "VideoLlama3Processor"
    image = {"image_processor_type": "VideoLlama3ImageProcessorFast", "merge_size": 1}
    image |= {"min_pixels": 3136, "max_pixels": 3211264}
    video = {"video_processor_type": "VideoLlama3VideoProcessor", "merge_size": 2, "use_token_compression": True}
    video |= {"min_pixels": 1024, "max_pixels": 12845056, "max_frames": 180, "min_frames": None, "fps": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(both | image))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(both | video))
    config = policy.config.to_dict()
    text = {k: v for k, v in config["text_config"].items() if k not in ("rope_parameters", "layer_types")}
    text |= {"rope_theta": config["text_config"]["rope_parameters"]["rope_theta"], "rope_scaling": None}
    text |= {"tie_word_embeddings": tied, "dtype": None}
    config |= {"model_type": "video_llama_3", "text_config": text, "dtype": "float32"}
    config["architectures"] = ["VideoLlama3ForConditionalGeneration"]
    config.pop("tie_word_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05, "eos_token_id": 2}))
    weights = dict(policy.state_dict())
    if tied:
        weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model


@torch.no_grad()
def test_the_published_layout_loads(videollama3_checkpoint, tmp_path):
    """Every weight in its place, frames of the published size, the prompt and the logits of what was written."""
    model = write_published(videollama3_checkpoint, tmp_path, tied=False)
    policy, processor = load_policy(tmp_path)
    assert type(policy) is VideoLlama3Policy
    assert (policy.dtype, policy.training, processor.sampling_rate) == (torch.float32, False, None)
    assert policy.state_dict().keys() == model.policy.state_dict().keys()
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in model.policy.state_dict().items())
    assert policy.generation_config.repetition_penalty is None
    assert policy.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    media = processor.process_media(make_frames(0, size=(120, 160)), None)
    assert media["pixel_grid"].tolist() == [4, 16, 20, 2, 0, 1000, 2000, 3000]
    content = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": "Where is it?"}]
    tokenizer = processor.tokenizer
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids = processor.expand_ids(tokenizer(text)["input_ids"], media)
    assert ids.count(processor.video_token_id) == int(media["pixel_kept"].sum()) < 4 * 80
    inputs = {"input_ids": torch.tensor([ids]), **stack_media([media]), "logits_to_keep": 1}
    torch.testing.assert_close(policy(**inputs).logits, model.policy(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_settings_and_the_one_table_of_the_2b(videollama3_checkpoint, tmp_path):
    write_published(videollama3_checkpoint, tmp_path, tied=True)
    settings = {"seconds_per_frame": 0.5, "video_max_pixels": 20 * 256}
    policy, processor = load_policy(tmp_path, torch.bfloat16, **settings)
    assert policy.get_output_embeddings().weight is policy.get_input_embeddings().weight
    assert {value.dtype for value in policy.parameters()} == {torch.bfloat16}
    processor.save_pretrained(tmp_path / "saved")
    again = VideoLlama3PolicyProcessor.from_pretrained(tmp_path / "saved")
    assert {name: getattr(again, name) for name in settings} == settings
    _, height, width, _, _, second, *_ = again.process_media(np.zeros((4, 360, 640, 3), np.uint8), None)["pixel_grid"]
    assert second == 500
    assert 12 < height * width / 4 <= 20


def test_every_weight_is_accounted_for(videollama3_checkpoint, tmp_path):
    write_published(videollama3_checkpoint, tmp_path, tied=False)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.extra.weight"] = weights.pop("model.projector.readout.2.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing: model\.projector\.readout\.2\.\w+; 1 unexpected: model\.extra"):
        load_videollama3(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "videollama3_qwen2"}))
    with pytest.raises(DataError, match="its model type is 'videollama3_qwen2', not 'video_llama_3'"):
        load_videollama3(tmp_path)
    with pytest.raises(DataError, match="take the same weights in transformers' layout"):
        load_policy(tmp_path)
