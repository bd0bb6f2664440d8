"""Learned embeddings behind an answer: by hand, as in a plain forward, in training as in generation, kept on disk."""

import copy

import pytest
import torch
from published_sams import write_sam3
from query_helpers import NUM_QUERIES, model_with_queries

from aurora_trl import AuroraConfig, AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.data.schema import clip_key
from aurora_trl.errors import DataError
from aurora_trl.generation.answers import answer_batch
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.engines import compiled
from aurora_trl.models import ConceptPrompts
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.models.mask_head import capture_layers
from aurora_trl.models.seg_queries import SegQueries
from aurora_trl.models.shared_prefix import allow_shared_prefix
from aurora_trl.prompts import NULL_ANSWER, SEG_TOKEN, queries_target
from aurora_trl.tiny.text_encoder import create_tiny_text_checkpoint

FEATURES = ("seg_states", "seg_features", "mask_logits")


@pytest.fixture(
    params=["videollama2", "videollama3", True, "qwen3"], ids=["videollama2", "videollama3", "omni", "qwen3"]
)
def parts(request, checkpoint, videollama3_checkpoint, qwen_checkpoints):
    """A model with three queries, and its processor."""
    folders = {"videollama2": checkpoint, "videollama3": videollama3_checkpoint, **qwen_checkpoints}
    return model_with_queries(folders[request.param])


def collate(rows, processor, **collating):
    batch = SFTCollator(ClipLoader(processor), **collating)(rows)
    batch.pop("masks", None)
    return batch


def test_embeddings_by_hand():
    """Two answers in the first row, as where rows share a clip; one in the second; none in the third."""
    queries = SegQueries(2, 3, std=0.5)
    assert torch.equal(queries.embeddings, SegQueries(2, 3, std=0.5).embeddings)
    inputs = torch.arange(45.0).view(3, 5, 3).requires_grad_()
    places = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    placed = queries(inputs, places)
    assert torch.equal(placed[~places], inputs[~places])
    first, second = queries.embeddings
    assert torch.equal(placed[0, 1:], torch.stack([first, second, first, second]))
    assert torch.equal(placed[1, 2:4], queries.embeddings)
    placed.sum().backward()
    assert queries.embeddings.grad.tolist() == [[3.0] * 3] * 2
    queries.embeddings.grad = None
    queries(inputs, torch.zeros_like(places)).sum().backward()
    assert queries.embeddings.grad.tolist() == [[0.0] * 3] * 2  # there is one


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("So the target is the drum. It is [SEG].", "So the target is the drum."),
        ("It is [SEG].", ""),
        (f"The drum is silent. {NULL_ANSWER}", f"The drum is silent. {NULL_ANSWER}"),
    ],
)
def test_targets_by_hand(target, expected, processor):
    assert queries_target(target) == expected
    asked = processor.with_seg_source("queries", 4)
    ids = asked.answer_ids({"target": target})[1]
    assert asked.seg_token_id not in ids
    assert asked.decode(ids, skip_special_tokens=True).strip() == expected
    assert asked.query_ids == [asked.seg_token_id] * 4
    assert (asked.instruction, processor.query_ids) == (processor.instruction, [])


def test_states_and_masks_equal_a_plain_forward(parts, cot_rows):
    """The queries as words of a plain model's vocabulary; then SAM's decoder, frame by frame, with all of them."""
    model, processor = parts
    rows = list({clip_key(row): row for row in cot_rows.to_list()}.values())[:2]  # of two clips
    batch = collate(rows, processor)
    batch.pop("labels")
    ids = batch["input_ids"]
    places = ids == processor.seg_token_id
    assert places.sum(dim=1).tolist() == [NUM_QUERIES] * 2
    with torch.no_grad():
        output = model.eval()(**batch)
        plain = copy.deepcopy(model)
        plain.config.seg_source, plain.seg_queries = "token", None
        words = [
            word for word in range(20, 200) if word not in ids.unique() and word not in plain.policy.media_token_ids
        ]
        table = plain.get_input_embeddings().weight
        table[words[:NUM_QUERIES]] = model.seg_queries.embeddings
        spelt = ids.masked_scatter(places, torch.tensor(words[:NUM_QUERIES] * 2))
        media = {name: batch[name] for name in plain.policy.media_inputs if name in batch}
        with capture_layers(plain) as layers:
            plain.base_model(input_ids=spelt, attention_mask=batch["attention_mask"], **media)
        states = layers[0][0][places].unflatten(0, (2, NUM_QUERIES))
        prompts = plain.seg_projector(states)
        masks = torch.stack(
            [
                torch.cat([plain.mask_decoder.decode(frame[None], own[None]) for frame in clip])
                for clip, own in zip(plain.encode_masks(batch["mask_frames"]), prompts, strict=True)
            ]
        )
    torch.testing.assert_close(output["seg_states"], states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output["seg_features"], prompts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output["mask_logits"], masks, atol=1e-4, rtol=1e-4)


def test_labels_know_nothing_of_them(parts, cot_rows):
    model, processor = parts
    rows = [{**row, "target": queries_target(row["target"])} for row in cot_rows.to_list()[:3]]
    with_queries = collate(rows, processor)
    plain = collate(rows, processor.with_seg_source("token", 4))
    longest = plain["input_ids"].size(1)
    assert torch.equal(with_queries["labels"][:, :longest], plain["labels"])
    assert (with_queries["labels"][:, longest:] == -100).all()
    texts = []
    for batch in (with_queries, plain):
        batch.pop("seg_positions"), batch.pop("mask_frames")
        with torch.no_grad():
            texts.append(model.eval()(**batch).loss)
    torch.testing.assert_close(*texts, atol=1e-6, rtol=0)


def test_gradients_reach_queries_projector_and_language_model(parts, cot_rows):
    model, processor = parts
    batch = collate(cot_rows.to_list()[:2], processor)
    batch.pop("labels")
    model.train()(**batch)["mask_logits"].square().mean().backward()
    layer = model.policy.model.language_model.layers[0]
    for weight in (model.seg_queries.embeddings, model.seg_projector[0].weight, layer.self_attn.q_proj.weight):
        assert weight.grad.abs().sum() > 0
    assert (model.seg_queries.embeddings.grad.abs().sum(dim=1) > 0).all()
    assert "seg_queries" in {name.split(".")[0] for name, _ in model.named_parameters()}
    assert any(part is model.seg_queries for part in model.trainable_modules()["seg_projector"])


def test_rows_that_share_a_clip_give_the_same(parts, cot_rows):
    model, processor = parts
    rows = cot_rows.to_list()[:4]
    model.eval()
    plain, again = collate(rows, processor), collate(rows, processor, share_prefix=True)
    assert "prefix_lengths" in again
    assert allow_shared_prefix(model.policy) is None
    for batch in (plain, again):
        batch.pop("labels")
    with torch.no_grad():
        expected, shared = model(**plain), model(**again)
    for name in FEATURES:
        torch.testing.assert_close(shared[name], expected[name], atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_it_gives_the_same_masks(parts, cot_rows, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, own = AuroraModel.from_pretrained(tmp_path), AuroraProcessor.from_pretrained(tmp_path)
    assert (again.config.seg_source, again.config.num_queries) == (own.seg_source, own.num_queries) == ("queries", 3)
    own.require_fit(again)
    batch = collate(cot_rows.to_list()[:2], own)
    batch.pop("labels")
    with torch.no_grad():
        ours, theirs = model.eval()(**batch), again.eval()(**batch)
    for name in FEATURES:
        torch.testing.assert_close(theirs[name], ours[name], atol=1e-6, rtol=1e-6)
    half = AuroraModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert half.seg_queries.embeddings.dtype == torch.bfloat16
    with pytest.raises(DataError, match="its `seg_source` is token, the model's is queries"):
        processor.with_seg_source("token", 4).require_fit(again)
    with pytest.raises(DataError, match="its `num_queries` is 2, the model's is 3"):
        processor.with_seg_source("queries", 2).require_fit(again)


def says(model, processor, text):
    """Let a model say a text, and then end its turn, whatever it reads."""
    wanted = [*processor.completion_ids(text)]
    step = iter([*wanted, *[processor.tokenizer.eos_token_id] * 100])
    return model.policy.lm_head.register_forward_hook(
        lambda _module, _args, logits: logits.index_fill(-1, torch.tensor([next(step)]), 99.0)
    )


@pytest.mark.parametrize("text", ["So the target is the drum.", ""], ids=["class", "nothing"])
def test_an_answer_draws_what_training_draws(text, parts, cot_rows):
    """The masks of a forward over the same text, whatever stands in it; the answer itself says no `[SEG]`."""
    model, processor = parts
    rows, loader = [{**row, "target": f"{text} It is [SEG]."} for row in cot_rows.to_list()[:2]], ClipLoader(processor)
    model.eval()
    with says(model, processor, text):
        answers = answer_batch(model, processor, rows, loader, max_new_tokens=20)
    batch = collate(rows, processor)
    batch.pop("labels")
    with torch.no_grad():
        expected = model(**batch)["mask_logits"]
    for answer, logits in zip(answers, expected, strict=True):
        assert (answer.completion, answer.cut) == (text, False)
        assert answer.seg_features.shape == (NUM_QUERIES, model.mask_decoder.prompt_dim)
        torch.testing.assert_close(answer.decoded_logits, logits, atol=1e-4, rtol=1e-4)


def test_what_is_never_said(model, processor, cot_rows):
    """A model that would say `[SEG]` at every step says something else once it has queries."""
    seg = torch.tensor([processor.seg_token_id])
    model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    for source, said in (("token", True), ("queries", False)):
        model.set_seg_source(source)
        own = processor.with_seg_source(source, 4)
        (answer,) = answer_batch(model.eval(), own, cot_rows.to_list()[:1], ClipLoader(own), max_new_tokens=3)
        assert (SEG_TOKEN in answer.completion) == said
        # Cut, it has nothing that a mask could be drawn from.
        assert (answer.mask_logits is not None, answer.cut) == (said, True)


def test_an_answer_that_nothing_fits_draws_nothing(checkpoint, cot_rows):
    model, processor = model_with_queries(checkpoint)
    with says(model.eval(), processor, NULL_ANSWER):
        (answer,) = answer_batch(model, processor, cot_rows.to_list()[:1], ClipLoader(processor), max_new_tokens=9)
    assert (answer.completion, answer.mask_logits, answer.cut) == (NULL_ANSWER, None, False)
    null = {**cot_rows[0], "target": f"Nobody plays. {NULL_ANSWER}"}
    assert collate([null, cot_rows[0]], processor)["seg_positions"][0] == -1
    assert collate([null, cot_rows[0]], processor)["seg_positions"][1] > 0


def test_a_compiled_answer_and_every_frame_are_the_same(checkpoint, cot_rows, monkeypatch):
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")
    model, processor = model_with_queries(checkpoint)
    eos = torch.tensor([processor.tokenizer.eos_token_id])
    head = model.policy.lm_head
    head.weight.data[eos] = 0  # it ends where all else is below 0
    model.eval()
    row, loader = cot_rows[0], ClipLoader(processor)
    with says(model, processor, ""):
        (eager,) = answer_batch(model, processor, [row], loader, max_new_tokens=4, engine="eager")
    with head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, eos, 99.0)):
        (ours,) = answer_batch(model, processor, [row], loader, max_new_tokens=4, engine="compiled")
        pipe = AuroraPipeline(model, processor)
        few = pipe(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=4)
    torch.testing.assert_close(ours.mask_logits, eager.mask_logits, atol=1e-4, rtol=1e-4)
    drawn = list(pipe.every_frame(few))
    assert [frame.masks.shape for frame in drawn] == [(1, 48, 48)] * 10
    for frame, mask in zip(drawn, few.masks, strict=True):
        assert (frame.mask != mask).mean() < 1e-3


def test_what_does_not_go_with_queries(checkpoint, model, processor, tmp_path):
    policy, decoder = model.config.policy_config, model.config.mask_decoder_config
    with pytest.raises(ValueError, match="`seg_source` must be one of token, queries, got 'words'"):
        AuroraConfig(policy, decoder, 3, seg_source="words")
    with pytest.raises(ValueError, match="`num_queries` must be at least 1, got 0"):
        model.set_seg_source("queries", 0)
    with pytest.raises(ValueError, match="`mask_source: box` reads no states behind an answer"):
        AuroraConfig(policy, decoder, 3, seg_source="queries", mask_source="box")
    with pytest.raises(ValueError, match="`existence_output` looks at the one state"):
        AuroraConfig(policy, decoder, 3, seg_source="queries", existence_output=True)
    with pytest.raises(ValueError, match="`max_objects` is 2: leave one of the two out"):
        processor.with_max_objects(2).with_seg_source("queries", 4)
    with pytest.raises(ValueError, match="`max_objects` is 2: leave one of the two out"):
        processor.with_seg_source("queries", 4).with_max_objects(2)
    named = copy.copy(processor)
    named.instruction = "{reference} End with [SEG]."
    with pytest.raises(ValueError, match=r"keeps \[SEG\] out of texts, and `instruction` names it"):
        named.with_seg_source("queries", 4)
    assert model.config.seg_source == "token"
    boxes = AuroraModel.from_pretrained(checkpoint)
    boxes.set_mask_source("box")
    with pytest.raises(ValueError, match="`seg_source: queries` no boxes"):
        boxes.set_seg_source("queries")
    assert model.set_seg_source("queries", 2)
    assert not model.set_seg_source("queries", 2)
    assert not model.set_seg_source()
    for settings in (("token",), ("queries", 3)):
        with pytest.raises(ValueError, match="the model was trained with 2 queries"):
            model.set_seg_source(*settings)
    with pytest.raises(ValueError, match="`seg_source: queries` no boxes"):
        model.set_mask_source("box")
    with pytest.raises(ValueError, match="look at the one state at"):
        model.add_seg_parts(spatial_prompt=True)
    assert model.add_seg_parts(seg_layers=2)


def test_a_detector_and_a_constant_sentence_are_refused(model, tmp_path):
    write_sam3(tmp_path / "sam3")
    detector = load_mask_decoder(tmp_path / "sam3", concepts=ConceptPrompts(max_objects=2))
    config = AuroraConfig(model.config.policy_config, detector.config, model.config.seg_token_id)
    with pytest.raises(ValueError, match="Sam3ConceptMaskDecoder takes a prompt as a concept"):
        AuroraModel(config, policy=model.policy, mask_decoder=detector).set_seg_source("queries")
    create_tiny_text_checkpoint(tmp_path / "text")
    text = AuroraModel.from_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="TextEncoderForConditionalGeneration always writes one sentence"):
        text.set_seg_source("queries")
    assert text.config.seg_source == "token"


def test_a_policy_that_embeds_in_another_way_is_an_error(checkpoint, cot_rows):
    model, processor = model_with_queries(checkpoint)
    batch = collate(cot_rows.to_list()[:1], processor)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    model.base_model.forward = lambda **inputs: model.base_model.language_model(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="needs a policy that calls its input embeddings"):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
