"""The Qwen policies: transformers' own numbers, in our layout."""

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.models.policies.base import stack_media
from aurora_trl.models.policies.qwen import Qwen3OmniPolicy, QwenOmniPolicy
from aurora_trl.models.processing_aurora import AuroraProcessor

ROW = {"reference": "The object that sounds.", "audio": "a.wav"}
OTHER = {"reference": "The one behind the guitar that starts to sound first.", "audio": "a.wav"}


@pytest.fixture(params=[False, True, "qwen3", "omni3"], ids=["vl", "omni", "qwen3", "omni3"])
def parts(request, qwen_checkpoints) -> tuple[AuroraModel, AuroraProcessor]:
    folder = qwen_checkpoints[request.param]
    return AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)


def make_clip(processor: AuroraProcessor, seed: int, size: tuple[int, int] = (48, 64), seconds: float = 3.1):
    """Noise: frames `(4, H, W, 3)` and sound as the processor makes inputs of them."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (4, *size, 3), dtype=np.uint8)
    waveform = random.normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
    hears = processor.policy_processor.sampling_rate is not None
    clip = processor.policy_processor.process_media(frames, waveform if hears and seconds else None)
    return frames, waveform, clip


def make_batch(processor: AuroraProcessor, clips, rows=(ROW, OTHER), side: str = "left"):
    prompts = [processor.prompt_ids(row, clip) for row, clip in zip(rows, clips, strict=True)]
    return {
        "input_ids": pad_ids(prompts, processor.tokenizer.pad_token_id, side=side),
        "attention_mask": pad_ids([[1] * len(ids) for ids in prompts], 0, side=side),
    }


def theirs(model: AuroraModel):
    """Transformers' own class with the same weights."""
    cls = {
        "aurora_qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
        "aurora_qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
        "aurora_qwen3_vl": Qwen3VLForConditionalGeneration,
    }[model.policy.config.model_type]
    config = cls.config_class(**{k: v for k, v in model.policy.config.to_dict().items() if k != "model_type"})
    other = cls(config).eval()
    other.load_state_dict(model.policy.state_dict())
    return other


@pytest.mark.parametrize("parts", [False, True, "qwen3"], ids=["vl", "omni", "qwen3"], indirect=True)
@pytest.mark.parametrize("frames_shown", [4, 3, 1], ids=["clip", "odd", "image"])
@torch.no_grad()
def test_equals_transformers(frames_shown, parts):
    """The ids, the inputs and the logits that transformers' processor and model make of the same clips and texts."""
    model, processor = parts
    policy_processor, tokenizer = processor.policy_processor, processor.tokenizer
    hears = policy_processor.sampling_rate is not None
    clips, videos, sounds, texts = [], [], [], []
    for seed, row in enumerate((ROW, OTHER)):
        frames, waveform, _ = make_clip(processor, seed, seconds=2.0 + seed)
        frames = frames[:frames_shown]
        clips.append(policy_processor.process_media(frames, waveform if hears else None))
        videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2))
        sounds.append(waveform)
        content = [{"type": "video" if frames_shown > 1 else "image"}, {"type": "audio"}]
        text = {"type": "text", "text": processor.instruction.format(reference=row["reference"])}
        turns = [{"role": "user", "content": [*content, text]}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    batch = make_batch(processor, clips)

    indices = list(range(frames_shown))
    metadata = [{"fps": 1.0, "total_num_frames": frames_shown, "frames_indices": indices} for _ in range(2)]
    media = {"videos": videos} if frames_shown > 1 else {"images": [[video[0]] for video in videos]}
    if hears:
        # The size that transformers takes where none is given; `load_qwen_omni` writes it into the video processor.
        size = policy_processor.video_processor.size
        size = {"shortest_edge": size.shortest_edge, "longest_edge": size.longest_edge}
        videos_kwargs = {"fps": 1.0, "size": size}
        settings = {"audio": sounds, "videos_kwargs": videos_kwargs, "truncation": False}
    else:
        settings = {"video_metadata": metadata, "do_sample_frames": False}
    if frames_shown == 1:
        settings = {name: value for name, value in settings.items() if name == "audio"}
    reference = policy_processor(
        text=texts, **media, **settings, padding=True, padding_side="left", return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], reference["input_ids"])
    other = theirs(model)
    expected = other(**reference)
    ours = model(**batch, **stack_media(clips))
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.logits[mask], expected.logits[mask], atol=1e-5, rtol=1e-5)
    if frames_shown > 1:  # the clip's time counts: one second between frames is not half a second
        for clip in clips:
            clip["pixel_grid"][3] //= 2
        if isinstance(other, Qwen3VLForConditionalGeneration):  # in words that the prompt holds
            batch = make_batch(processor, clips)
            assert not torch.equal(batch["input_ids"], reference["input_ids"])
        assert not torch.allclose(model(**batch, **stack_media(clips)).logits[mask], expected.logits[mask], atol=1e-3)


@torch.no_grad()
def test_encoded_clips_give_the_same(parts):
    """Once encoded, repeated by `clip_index`, and raw: one result."""
    model, processor = parts
    clips = [make_clip(processor, seed)[2] for seed in range(2)]
    media = stack_media(clips)
    batch = make_batch(processor, clips, side="right")
    raw = model(**batch, **media).logits
    embeds = model.base_model.encode_media(**media).as_inputs()
    assert set(media) <= set(model.policy.media_inputs)
    assert set(embeds) <= set(model.policy.media_embeds)
    assert not set(model.policy.media_inputs) & set(model.policy.media_embeds)
    torch.testing.assert_close(model(**batch, **embeds).logits, raw, atol=1e-5, rtol=1e-5)
    index = torch.tensor([1, 0, 1])
    shared = {name: value[index] for name, value in batch.items()}
    for given in (media, embeds):
        logits = model(**shared, **given, clip_index=index).logits
        torch.testing.assert_close(logits, raw[index], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_clips_of_different_sizes_share_a_batch(parts):
    """Frames of two shapes, a long sound, a short one and none: each row is what it is alone."""
    model, processor = parts
    clips = [
        make_clip(processor, 0, size=(32, 64), seconds=2.0)[2],
        make_clip(processor, 1, size=(64, 48), seconds=5.0)[2],
        make_clip(processor, 2, size=(32, 32), seconds=0)[2],
    ]
    sizes = {tuple(clip["pixel_grid"].tolist()) for clip in clips}
    assert len(sizes) > 1
    rows = (ROW, OTHER, ROW)
    batch = make_batch(processor, clips, rows)
    logits = model(**batch, **stack_media(clips)).logits
    for i, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        single = make_batch(processor, [clip], [row])
        alone = model(**single, **stack_media([clip])).logits[0]
        torch.testing.assert_close(logits[i, -len(alone) :], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoded", [False, True], ids=["raw", "encoded"])
@torch.no_grad()
def test_generation_and_training_give_the_same_log_probs(encoded, parts):
    """With a cache, step by step, prompts padded on the left; and in one forward, padded on the right."""
    model, processor = parts
    clips = [make_clip(processor, 0, seconds=2.0)[2], make_clip(processor, 1, size=(64, 48))[2]]
    media = stack_media(clips)
    if encoded:
        media = model.base_model.encode_media(**media).as_inputs()
    batch, pad = make_batch(processor, clips), processor.tokenizer.pad_token_id
    output = model.generate(
        **batch,
        **media,
        max_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=None,
        pad_token_id=pad,
    )
    completions = output.sequences[:, -12:]
    assert not set(completions.flatten().tolist()) & set(model.policy.media_token_ids)
    generated = torch.stack(output.logits, 1).log_softmax(-1).gather(-1, completions[..., None])[..., 0]
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(*batch.values(), strict=True)]
    full = [prompt + completion.tolist() for prompt, completion in zip(prompts, completions, strict=True)]
    inputs = {"input_ids": pad_ids(full, pad), "attention_mask": pad_ids([[1] * len(ids) for ids in full], 0)}
    log_probs = model(**inputs, **media).logits.log_softmax(-1)
    for i, prompt in enumerate(prompts):
        trained = log_probs[i, torch.arange(12) + len(prompt) - 1, completions[i]]
        torch.testing.assert_close(trained, generated[i], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prompt_may_be_read_before_generation(parts):
    """A cache that holds all but the prompt's last token gives the ids that the whole prompt gives."""
    model, processor = parts
    clip = make_clip(processor, 0)[2]
    embeds = model.base_model.encode_media(**stack_media([clip])).as_inputs()
    batch = make_batch(processor, [clip], [ROW])
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    whole = model.generate(**batch, **embeds, **settings)
    positions = model.policy.position_ids(**batch, **embeds)
    cache = DynamicCache(config=model.config.get_text_config())
    model.base_model(
        input_ids=batch["input_ids"][:, :-1], position_ids=positions[..., :-1], cache=cache, use_cache=True, **embeds
    )
    assert torch.equal(model.generate(**batch, **embeds, cache=cache, **settings), whole)
    with pytest.raises(ValueError, match="depend on its size: give `pixel_grid`"):
        model.generate(**batch, **settings)
    with pytest.raises(ValueError, match="with a cache or a 4D mask, give `position_ids`"):
        model.base_model(input_ids=batch["input_ids"][:, -1:], cache=cache)


@torch.no_grad()
def test_completions_may_share_a_prompt(parts):
    """One row: the prompt, and two completions whose positions start again at its end."""
    model, processor = parts
    assert model.policy.supports_shared_prefix
    clip = make_clip(processor, 0)[2]
    embeds = model.base_model.encode_media(**stack_media([clip])).as_inputs()
    prompt = processor.prompt_ids(ROW, clip)
    completions = [processor.completion_ids("It is [SEG]."), processor.completion_ids("The guitar. It is [SEG].")]
    ids = torch.tensor([prompt + completions[0] + completions[1]])
    start = model.policy.position_ids(torch.tensor([prompt]), **embeds)
    parts_of_row = [start[..., -1:] + 1 + torch.arange(len(completion)) for completion in completions]
    owner = torch.tensor([-1] * len(prompt) + [i for i, ids in enumerate(completions) for _ in ids])
    index = torch.arange(len(owner))
    sees = (index[None] <= index[:, None]) & ((owner[None] == -1) | (owner[None] == owner[:, None]))
    hidden = model.base_model(
        input_ids=ids, attention_mask=sees[None, None], position_ids=torch.cat([start, *parts_of_row], -1), **embeds
    )[0][0]
    for i, completion in enumerate(completions):
        alone = model.base_model(input_ids=torch.tensor([prompt + completion]), **embeds)[0][0, len(prompt) :]
        torch.testing.assert_close(hidden[owner == i], alone, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_it_gives_the_same_masks(parts, cot_rows, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows, outputs = cot_rows.to_list()[:3], []
    for folder in (None, tmp_path):
        again = model if folder is None else AuroraModel.from_pretrained(folder).eval()
        loaded = processor if folder is None else AuroraProcessor.from_pretrained(folder)
        batch = SFTCollator(ClipLoader(loaded))(rows)
        batch.pop("masks"), batch.pop("labels")
        with torch.no_grad():
            outputs.append(again(**batch)["mask_logits"])
    assert torch.equal(*outputs)


def test_an_image_is_an_image(parts, cot_rows, tmp_path):
    """One frame and no sound: Qwen's image places, an answer with its mask, clips batched as they come."""
    model, processor = parts
    processor.num_frames, processor.policy_frames = 1, None
    rows = [
        {**row, "frames": row["frames"][:1], "masks": row["masks"][:1], "audio": None}
        for row in cot_rows.to_list()[:3]
    ]
    loader = ClipLoader(processor)
    clip = loader.clip(rows[0])
    assert clip["pixel_grid"].tolist()[0] == 1
    ids = processor.prompt_ids(rows[0], clip)
    counts = {name: ids.count(getattr(processor.tokenizer, f"{name}_token_id")) for name in ("image", "video")}
    assert counts == {"image": 4, "video": 0}
    if processor.policy_processor.sampling_rate is not None:
        assert not {processor.tokenizer.audio_token_id, processor.tokenizer.audio_bos_token_id} & set(ids)
    batch = SFTCollator(loader)(rows)
    assert batch["masks"].shape[1] == 1
    assert not any(name.startswith("audio") for name in batch)
    one = list(answer_rows(model, processor, rows, batch_size=1, max_new_tokens=6))
    many = list(answer_rows(model, processor, rows, batch_size=3, max_new_tokens=6))
    assert [a.completion for a in one] == [a.completion for a in many]


def test_a_policy_that_does_not_hear_reads_no_sound(qwen_checkpoints, cot_rows):
    """Also where the file is not there."""
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints[False])
    row = {**cot_rows[0], "audio": "nowhere.wav"}
    assert set(ClipLoader(processor).clip(row)) == {"pixel_patches", "pixel_grid", "mask_frames", "frame_size"}


def test_a_tower_that_trains_is_run_without_sound(parts):
    """So that no process waits for another; what it makes of silence changes nothing."""
    model, processor = parts
    clip = make_clip(processor, 0, seconds=0)[2]
    batch, media = make_batch(processor, [clip], [ROW]), stack_media([clip])
    groups = {name for name in ("audio_tower", "connector") if name in model.trainable_modules()}
    model.set_trainable(set())
    with torch.no_grad():
        plain = model(**batch, **media).logits
    model.set_trainable(groups)
    logits = model(**batch, **media).logits
    assert torch.equal(logits, plain)
    logits.sum().backward()
    missing = [name for name in groups for value in model.trainable_modules()[name].parameters() if value.grad is None]
    assert not missing


def test_groups_hold_every_weight_that_is_run(parts):
    """All but the audio tower's begin and end, which the thinker never asks for, and the routers among experts."""
    policy = parts[0].policy
    grouped = [id(value) for group in policy.trainable_modules().values() for value in group.parameters()]
    assert len(grouped) == len(set(grouped))
    left = [name for name, value in policy.named_parameters() if id(value) not in grouped]
    if isinstance(policy, QwenOmniPolicy):
        assert left == ["model.audio_tower.audio_bos_eos_token.weight"]
    elif isinstance(policy, Qwen3OmniPolicy):
        assert left == [f"model.language_model.layers.{i}.mlp.gate.weight" for i in range(3)]
    else:
        assert not left


def test_features_that_do_not_fit_are_an_error(parts):
    model, processor = parts
    clip = make_clip(processor, 0)[2]
    batch = make_batch(processor, [clip], [ROW])
    first = batch["input_ids"][0].tolist().index(processor.tokenizer.video_token_id)
    batch = {name: value[:, first + 1 :] for name, value in batch.items()}
    with pytest.raises(ValueError, match="<video> places do not fit features"):
        model(**batch, **stack_media([clip]))
