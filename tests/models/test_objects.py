"""Several `[SEG]` in one answer: which of them count, and what they draw."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from aurora_trl import AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.annotation import mine_rows
from aurora_trl.data.masks import decode_rle, load_masks
from aurora_trl.data.schema import clip_key
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.evaluation.scoring import describe_answer
from aurora_trl.generation.answer import Answer
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.segment import write_segmentation
from aurora_trl.models.objects import find_seg_positions, union_logits

TWO = "So the target is the drum. It is [SEG] and [SEG]."

# What a model wrote, and which of its `[SEG]`, counted from 0, are the first two of the final answer.
TEXTS = {
    "It is [SEG].": [0],
    TWO: [0, 1],
    "It is [SEG], [SEG] and [SEG].": [0, 1],
    "It is [SEG] and [SEG]. Wait. It is [SEG].": [2],
    "It is [SEG].\nIt is [SEG] and [SEG]": [1, 2],
    "Is it [SEG]? No! It is [SEG] and [SEG]. That is all.": [1, 2],
    "Nothing fits.": [],
}


@pytest.fixture(scope="module")
def two(processor):
    return processor.with_max_objects(2)


@pytest.fixture(params=["videollama2", "omni"])
def policy_folder(request, checkpoint, qwen_checkpoints):
    return checkpoint if request.param == "videollama2" else qwen_checkpoints[True]


def of_distinct_clips(rows):
    """A row of each clip."""
    return list({clip_key(row): row for row in rows}.values())


def completions(processor):
    ids = [processor.completion_ids(text) for text in TEXTS]
    length = max(map(len, ids))
    padded = torch.tensor([row + [processor.tokenizer.pad_token_id] * (length - len(row)) for row in ids])
    return padded, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])


def test_the_first_of_the_final_answer_count(policy_folder):
    processor = AuroraProcessor.from_pretrained(policy_folder)
    two = processor.with_max_objects(2)
    ids, mask = completions(processor)
    found = two.find_seg_positions(ids, mask)
    assert found.shape == (len(TEXTS), 2)
    for row, places, expected in zip(ids, found.tolist(), TEXTS.values(), strict=True):
        segs = (row == processor.seg_token_id).nonzero()[:, 0].tolist()
        wanted = [segs[number] for number in expected]
        assert places == wanted + [-1] * (2 - len(wanted))
    # What the mask leaves out, such as a prompt, does not count, nor does a sentence that ends there.
    hidden = mask.clone()
    hidden[1, : int(found[1, 0]) + 1] = 0
    assert two.find_seg_positions(ids, hidden)[1].tolist() == [int(found[1, 1]), -1]
    # A completion may be shorter than there are places.
    assert two.find_seg_positions(torch.tensor([[processor.seg_token_id]]), torch.ones(1, 1)).tolist() == [[0, -1]]


def test_with_one_target_the_last_counts(processor):
    ids, mask = completions(processor)
    found = processor.find_seg_positions(ids, mask)
    assert torch.equal(found, find_seg_positions(ids, mask, processor.seg_token_id))
    assert found.shape == (len(TEXTS),)
    assert found[2] == (ids[2] == processor.seg_token_id).nonzero().max()


def test_the_checkpoint_keeps_it(processor, two, tmp_path):
    assert processor.max_objects == 1  # the copy's is its own
    two.save_pretrained(tmp_path)
    assert AuroraProcessor.from_pretrained(tmp_path).max_objects == 2
    # A checkpoint that is older than the setting has one target.
    settings = json.loads((tmp_path / "aurora_processor.json").read_text())
    del settings["max_objects"]
    (tmp_path / "aurora_processor.json").write_text(json.dumps(settings))
    assert AuroraProcessor.from_pretrained(tmp_path).max_objects == 1
    with pytest.raises(ValueError, match="`max_objects` must be at least 1, got 0"):
        AuroraProcessor(processor.policy_processor, max_objects=0)


def test_union_by_hand():
    logits = torch.tensor([[[1.0, -2.0]], [[-3.0, 4.0]], [[9.0, 9.0]]]).view(1, 3, 1, 1, 2).expand(3, 3, 1, 1, 2)
    logits = logits.clone().requires_grad_()
    has_seg = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    union = union_logits(logits, has_seg)
    assert union.flatten(1).tolist() == [[1, 4], [1, -2], [1, -2]]
    union[:2].sum().backward()
    # A gradient reaches the highest alone, and never a dummy.
    assert logits.grad[0].flatten(1).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert not logits.grad[1, 1:].any()


def test_a_batch_equals_single_rows(policy_folder, cot_rows):
    """Two, one and no `[SEG]` in one forward: each mask is that of its `[SEG]` alone."""
    model, processor = (
        AuroraModel.from_pretrained(policy_folder).eval(),
        AuroraProcessor.from_pretrained(policy_folder),
    )
    two = processor.with_max_objects(2)
    texts = [TWO, "It is [SEG].", "Nothing fits."]
    rows = [{**row, "target": text} for row, text in zip(of_distinct_clips(cot_rows), texts, strict=False)]
    batch = SFTCollator(ClipLoader(two))(rows)
    assert batch["object_masks"].shape == (3, 2, *batch["masks"].shape[1:])
    for name in ("masks", "object_masks", "labels"):
        batch.pop(name)
    with torch.no_grad():
        output = model(**batch)
    assert output["mask_logits"].shape[:3] == (3, 2, 10)
    assert output["seg_states"].shape[:2] == (3, 2)
    assert (batch["seg_positions"] >= 0).tolist() == [[True, True], [True, False], [False, False]]
    for row, slot in [(0, 0), (0, 1), (1, 0)]:
        alone = SFTCollator(ClipLoader(processor))([rows[row]])
        alone.pop("masks"), alone.pop("labels")
        alone["seg_positions"] = batch["seg_positions"][row, slot][None]
        with torch.no_grad():
            expected = model(**alone)
        for name in ("seg_states", "seg_features", "mask_logits"):
            torch.testing.assert_close(output[name][row, slot], expected[name][0], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def pipe(checkpoint):
    """Whatever this model reads, it says `[SEG]`; two of them count."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    seg = torch.tensor([processor.seg_token_id])
    model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    return AuroraPipeline(model, processor.with_max_objects(2))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_answers(length, pipe, rows):
    """With one or two tokens the last `[SEG]` was never read in generation: a forward reads it."""
    pair = of_distinct_clips(rows)[:2]
    for answer in answer_rows(pipe.model, pipe.processor, pair, max_new_tokens=length):
        if length == 1:
            assert answer.object_logits is None
            continue
        assert answer.object_logits.shape == (2, *answer.mask_logits.shape)
        clip = pipe._loader.clip(answer.row)
        prompt = pipe.processor.prompt_ids(answer.row, clip)
        media = {name: clip[name][None] for name in ("pixel_values_videos", "audio_values", "mask_frames")}
        with torch.no_grad():
            output = pipe.model(
                input_ids=torch.tensor([prompt + [pipe.processor.seg_token_id] * 2]),
                seg_positions=torch.tensor([[len(prompt), len(prompt) + 1]]),
                **media,
            )
        low = output["mask_logits"][0]
        for logits, expected in zip(answer.object_logits, low, strict=True):
            torch.testing.assert_close(logits, pipe.processor.restore_masks(expected, (48, 48)), atol=1e-3, rtol=1e-3)
        union = pipe.processor.restore_masks(low.amax(dim=0), (48, 48))
        torch.testing.assert_close(answer.mask_logits, union, atol=1e-3, rtol=1e-3)


def _iou(drawn, target):
    union, both = (drawn | target).sum((1, 2)), (drawn & target).sum((1, 2))
    return np.where(union > 0, both / np.maximum(union, 1), 1.0).mean()


def test_format_of_an_answer(rows):
    answer = Answer(rows[0], TWO, None, 12)
    assert [describe_answer(answer, 10, most)["format_correct"] for most in (1, 2)] == [False, True]


def test_pipeline_segment_and_evaluation(pipe, rows, tmp_path):
    """The union is the mask that is scored, and each object's mask is part of it."""
    row = rows.to_list()[0]
    metrics = evaluate_model(pipe.model, pipe.processor, {"train": [row]}, tmp_path / "eval", max_new_tokens=2)
    assert metrics["splits"]["train"]["seg_share"] == 1.0
    answer = json.loads((tmp_path / "eval" / "answers.jsonl").read_text())
    result = pipe(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=2)
    assert np.array_equal(result.masks, np.stack([decode_rle(mask) for mask in answer["masks"]]))
    (mined,) = mine_rows(pipe.model, pipe.processor, [row], max_new_tokens=2)
    assert mined.iou == pytest.approx(_iou(result.masks, load_masks(row)), abs=0.05)  # compared at another size
    assert result.object_masks.shape == (2, 10, 48, 48)
    assert (result.object_masks.max(axis=0) <= result.masks).all()
    record = write_segmentation(result, row, tmp_path / "out")
    assert record["num_objects"] == 2
    for number in range(2):
        with Image.open(tmp_path / "out" / "objects" / str(number) / "000003.png") as image:
            assert np.array_equal(np.asarray(image) > 0, result.object_masks[number, 3] > 0)
    runs = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert [(run["object"], run["frame"]) for run in runs] == [(n, i) for n in range(2) for i in range(10)]
    assert np.array_equal(decode_rle(json.dumps(runs[13]["segmentation"])), result.object_masks[1, 3])
    every = list(pipe.every_frame(result))
    assert (np.stack([frame.mask for frame in every]) != result.masks).mean() < 1e-3
    assert (np.stack([frame.masks for frame in every], axis=1) != result.object_masks).mean() < 1e-3
    one = pipe(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=1)
    assert one.has_seg
    assert one.object_masks is None
    assert "num_objects" not in write_segmentation(one, row, tmp_path / "one")
