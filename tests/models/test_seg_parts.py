"""What strengthens `[SEG]`: by hand, without effect at first, and the same state wherever it is read."""

import pytest
import torch
from seg_helpers import PARTS, strong_model

from aurora_trl import AuroraConfig, AuroraModel
from aurora_trl.generation.answers import answer_batch
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.engines import compiled, gather_seg_states, read_states, record_last_states
from aurora_trl.generation.pipeline import AuroraPipeline
from aurora_trl.models.mask_decoders.base import ABSENT_LOGIT
from aurora_trl.models.seg_parts import LayerMix, SpatialPrompt, empty_absent
from aurora_trl.models.shared_prefix import allow_shared_prefix

FEATURES = ("seg_states", "seg_features", "existence_logits", "mask_logits")


@torch.no_grad()
def forward(model, rows, processor, **collating):
    batch = SFTCollator(ClipLoader(processor), **collating)(rows)
    for name in ("masks", "labels"):
        batch.pop(name)
    return model.eval()(**batch)


def test_a_mix_by_hand():
    """Width 2. The earlier layer's state (3, 4) has the root mean square sqrt(12.5); the last one's is 2."""
    mix = LayerMix(2, 2)
    last, before = torch.tensor([2.0, 2.0]), torch.tensor([3.0, 4.0])
    assert torch.equal(mix([last, before]), last)
    with torch.no_grad():
        mix.gates.copy_(torch.tensor([[1.0, 0.0]]))
    own = before / 12.5**0.5
    share = torch.tanh(own[0] / 2**0.5)
    torch.testing.assert_close(mix([last, before]), last + share * (2 * own - last))
    # Whatever the scale of the stream, which grows from layer to layer.
    torch.testing.assert_close(mix([last, 10 * before]), mix([last, before]))


def test_a_spatial_prompt_by_hand():
    """Two channels meet the prompt, the third is finer detail. The second place is as far from the query as can be."""
    prompt = SpatialPrompt(2)
    embeddings = torch.tensor([[[1.0, -3.0]], [[1.0, -3.0]], [[7.0, 8.0]]])[None, None]  # (1, 1, 3, 1, 2)
    seg = torch.tensor([[[1.0, 0.0]]])
    assert torch.equal(prompt(embeddings, seg), embeddings)
    with torch.no_grad():
        prompt.query.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        prompt.mark.copy_(torch.tensor([10.0, 0.0]))
    root = 2**0.5  # the cosine of (1, 1) with (1, 1), times the query's length
    expected = torch.tensor([[[1 + 10 * root, -3 - 10 * root]], [[1.0, -3.0]], [[7.0, 8.0]]])[None, None]
    torch.testing.assert_close(prompt(embeddings, seg), expected)


def test_what_is_not_there_is_emptied():
    logits = torch.ones(2, 3, 1, 1, 1)
    emptied = empty_absent(logits, torch.tensor([[0.0, -0.1, 2.0], [1.0, 1.0, -3.0]]))
    assert emptied.flatten().tolist() == [1, ABSENT_LOGIT, 1, 1, 1, ABSENT_LOGIT]
    assert empty_absent(logits, None) is logits


def test_a_new_part_changes_no_mask(checkpoint, cot_rows, processor):
    rows = cot_rows.to_list()[:3]
    plain, extended = (AuroraModel.from_pretrained(checkpoint) for _ in range(2))
    assert extended.add_seg_parts(**PARTS)
    assert not extended.add_seg_parts(**PARTS)
    before, after = forward(plain, rows, processor), forward(extended, rows, processor)
    assert torch.equal(before["mask_logits"], after["mask_logits"])
    assert before.get("existence_logits") is None
    assert torch.equal(after["existence_logits"], torch.zeros(3))
    shown = {name for name, _ in extended.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert {name.split(".")[0] for name in shown} == {"seg_layer_mix", "seg_spatial", "seg_existence"}
    # Behind all others: a reference model without them is moved weight by weight in this order.
    assert [name for name, _ in extended.named_parameters()][-len(shown) :] == sorted(
        shown, key=list(dict(extended.named_parameters())).index
    )


def test_each_part_changes_masks(checkpoint, cot_rows, processor):
    rows = cot_rows.to_list()[:3]
    strong = strong_model(checkpoint)
    after = forward(strong, rows, processor)
    strong.seg_spatial.mark.data.zero_()
    without_places = forward(strong, rows, processor)
    strong.seg_layer_mix.gates.data.zero_()
    plain = forward(strong, rows, processor)
    assert not torch.allclose(after["mask_logits"], without_places["mask_logits"], atol=1e-3)
    assert not torch.allclose(plain["seg_states"], without_places["seg_states"], atol=1e-3)


def test_saved_and_loaded_it_gives_the_same_masks(checkpoint, cot_rows, processor, tmp_path):
    model = strong_model(checkpoint)
    model.save_pretrained(tmp_path)
    again = AuroraModel.from_pretrained(tmp_path)
    assert all(getattr(again.config, name) == value for name, value in PARTS.items())
    rows = cot_rows.to_list()[:2]
    ours, theirs = forward(model, rows, processor), forward(again, rows, processor)
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for name in FEATURES:  # whose sums may run in another order, as weights lie elsewhere in memory
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6)
    half = AuroraModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {value.dtype for value in half.seg_spatial.parameters()} == {torch.bfloat16}
    assert forward(half, rows, processor)["mask_logits"].isfinite().all()


def test_rows_that_share_a_clip_give_the_same(checkpoint, cot_rows, processor):
    model = strong_model(checkpoint)
    rows = cot_rows.to_list()[:4]
    plain = forward(model, rows, processor)
    assert allow_shared_prefix(model.policy) is None
    shared = forward(model, rows, processor, share_prefix=True)
    for name in FEATURES:
        torch.testing.assert_close(shared[name], plain[name], atol=1e-4, rtol=1e-4)


def test_the_state_is_the_same_in_training_and_generation(checkpoint, cot_rows, processor):
    """Token by token with a cache, in one forward, and read again; a prompt that is read beforehand is not counted."""
    model = strong_model(checkpoint).eval()
    row = cot_rows[0]
    clip = ClipLoader(processor).clip(row)
    media = {name: clip[name][None] for name in ("pixel_values_videos", "audio_values")}
    prompt = processor.prompt_ids(row, clip)
    completion = processor.completion_ids("It is [SEG].")
    ids = torch.tensor([prompt + completion])
    position = torch.tensor([len(prompt) + completion.index(processor.seg_token_id)])
    with torch.no_grad():
        expected = model(input_ids=ids, seg_positions=position, attention_mask=torch.ones_like(ids), **media)[
            "seg_states"
        ]
        model.base_model(input_ids=ids[:, :4])  # by no head
        with record_last_states(model) as states:
            model.base_model(input_ids=ids[:, :4])
            output = model.policy(input_ids=ids[:, : len(prompt)], use_cache=True, **media)
            for t in range(len(prompt), ids.size(1)):
                output = model.policy(input_ids=ids[:, t : t + 1], cache=output.cache, use_cache=True)
        written = processor.find_seg_positions(torch.tensor([completion]), torch.ones(1, len(completion)))
        generated, _, known = gather_seg_states(states, written)
        read = read_states(model, [prompt + completion], position, processor.tokenizer.pad_token_id, **media)
    assert known.all()
    torch.testing.assert_close(generated, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=1e-5)


def test_answers_are_drawn_with_all_parts(drawing_checkpoint, cot_rows, processor):
    """What is said not to be there has an empty mask, and the answer keeps its `[SEG]`."""
    model = strong_model(drawing_checkpoint).eval()
    rows, loader = cot_rows.to_list()[:2], ClipLoader(processor)
    for bias, emptied in ((-1e3, True), (1e3, False)):
        model.seg_existence.bias.data.fill_(bias)
        answers = answer_batch(model, processor, rows, loader, max_new_tokens=12)
        assert all(answer.mask_logits is not None for answer in answers)
        assert all(torch.allclose(answer.mask_logits, torch.tensor(ABSENT_LOGIT)) == emptied for answer in answers)


@pytest.mark.parametrize(("seg_layers", "fault"), [(0, "from 1 to 2, got 0"), (3, "from 1 to 2, got 3")])
def test_as_many_layers_as_there_are(seg_layers, fault, checkpoint):
    model = AuroraModel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match=f"`seg_layers` must be {fault}"):
        AuroraConfig(model.config.policy_config, model.config.mask_decoder_config, seg_layers=seg_layers)
    with pytest.raises(ValueError, match=f"`seg_layers` must be {fault}"):
        model.add_seg_parts(seg_layers=seg_layers)


def test_what_was_learned_is_not_thrown_away(checkpoint):
    model = strong_model(checkpoint)
    for name in ("spatial_prompt", "existence_output"):
        with pytest.raises(ValueError, match=f"`{name}` is False, and the model was trained with True: leave it out"):
            model.add_seg_parts(**{name: False})
    with pytest.raises(ValueError, match="`seg_layers` is 1, and the model was trained with 2"):
        model.add_seg_parts(seg_layers=1)


def test_a_compiled_answer_is_the_same(drawing_checkpoint, cot_rows, processor, monkeypatch):
    """A compiled step gives the last layer's state alone: the others are read again."""
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")
    model = strong_model(drawing_checkpoint).eval()
    model.seg_existence.bias.data.fill_(1e3)
    loader = ClipLoader(processor)
    eager, ours = (
        answer_batch(model, processor, cot_rows.to_list()[:2], loader, max_new_tokens=12, engine=engine)
        for engine in ("eager", "compiled")
    )
    for expected, answer in zip(eager, ours, strict=True):
        assert answer.completion == expected.completion
        torch.testing.assert_close(answer.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)
    # Also where none of them gets as far as `[SEG]`: there is no state whose width could be looked up.
    (cut,) = answer_batch(model, processor, cot_rows.to_list()[:1], loader, max_new_tokens=1, engine="compiled")
    assert cut.mask_logits is None


def test_every_frame_is_refused_before_anything_is_asked(drawing_checkpoint, processor):
    """A stream of frames does not carry the spatial prompt."""
    pipe = AuroraPipeline(strong_model(drawing_checkpoint), processor)
    with pytest.raises(ValueError, match="every frame: this model has a spatial prompt"):
        pipe("the drum", video="nowhere.mp4", frames="all")
