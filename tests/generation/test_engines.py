"""The compiled engine writes what transformers' own loop writes."""

import pytest
import torch
from grpo_helpers import build, logged
from peft import LoraConfig, get_peft_model
from transformers import LogitsProcessor, TextStreamer

from aurora_trl.generation.answers import answer_rows, load
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids, stack_clips
from aurora_trl.generation.engines import CompiledDecoder, choose_engine, compiled, recorded_generation
from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.models.processing_aurora import AuroraProcessor

FAMILIES = ["videollama2", True, "qwen3", "omni3"]


class Recorder(LogitsProcessor):
    """Keeps the log-probs of each step."""

    def __init__(self):
        self.kept = []

    def __call__(self, input_ids, scores):
        self.kept.append(scores.log_softmax(dim=-1))
        return scores


@pytest.fixture(scope="module", params=FAMILIES, ids=["videollama2", "qwen2.5-omni", "qwen3-vl", "qwen3-omni"])
def parts(request, checkpoint, qwen_checkpoints):
    """The first is compiled to machine code, the others to the graph alone, which takes a moment."""
    folder = checkpoint if request.param == "videollama2" else qwen_checkpoints[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_BACKEND", "inductor" if request.param == "videollama2" else "aot_eager")
        yield AuroraModel.from_pretrained(folder).eval(), AuroraProcessor.from_pretrained(folder)


def prompts(processor, rows):
    """Two prompts of different length, each for three answers."""
    loader = ClipLoader(processor)
    some = [{**rows[0], "reference": "It."}, rows[1]]
    clips = [loader.clip(row) for row in some]
    media = stack_clips(clips)
    media.pop("mask_frames")
    ids = [processor.prompt_ids(row, clip) for row, clip in zip(some, clips, strict=True)]
    index = torch.tensor([0, 0, 0, 1, 1, 1])
    pad = processor.tokenizer.pad_token_id
    return {
        "input_ids": pad_ids(ids, pad, side="left")[index],
        "attention_mask": pad_ids([[1] * len(row) for row in ids], 0, side="left")[index],
        "pad_token_id": pad,
        "clip_index": index,
        **media,
    }


def written(model, engine, inputs, **settings):
    """Tokens, states `(B, steps, H)` and log-probs `(B, steps, V)`."""
    recorder = Recorder()
    torch.manual_seed(7)
    with torch.no_grad(), recorded_generation(model, engine) as states:
        sequences = model.generate(**inputs, logits_processor=[recorder], **settings)
    return sequences, torch.stack(states, dim=1), torch.stack(recorder.kept, dim=1)


def compare(model, inputs, **settings):
    """Equal up to each row's end; what follows it is of no use to anyone."""
    (expected, states, log_probs), (tokens, ours, our_log_probs) = (
        written(model, engine, inputs, **settings) for engine in ("eager", "compiled")
    )
    assert torch.equal(tokens, expected)
    completions = tokens[:, inputs["input_ids"].size(1) :]
    ended = torch.zeros_like(completions, dtype=torch.bool)
    if settings.get("eos_token_id") is not None:
        is_end = torch.isin(completions, torch.tensor(settings["eos_token_id"]))
        ended = (is_end.cumsum(dim=1) - is_end.long()) > 0
    torch.testing.assert_close(ours[~ended], states[~ended], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_log_probs[~ended], log_probs[~ended], atol=1e-5, rtol=1e-5)
    return completions, ended


@pytest.mark.parametrize("shared", [False, True], ids=["rows", "prompts once"])
def test_compiled_equals_eager(shared, parts, rows):
    """Greedy and sampled, with prompts of different length, also where they are read once; rows end early."""
    model, processor = parts
    inputs = prompts(processor, rows.to_list())
    if shared:
        inputs["prompt_index"] = inputs["clip_index"]
    compare(model, inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    # Every third token ends a row, so that rows leave the batch.
    ends = list(range(0, len(processor.tokenizer), 3))
    completions, ended = compare(model, inputs, max_new_tokens=12, do_sample=True, top_p=0.9, eos_token_id=ends)
    assert ended.any(dim=1).sum() >= 4
    assert completions.size(1) >= 3


def test_compiled_equals_eager_with_lora(parts, rows):
    """The adapter stays beside the weights, and is read while it changes."""
    model, processor = parts
    config = LoraConfig(r=4, target_modules=model.policy.lora_target_modules, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    try:
        inputs = prompts(processor, rows.to_list())
        settings = {"max_new_tokens": 5, "do_sample": True, "eos_token_id": None}
        before, _ = compare(model, inputs, **settings)
        with torch.no_grad():
            for name, value in adapted.named_parameters():
                if "lora_B" in name:
                    value.mul_(-3)
        after, _ = compare(model, inputs, **settings)
        assert not torch.equal(before, after)
    finally:
        adapted.unload()


@pytest.fixture
def quickly_compiled(monkeypatch):
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")


@pytest.mark.usefixtures("quickly_compiled")
def test_a_step_is_compiled_once(model, processor, rows):
    """Neither another batch, nor another length, nor new weights compile it anew; a batch of one does, once."""
    inputs = prompts(processor, rows.to_list())
    settings = {"do_sample": True, "eos_token_id": None}
    written(model, "compiled", inputs, max_new_tokens=3, **settings)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    with torch.no_grad():
        model.policy.lm_head.weight.mul_(1.5)
    written(model, "compiled", inputs, max_new_tokens=70, **settings)
    fewer = {
        name: value[2:] if name in ("input_ids", "attention_mask", "clip_index") else value
        for name, value in inputs.items()
    }
    compare(model, fewer, max_new_tokens=4, **settings)
    assert counters["unique_graphs"] == before


@pytest.mark.usefixtures("quickly_compiled")
def test_a_whole_answer(drawing_checkpoint, cot_rows):
    """Text, masks and a stream of words, of both engines."""
    model = AuroraModel.from_pretrained(drawing_checkpoint).eval()
    processor = AuroraProcessor.from_pretrained(drawing_checkpoint)
    rows = cot_rows.to_list()[:3]
    eager, ours = (list(answer_rows(model, processor, rows, engine=name)) for name in ("eager", "compiled"))
    assert any(answer.mask_logits is not None for answer in eager)
    for expected, answer in zip(eager, ours, strict=True):
        assert answer.completion == expected.completion
        assert (answer.mask_logits is None) == (expected.mask_logits is None)
        if answer.mask_logits is not None:
            torch.testing.assert_close(answer.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("quickly_compiled")
def test_a_model_is_loaded_for_an_engine(drawing_checkpoint, cot_rows):
    """Evaluation, mining and `aurora segment` sample with what `--engine` names."""
    model, processor = load(drawing_checkpoint, "cpu", engine="compiled")
    assert choose_engine("auto", model) == "compiled"
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    (answer,) = answer_rows(model, processor, cot_rows.to_list()[:1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1
    assert answer.completion
    with pytest.raises(ValueError, match="unknown generation engine 'fast'"):
        load(drawing_checkpoint, "cpu", engine="fast")


@pytest.mark.usefixtures("quickly_compiled")
def test_answers_stream(drawing_checkpoint, cot_rows, capsys):
    """A streamer hears of every token."""
    model = AuroraModel.from_pretrained(drawing_checkpoint).eval()
    processor = AuroraProcessor.from_pretrained(drawing_checkpoint)
    for engine in ("eager", "compiled"):
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (answer,) = answer_rows(model, processor, cot_rows.to_list()[:1], engine=engine, streamer=streamer)
        assert capsys.readouterr().out.strip() == answer.completion


@pytest.mark.usefixtures("quickly_compiled")
def test_a_grpo_step_is_the_same(checkpoint, cot_rows, processor, tmp_path):
    """Rewards, losses and what the step makes of the weights; also where a rollout's prompts are read one by one."""
    runs = []
    for settings in ({}, {"generation_engine": "compiled"}, {"prefill_tokens": 1}):
        torch.manual_seed(0)
        model = AuroraModel.from_pretrained(checkpoint)
        trainer = build(model, cot_rows, processor, tmp_path, max_steps=1, learning_rate=1e-3, **settings)
        trainer.train()
        runs.append((logged(trainer, "loss", "reward", "iou", "grad_norm")[0], trainer.aurora.state_dict()))
    for numbers, weights in runs[1:]:
        assert numbers == pytest.approx(runs[0][0], abs=1e-5, rel=1e-4)
        for name, value in runs[0][1].items():
            torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-4)


def test_what_can_not_be_compiled(model, processor, rows, monkeypatch, caplog):
    """One line with the way out; with `auto` a line, and the answer all the same."""
    with pytest.raises(ValueError, match="unknown generation engine 'fast'; use one of auto, eager, compiled"):
        choose_engine("fast", model)
    with pytest.raises(ValueError, match="`compiled` samples, and was asked for beam_search: use the engine `eager`"):
        next(answer_rows(model, processor, rows.to_list()[:1], engine="compiled", num_beams=2))
    model.policy.supports_shared_prefix = False
    with pytest.raises(ValueError, match="takes no 4D attention mask; use the engine `eager`"):
        choose_engine("compiled", model)
    assert choose_engine("auto", model) == "eager"
    model.policy.supports_shared_prefix = True

    def breaks(*args, **kwargs):
        raise OSError("no compiler was found\nand so on")

    inputs = prompts(processor, rows.to_list())
    decoder = CompiledDecoder(model.policy)
    decoder._step = breaks
    for strict in (True, False):
        states = []
        model.decoding_method = decoder.recording(states, strict=strict)
        torch.manual_seed(7)
        if strict:
            with pytest.raises(
                RuntimeError, match=r"compiled \(OSError: no compiler was found\): use the engine `eager`"
            ):
                model.generate(**inputs, max_new_tokens=3, eos_token_id=None)
        else:
            tokens = model.generate(**inputs, max_new_tokens=3, eos_token_id=None)
    model.decoding_method = None
    assert "answers are sampled without" in caplog.text
    assert torch.equal(tokens, written(model, "eager", inputs, max_new_tokens=3, eos_token_id=None)[0])


def test_a_step_that_differs_is_an_error(model, processor, rows):
    """The first compiled step of a model is held against the plain one."""
    inputs = prompts(processor, rows.to_list())
    decoder = CompiledDecoder(model.policy)
    decoder._step = lambda **inputs: tuple(1.01 * value for value in decoder.plain_step(**inputs))
    model.decoding_method = decoder.recording([], strict=False)
    with pytest.raises(RuntimeError, match=r"differs from the plain one by 0\.01 of the state's size"):
        model.generate(**inputs, max_new_tokens=3, eos_token_id=None)
