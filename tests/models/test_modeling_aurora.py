"""The composite model: exactness rules."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, GenerationConfig

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.engines import gather_seg_states, record_last_states
from aurora_trl.models.objects import find_seg_positions


def forward_inputs(rows, processor, loader=None):
    batch = SFTCollator(loader or ClipLoader(processor))(rows)
    batch.pop("masks")
    return batch


@torch.no_grad()
def forward(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"})


def test_saved_and_loaded_it_gives_the_same_masks(model, cot_rows, processor, tmp_path):
    model.eval()
    batch = forward_inputs(cot_rows.to_list()[:2], processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AuroraModel.from_pretrained(tmp_path).eval()
    assert torch.equal(forward(model, batch)["mask_logits"], forward(again, batch)["mask_logits"])
    loaded = AuroraProcessor.from_pretrained(tmp_path)
    other = forward_inputs(cot_rows.to_list()[:2], loaded)
    assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_auto_classes(checkpoint):
    assert AutoConfig.from_pretrained(checkpoint).model_type == "aurora"
    assert type(AutoModel.from_pretrained(checkpoint)) is AuroraModel
    assert type(AutoProcessor.from_pretrained(checkpoint)) is AuroraProcessor


@pytest.mark.parametrize("key", ["seg_projector.0.weight", "mask_decoder.mask_decoder.iou_token.weight"])
def test_a_missing_weight_is_an_error(key, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "bad")
    file = tmp_path / "bad" / "model.safetensors"
    weights = load_file(file)
    del weights[key]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"bad: not a whole AuroraModel checkpoint, missing keys: .*{key}"):
        AuroraModel.from_pretrained(tmp_path / "bad")


@pytest.mark.parametrize("settings", [{}, {"suppress_tokens": [5]}, {"generation_config": GenerationConfig()}])
def test_an_answer_holds_no_places_of_media(settings, model, processor):
    """No features would belong to them, and the training forward would refuse the answer."""
    media_ids = model.policy.media_token_ids
    assert len(media_ids) == 2
    model.eval()
    media = torch.tensor(media_ids)
    # Whatever the model reads, these are what it would say.
    model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, media, 100.0))
    prompt = torch.tensor([[processor.tokenizer.pad_token_id + 1] * 4])
    said = model.generate(input_ids=prompt, max_new_tokens=8, min_new_tokens=8, do_sample=True, **settings)
    assert not set(said[0].tolist()) & set(media_ids)
    if "suppress_tokens" in settings:
        assert 5 not in said[0, 4:].tolist()


def test_two_rows_equal_one_and_one(model, cot_rows, processor):
    model.eval()
    rows = cot_rows.to_list()
    pair = [rows[0], next(row for row in rows if len(row["target"]) > len(rows[0]["target"]) + 30)]
    both = forward(model, forward_inputs(pair, processor))
    for i, row in enumerate(pair):
        single = forward(model, forward_inputs([row], processor))
        torch.testing.assert_close(both["mask_logits"][i], single["mask_logits"][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both["seg_states"][i], single["seg_states"][0], atol=1e-5, rtol=1e-4)


def test_shared_clips_equal_repeated_ones(model, cot_rows, processor):
    """`clip_index` is a saving, not another result."""
    model.eval()
    batch = forward_inputs(cot_rows.to_list()[:4], processor)
    assert batch["pixel_values_videos"].shape[0] < 4
    shared = forward(model, batch)
    index = batch.pop("clip_index")
    for name in ("pixel_values_videos", "audio_values", "mask_frames"):
        batch[name] = batch[name][index]
    repeated = forward(model, batch)
    torch.testing.assert_close(shared["mask_logits"], repeated["mask_logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shared.logits, repeated.logits, atol=1e-5, rtol=1e-4)


def test_seg_state_is_at_the_token_in_training_and_generation(model, cot_rows, processor):
    """Teacher-forced and token by token with a cache: the same state at the last `[SEG]`."""
    model.eval()
    row = cot_rows[0]
    loader = ClipLoader(processor)
    clip = loader.clip(row)
    media = {name: clip[name][None] for name in ("pixel_values_videos", "audio_values")}
    prompt = processor.prompt_ids(row, clip)
    completion = processor.completion_ids("It is [SEG]. So. It is [SEG].")
    ids = torch.tensor([prompt + completion])
    mask = torch.zeros_like(ids)
    mask[:, len(prompt) :] = 1
    position = find_seg_positions(ids, mask, processor.seg_token_id)
    assert ids[0, position] == processor.seg_token_id
    assert position > (ids == processor.seg_token_id).nonzero()[0, 1]  # the last of two
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, **media)[0]
        with record_last_states(model) as states:
            output = model.policy(input_ids=ids[:, : len(prompt)], use_cache=True, **media)
            for t in range(len(prompt), ids.size(1)):
                output = model.policy(input_ids=ids[:, t : t + 1], cache=output.cache, use_cache=True)
    written = processor.find_seg_positions(torch.tensor([completion]), torch.ones(1, len(completion)))
    generated, has_seg, known = gather_seg_states(states, written)
    assert has_seg.all()
    assert known.all()
    torch.testing.assert_close(generated[0], hidden[0, position[0]], atol=1e-4, rtol=1e-4)


def test_generation_and_training_give_the_same_log_probs(model, cot_rows, processor):
    """Of the generated tokens alone, with media expanded and prompts of two lengths padded."""
    model.eval()
    rows = cot_rows.to_list()[:2]
    loader = ClipLoader(processor)
    clips = [loader.clip(row) for row in rows]
    media = {name: torch.stack([c[name] for c in clips]) for name in ("pixel_values_videos", "audio_values")}
    prompts = [processor.prompt_ids(row, clip) for row, clip in zip(rows, clips, strict=True)]
    pad = processor.tokenizer.pad_token_id
    with torch.no_grad():
        output = model.generate(
            input_ids=pad_ids(prompts, pad, side="left"),
            attention_mask=pad_ids([[1] * len(ids) for ids in prompts], 0, side="left"),
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=None,
            pad_token_id=pad,
            **media,
        )
        completions = output.sequences[:, -12:]
        generated = torch.stack(output.logits, 1).log_softmax(-1).gather(-1, completions[..., None])[..., 0]
        full = [prompt + c.tolist() for prompt, c in zip(prompts, completions, strict=True)]
        logits = model(
            input_ids=pad_ids(full, pad), attention_mask=pad_ids([[1] * len(ids) for ids in full], 0), **media
        ).logits.log_softmax(-1)
    for i, prompt in enumerate(prompts):
        steps = torch.arange(12) + len(prompt) - 1
        trained = logits[i, steps, completions[i]]
        torch.testing.assert_close(trained, generated[i], atol=1e-4, rtol=1e-4)


def test_seg_token_is_ordinary(processor):
    tokenizer = processor.tokenizer
    assert processor.seg_token_id == tokenizer.convert_tokens_to_ids("[SEG]")
    assert "[SEG]" in tokenizer.decode(tokenizer("It is [SEG].")["input_ids"], skip_special_tokens=True)
    assert tokenizer.decode(processor.completion_ids("It is [SEG]."), skip_special_tokens=True) == "It is [SEG]."


def test_no_seg_is_a_dummy_not_an_error(model, cot_rows, processor):
    model.eval()
    batch = forward_inputs(cot_rows.to_list()[:2], processor)
    batch["seg_positions"] = torch.tensor([-1, -1])
    assert forward(model, batch)["mask_logits"].shape == (2, 10, 16, 16)


def test_answers(model, cot_rows, processor):
    """Answers come in order, one per row; batches change nothing; no `[SEG]`, no mask."""
    rows = cot_rows.to_list()[:5]
    one = list(answer_rows(model, processor, rows, batch_size=1, max_new_tokens=8))
    many = list(answer_rows(model, processor, rows, batch_size=3, max_new_tokens=8))
    assert [a.row["id"] for a in many] == [row["id"] for row in rows]
    assert [a.completion for a in one] == [a.completion for a in many]
    for answer in many:
        assert (answer.mask_logits is None) == ("[SEG]" not in answer.completion)


def test_unknown_group(model):
    with pytest.raises(ValueError, match="unknown parameter groups"):
        model.set_trainable({"tower"})
