"""Prompts are read once, and what those about one clip begin with in common, once for all of them."""

import pytest
import torch

from aurora_trl.data.schema import clip_key
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids, stack_clips
from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.models.prefill import read_prompts_once
from aurora_trl.models.processing_aurora import AuroraProcessor

REFERENCES = ("It.", "The first to sound.", "The loudest.", "A dog.", "A cat.", "A cat.")


@pytest.fixture(scope="module", params=["videollama2", True, "qwen3"], ids=["videollama2", "qwen2.5-omni", "qwen3-vl"])
def parts(request, checkpoint, qwen_checkpoints):
    folder = checkpoint if request.param == "videollama2" else qwen_checkpoints[request.param]
    return AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)


def ask(processor, rows, clip_of_row):
    """Inputs of `generate`: each reference about one of two clips."""
    loader = ClipLoader(processor)
    clips = [loader.clip(row) for row in rows]
    media = stack_clips(clips)
    media.pop("mask_frames")
    ids = [
        processor.prompt_ids({**rows[clip], "reference": reference}, clips[clip])
        for reference, clip in zip(REFERENCES, clip_of_row, strict=True)
    ]
    return {
        "input_ids": pad_ids(ids, processor.tokenizer.pad_token_id, side="left"),
        "attention_mask": pad_ids([[1] * len(row) for row in ids], 0, side="left"),
        **media,
    }


@pytest.fixture
def passes(parts, monkeypatch):
    """Rows and tokens of each pass through the policy."""
    module, seen = parts[0].base_model, []
    forward = module.forward

    def count(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", count)
    return seen


@pytest.mark.parametrize("prefill_tokens", [8192, 1])
def test_references_share_their_clip(parts, rows, passes, monkeypatch, prefill_tokens):
    """The cache is that of whole prompts; the clip is read once for each clip, the references by themselves."""
    model, processor = parts
    monkeypatch.setattr(model, "prefill_tokens", prefill_tokens)
    other = next(row for row in rows.to_list() if clip_key(row) != clip_key(rows[0]))
    clip_index, prompt_index = torch.tensor([0, 1, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 3, 4, 4])
    inputs = ask(processor, [rows[0], other], clip_index.tolist())
    shared = read_prompts_once(model, dict(inputs), clip_index, prompt_index)
    own = min(tokens for _, tokens in passes)
    clips = inputs["input_ids"].size(1) - 1 - own
    assert {tokens for _, tokens in passes} == {own, clips}
    assert sum(number for number, tokens in passes if tokens == clips) == 2
    assert sum(number for number, tokens in passes if tokens == own) == 5
    for number, clip in enumerate(clip_index.tolist()):
        row = {name: inputs[name][number : number + 1] for name in ("input_ids", "attention_mask")}
        media = {name: value[clip : clip + 1] for name, value in inputs.items() if name not in row}
        alone = read_prompts_once(model, {**row, **media}, None, torch.zeros(1, dtype=torch.long))
        filled = row["attention_mask"][0].bool()
        ours, expected = (prompt["position_ids"][..., i, filled] for prompt, i in ((shared, number), (alone, 0)))
        assert torch.equal(ours, expected)
        for layer, expected_layer in zip(shared["cache"].layers, alone["cache"].layers, strict=True):
            for name in ("keys", "values"):
                ours, expected = getattr(layer, name)[number], getattr(expected_layer, name)[0]
                torch.testing.assert_close(ours[:, filled[:-1]], expected[:, filled[:-1]], atol=1e-5, rtol=1e-5)
