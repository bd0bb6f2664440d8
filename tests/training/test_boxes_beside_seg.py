"""`mask_source: both`: boxes that an answer writes before its `[SEG]`, as prompts beside it."""

import json

import numpy as np
import pytest
import torch
from grpo_helpers import SETTINGS
from sft_helpers import build as build_sft

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.data import load_refavs
from aurora_trl.data.masks import decode_rle
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.box_answers import read_prompts
from aurora_trl.generation.box_targets import BoxTargets
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.every_frame import masks_of_frame_size
from aurora_trl.models.box_prompts import FrameView, embed_boxes, place_boxes
from aurora_trl.prompts import INSTRUCTION, ends_with_answer, extract_class, strip_answer

WRITTEN = 'So the target is the drum. [{"frame": 4, "bbox_2d": [100, 200, 500, 900], "label": "drum"}]\nIt is [SEG].'


def made_to_write(checkpoint):
    """`[SEG]`'s own checkpoint and processor, for answers with both."""
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    model.set_mask_source("both")
    return model, processor.with_mask_source("both")


@pytest.fixture(scope="module")
def learnt(checkpoint, world, tmp_path_factory):
    """A phase that starts from `[SEG]`'s checkpoint, and its folder."""
    folder = tmp_path_factory.mktemp("both") / "sft"
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    settings = {"mask_source": "both", "targets": "answer", "max_steps": 40, "learning_rate": 1e-2, "warmup_steps": 2}
    trainer = build_sft(model, load_refavs(world, "train"), processor, folder, **settings)
    trainer.train()
    trainer.save_model()
    return trainer, folder


def test_an_answer_is_read_as_one_with_seg_and_as_one_with_boxes():
    view = FrameView((48, 96), (1000, 1000))
    (objects,) = read_prompts([WRITTEN], [view], 10)
    assert objects[0].frames == (4,)
    assert objects[0].boxes[4].tolist() == pytest.approx([0.1, 0.2, 0.5, 0.9])
    assert ends_with_answer(WRITTEN)
    assert extract_class(WRITTEN) == "drum"
    assert strip_answer(WRITTEN) == "So the target is the drum."


def test_prompts_are_seg_and_segment_anythings_own_tokens(checkpoint):
    """The nearest frame's box; what was not written is the published token for a prompt that is not there."""
    model, processor = made_to_write(checkpoint)
    size, side = (48, 96), processor.mask_image_size
    prompts = read_prompts([WRITTEN, "It is [SEG]."], [FrameView(size, (1000, 1000))] * 2, 10)
    places = place_boxes(prompts, processor.geometry, [size] * 2, 10)
    box = torch.tensor(
        [[0.1 * side, 0.2 * side / 2, 0.5 * side, 0.9 * side / 2]]
    )  # the frame is the square's upper half
    assert torch.allclose(places[0, :, :4], box.expand(10, -1))
    assert places[0, :, 4:].isnan().all()
    assert places[1].isnan().all()
    features = torch.randn(2, model.mask_decoder.prompt_dim)
    with torch.no_grad():
        given = model.with_boxes(features, places)
        corners, _ = model.mask_decoder.prompt_encoder(points=None, boxes=box, masks=None)
        nothing = model.mask_decoder.prompt_encoder.not_a_point_embed.weight
        assert given.shape == (2, 10, 4, features.size(1))
        assert torch.equal(given[:, :, 0], features[:, None].expand(-1, 10, -1))
        assert torch.allclose(given[0, 3, 1:], torch.cat([corners[0], nothing]), atol=1e-5)
        assert torch.allclose(given[1, 3, 1:], nothing.expand(3, -1), atol=1e-5)
        frames = torch.randn(1, 10, 3, side, side)
        embeddings = model.encode_masks(frames)
        drawn = model.decode_features(given[:1], embeddings)
        expected = model.mask_decoder.decode(embeddings[0], given[0])
    assert torch.allclose(drawn[0], expected, atol=1e-5)
    assert torch.equal(embed_boxes(model.mask_decoder, places), given[:, :, 1:])


def test_targets_hold_both_and_masks_are_drawn_from_both(checkpoint, cot_rows):
    """A row's box stands before its `[SEG]`; one without an object asks for its empty mask as before."""
    model, processor = made_to_write(checkpoint)
    assert processor.instruction == INSTRUCTION
    rows = [next(row for row in cot_rows if not row["is_null"]), next(row for row in cot_rows if row["is_null"])]
    loader = ClipLoader(processor)
    boxes = BoxTargets(processor)
    written, null = (boxes(row, loader.clip(row))["target"] for row in rows)
    assert written.startswith(strip_answer(rows[0]["target"]) + " [{")
    assert written.endswith("}]\nIt is [SEG].")
    assert null == rows[1]["target"]
    batch = SFTCollator(loader, boxes=boxes)(rows)
    assert not batch["seg_boxes"][0].isnan().any()
    assert batch["seg_boxes"][1].isnan().all()
    unused = ("labels", "masks", "box_masks", "point_masks")
    inputs = {name: value for name, value in batch.items() if name not in unused}
    with torch.no_grad():
        drawn = model(**inputs)
        other = model(**{**inputs, "seg_boxes": inputs["seg_boxes"].flip(0)})
        states = drawn["seg_states"]
        embeddings = model.encode_masks(batch["mask_frames"])
        again = model.decode_masks(states, embeddings, batch["clip_index"], batch["seg_boxes"])
    assert torch.allclose(drawn["mask_logits"], again, atol=1e-5)
    assert not torch.allclose(drawn["mask_logits"], other["mask_logits"], atol=1e-4)
    assert torch.equal(states, other["seg_states"])


def test_saved_loaded_and_scored_it_draws_the_same(learnt, world, tmp_path):
    trainer, folder = learnt
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    assert model.config.mask_source == processor.mask_source == "both"
    rows = list(load_refavs(world, "val"))[:8]
    before = list(answer_rows(trainer.model, trainer.processing_class, rows))
    after = list(answer_rows(model, processor, rows))
    assert sum(answer.prompts is not None for answer in after) >= 2
    for old, new in zip(before, after, strict=True):
        assert old.completion == new.completion
        if new.mask_logits is not None:
            torch.testing.assert_close(old.mask_logits, new.mask_logits, atol=1e-5, rtol=1e-5)
    scores = evaluate_model(model, processor, {"val": rows}, tmp_path / "scores", batch_size=8)
    assert scores["splits"]["val"]["format_accuracy"] >= 0.75
    records = [json.loads(line) for line in (tmp_path / "scores" / "answers.jsonl").read_text().splitlines()]
    for record, answer in zip(records, after, strict=True):
        drawn = np.stack([decode_rle(mask) for mask in record["masks"]])
        if answer.mask_logits is None:
            assert not drawn.any()
        else:
            assert np.array_equal(drawn, masks_of_frame_size(answer.mask_logits, (48, 48)))
    pipe = AuroraPipeline(model, processor)
    result = pipe(rows[0]["reference"], frames=rows[0]["frames"], audio=rows[0]["audio"])
    with pytest.raises(ValueError, match="this model writes boxes for the frames that it reads"):
        pipe.every_frame(result)


class Keeping(AuroraGRPOTrainer):
    """Keeps what a rollout drew, and what the forward of the loss does."""

    def _draw_rollout(self, *args):
        self.rollout = super()._draw_rollout(*args)
        return self.rollout

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.forward_drew = self._samples, self._seg_output[1]["mask_logits"].detach()
        return found


@pytest.mark.parametrize("shared", [True, False])
def test_a_grpo_step_draws_in_its_loss_what_the_rollout_drew(learnt, world, shared, tmp_path):
    """Rewards of both kinds go together, and see the boxes."""
    folder = learnt[1]
    model, processor = AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder)
    seen = []

    def look(prompts, completions, pred_boxes, pred_masks, **columns):
        seen.extend(zip(pred_boxes, pred_masks, strict=True))
        return [float(number) for number in range(len(completions))]

    settings = {**SETTINGS, "max_completion_length": 100, "max_steps": 1, "temperature": 0.3}
    settings |= {"per_device_train_batch_size": 8, "shared_prefix": shared}
    rows = [row for row in load_refavs(world, "train") if not row["is_null"]][:4]
    trainer = Keeping(
        model=model,
        reward_funcs=["format_reward", "iou_reward", "bbox_format_reward", "bbox_iou_reward", look],
        args=AuroraGRPOConfig(output_dir=str(tmp_path), **settings),
        train_dataset=load_refavs(world, "train").select(range(len(rows))),
        processing_class=processor,
    )
    trainer.train()
    assert sum(boxes is not None for boxes, _ in seen) >= 2
    drawn, has_seg = trainer.rollout
    samples, logits = trainer.forward_drew
    assert has_seg.sum() >= 2
    own = has_seg[samples]
    assert torch.allclose(logits[own], drawn[samples][own], atol=1e-4)


def test_what_does_not_go_together(checkpoint, cot_rows, model, processor, tmp_path):
    for changed, message in (
        ({"seg_source": "queries"}, "`mask_source: both` reads no states behind an answer"),
        ({"spatial_prompt": True}, "say in two ways where in a frame the object is: leave one out"),
        ({"max_objects": 2}, "`mask_source: both` draws one object, and `max_objects` is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            build_sft(
                AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, mask_source="both", **changed
            )
    model.set_mask_source("box")
    with pytest.raises(ValueError, match="`mask_source: both` needs a projector, and this model writes boxes"):
        model.set_mask_source("both")
