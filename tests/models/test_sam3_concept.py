"""SAM 3's detector, to which [SEG] names a concept: transformers' own, image by image, and what training needs."""

import copy
import logging

import numpy as np
import pytest
import torch
from published_sams import small_sam, small_sam2, write_sam3
from transformers import Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

from aurora_trl.models import AuroraConfig, ClipMemory, ConceptPrompts, Sam3ConceptConfig, Sam3ConceptMaskDecoder
from aurora_trl.models.mask_decoders.base import ABSENT_LOGIT
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.models.mask_decoders.sam3_concept import ConceptInstances, follow_instances, union_of_instances

WIDTH = 128
NUM_QUERIES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3") / "sam3"
    write_sam3(folder)
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    """As transformers reads the folder."""
    return Sam3Model.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def given():
    """Frames `(3, 3, 112, 112)` and two features for each."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 112, 112, generator=generator), torch.randn(3, 2, WIDTH, generator=generator)


@torch.no_grad()
def expected_of(detector, frame, prompt):
    return detector(pixel_values=frame[None], text_embeds=BaseModelOutputWithPooling(pooler_output=prompt[None]))


@torch.no_grad()
def test_instances_equal_the_published_detector_image_by_image(folder, detector, given):
    decoder = load_mask_decoder(folder, concepts=ConceptPrompts(max_objects=NUM_QUERIES)).double()
    assert type(decoder) is Sam3ConceptMaskDecoder
    assert decoder.prompt_dim == WIDTH
    # A batch is summed up in another order than its images.
    detector, (frames, prompts) = copy.deepcopy(detector).double(), (value.double() for value in given)
    found = decoder.find(decoder.encode(frames), prompts)
    assert found.mask_logits.shape == (3, NUM_QUERIES, 32, 32)
    for i in range(3):
        expected = expected_of(detector, frames[i], prompts[i])
        scores, best = expected.pred_logits[0].sigmoid().sort(descending=True)
        torch.testing.assert_close(found.scores[i], scores.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.mask_logits[i], expected.pred_masks[0, best], atol=1e-5, rtol=1e-5)
        presence = expected.presence_logits[0, 0].sigmoid()
        torch.testing.assert_close(found.presence[i], presence.float(), atol=1e-5, rtol=1e-5)
    # Fewer are the best of them.
    fewer = load_mask_decoder(folder, concepts=ConceptPrompts(max_objects=2)).double()
    two = fewer.find(fewer.encode(frames), prompts)
    torch.testing.assert_close(two.mask_logits, found.mask_logits[:, :2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_objects", [1, NUM_QUERIES])
@torch.no_grad()
def test_the_mask_is_that_of_what_transformers_keeps(max_objects, folder, detector, given):
    """By its own post-processing, at a threshold that some instances pass and some do not."""
    frames, prompts = given
    outputs = [expected_of(detector, frame, prompt) for frame, prompt in zip(frames, prompts, strict=True)]
    scores = torch.cat([(o.pred_logits.sigmoid() * o.presence_logits.sigmoid())[0] for o in outputs])
    threshold = float(scores.sort().values[len(scores) // 2 - 1 :][:2].mean())
    concepts = ConceptPrompts(max_objects, score_threshold=threshold, presence_threshold=0.0)
    decoder = load_mask_decoder(folder, concepts=concepts)
    masks = decoder.decode(decoder.encode(frames), prompts) > 0
    for i in range(3):
        (kept,) = Sam3ImageProcessor().post_process_instance_segmentation(outputs[i], threshold=threshold)
        best = kept["scores"].argsort(descending=True)[:max_objects]
        assert torch.equal(masks[i], kept["masks"][best].bool().any(dim=0))


@torch.no_grad()
def test_what_is_not_there_is_empty(folder, given):
    frames, prompts = given
    thresholds = {"score_threshold": 0.0, "presence_threshold": 0.0}
    decoder = load_mask_decoder(folder, concepts=ConceptPrompts(3, **thresholds))
    embeddings = decoder.encode(frames)
    found = decoder.find(embeddings, prompts)
    assert (decoder.decode(embeddings, prompts) > 0).flatten(1).any(dim=1).all()
    decoder.config.presence_threshold = float(found.presence.sort().values[:2].mean())
    empty = (decoder.decode(embeddings, prompts) == ABSENT_LOGIT).flatten(1).all(dim=1)
    assert empty.tolist() == (found.presence == found.presence.min()).tolist()


def test_the_gradient_of_what_is_missed_and_of_what_is_too_much():
    """A missed object raises the score of the instance that covers it, and of no other; one too many lowers it."""
    logits = torch.full((1, 2, 2, 2), -6.0)
    logits[0, 0, 0], logits[0, 1, 1] = 6.0, 6.0
    for score, pixels, sign in ((0.2, logits[0, 0] > 0, -1), (0.9, torch.zeros(2, 2, dtype=torch.bool), 1)):
        scores = torch.full((1, 2), score, requires_grad=True)
        presence = torch.ones(1, requires_grad=True)
        drawn = scores.detach() > 0.5
        mask = union_of_instances(ConceptInstances(logits, scores, presence, drawn))
        expected = logits.amax(dim=1) if drawn.any() else torch.full((1, 2, 2), ABSENT_LOGIT)
        torch.testing.assert_close(mask, expected, atol=1e-5, rtol=0)
        torch.nn.functional.binary_cross_entropy_with_logits(mask[0], pixels.float()).backward()
        assert scores.grad[0, 0] * sign > 0.1
        assert presence.grad[0] * sign > 0
        if sign < 0:
            assert scores.grad[0, 1].abs() < 0.01
        else:
            torch.testing.assert_close(scores.grad[0, 1], scores.grad[0, 0])


def test_training_draws_as_use_does(folder, given):
    frames, prompts = given
    decoder = load_mask_decoder(folder, concepts=ConceptPrompts(3, 0.1, 0.1))
    with torch.no_grad():
        embeddings = decoder.encode(frames)
        used = decoder.decode(embeddings, prompts)
    torch.testing.assert_close(decoder.train().decode(embeddings, prompts), used, atol=1e-5, rtol=1e-5)


def test_all_that_may_train_takes_part(folder, given):
    """A parameter of these groups without a gradient would stop DDP, also where nothing is found."""
    frames, prompts = given
    decoder = load_mask_decoder(folder, concepts=ConceptPrompts(3, 1.0, 1.0))
    groups = decoder.trainable_modules()
    decoder.requires_grad_(False)
    for module in groups.values():
        module.requires_grad_(True)
    masks = decoder.decode(decoder.encode(frames), prompts)
    assert torch.equal(masks, torch.full_like(masks, ABSENT_LOGIT))
    masks.square().mean().backward()
    for group, module in groups.items():
        assert [name for name, p in module.named_parameters() if p.grad is None] == [], group
    assert all(p.grad is None for p in decoder.sam.detr_decoder.box_head.parameters())


@torch.no_grad()
def test_instances_are_separate_objects_of_a_clip(folder, given):
    decoder = load_mask_decoder(folder, concepts=ConceptPrompts(3, 0.05, 0.0))
    frames, prompts = given[0][None].repeat(2, 1, 1, 1, 1), given[1][:2]
    embeddings = decoder.encode_clips(frames)
    objects, there = decoder.decode_objects(embeddings, prompts)
    assert objects.shape == (2, 3, 3, 32, 32)
    assert there.shape == (2, 3)
    torch.testing.assert_close(objects.amax(dim=1), decoder.decode_clips(embeddings, prompts), atol=1e-4, rtol=1e-4)
    assert (objects[~there] == ABSENT_LOGIT).all()


def test_objects_keep_their_place():
    """Two that move and change ranks, one that is hidden for a frame, one that comes late."""
    masks = np.zeros((4, 3, 1, 12), bool)

    def show(frame, instance, begin):
        masks[frame, instance, 0, begin : begin + 3] = True

    show(0, 0, 0), show(0, 1, 5)
    show(1, 0, 6), show(1, 1, 1)  # the ranks change
    show(2, 0, 7)  # one is hidden
    show(3, 0, 9), show(3, 1, 7), show(3, 2, 2)  # it is back, and a third one is there
    drawn = masks.any(axis=(2, 3))
    places = follow_instances(masks, drawn)
    assert places[:2].tolist() == [[0, 1, 2], [1, 0, 2]]
    assert places[2, 1] == 0
    assert places[3, 0] == 2
    assert sorted(places[3].tolist()) == [0, 1, 2]
    assert (np.sort(places, axis=1) == np.arange(3)).all()


@torch.no_grad()
def test_bfloat16_and_another_size(folder, given):
    concepts = ConceptPrompts(2, 0.0, 0.0)
    exact, half = (
        load_mask_decoder(folder, concepts=concepts, image_size=70, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    frames, prompts = given[0][..., :70, :70], given[1]
    masks = half.decode(half.encode(frames.bfloat16()), prompts.bfloat16())
    expected = exact.decode(exact.encode(frames), prompts)
    assert masks.dtype == torch.bfloat16
    assert expected.shape == (3, 20, 20)
    assert ((masks > 0) == (expected > 0)).float().mean() > 0.9


def test_the_config_comes_back(folder):
    config = load_mask_decoder(folder, concepts=ConceptPrompts(4, 0.3, 0.4)).config
    again = AuroraConfig.from_dict(AuroraConfig(None, config, seg_token_id=3).to_dict()).mask_decoder_config
    assert type(again) is Sam3ConceptConfig
    assert again.to_dict() == config.to_dict()
    assert (again.max_objects, again.score_threshold, again.presence_threshold) == (4, 0.3, 0.4)


def test_one_line_says_what_is_not_used(folder, caplog):
    with caplog.at_level(logging.WARNING):
        load_mask_decoder(folder, concepts=ConceptPrompts())
    (line,) = [record.getMessage() for record in caplog.records if "detector draws" in record.getMessage()]
    unused = "the text encoder, the boxes' encoder, the tracker, the memory and the image encoder's coarsest level ("
    assert f"sam3: its detector draws what [SEG] names; not used: {unused}" in line


def test_concepts_that_can_not_be_are_one_clear_line(folder, tmp_path):
    small_sam2().save_pretrained(tmp_path / "sam2")
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    for path, settings, message in (
        (tmp_path / "sam2", {}, "sam2: SAM 2 finds no concepts; name a folder of SAM 3"),
        (tmp_path / "sam.pth", {}, "sam.pth: segment-anything finds no concepts"),
        (folder, {"memory": ClipMemory(3)}, "SAM 3's detector has no memory across frames"),
        (
            folder,
            {"concepts": ConceptPrompts(7)},
            "`max_objects` of concept prompts is at most 6 with this SAM 3, got 7",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_mask_decoder(path, **{"concepts": ConceptPrompts(), **settings})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        ConceptPrompts(0)
    with pytest.raises(ValueError, match="`presence_threshold` must be between 0 and 1, got 2"):
        ConceptPrompts(presence_threshold=2)
