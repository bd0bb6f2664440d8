"""Boxes and points draw what the authors' predictors draw from them."""

import numpy as np
import pytest
import torch
from published_sams import small_sam, small_sam2, small_sam2_video, write_sam3
from segment_anything import SamPredictor
from transformers import PretrainedConfig, Sam3TrackerModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from aurora_trl import AuroraModel
from aurora_trl.box_text import WrittenBox
from aurora_trl.models import AuroraConfig, ClipMemory
from aurora_trl.models.box_prompts import FrameView, draw_objects, object_prompt, stack_prompts
from aurora_trl.models.mask_decoders.base import MaskDecoderBase
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.models.mask_geometry import MaskGeometry

SIZE = (90, 120)  # of the frames: SAM pads them
BOX, POINT = (24.0, 18.0, 96.0, 66.0), (60.0, 45.0)
KINDS = {"box": (BOX, None), "point": (None, POINT), "both": (BOX, POINT)}


def geometry_of(decoder):
    config = decoder.config
    return MaskGeometry(
        config.image_size, config.image_size, config.pixel_mean, config.pixel_std, config.keep_aspect_ratio
    )


@torch.no_grad()
def draw(decoder, frames, *objects, view=None):
    """What is drawn in one clip `(T, 3, S, S)`, objects given as entries in pixels of the frame."""
    view = view or FrameView(SIZE, SIZE)
    embeddings = decoder.encode_clips(frames[None])
    prompts = [object_prompt(entries, view, len(frames)) for entries in objects]
    index = torch.zeros(len(prompts), dtype=torch.long)
    return draw_objects(decoder, geometry_of(decoder), embeddings, prompts, index, [view.frame_size] * len(prompts))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sam_draws_as_its_predictor(kind, tmp_path):
    """From pixels to logits: its resizing, its padding, its prompt encoder, its single mask."""
    sam = small_sam()
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    decoder = load_mask_decoder(tmp_path / "sam.pth")
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    box, point = KINDS[kind]
    _, _, low = predictor.predict(
        point_coords=None if point is None else np.array([point]),
        point_labels=None if point is None else np.array([1]),
        box=None if box is None else np.array(box),
        multimask_output=False,
        return_logits=True,
    )
    # The predictor resizes with PIL, which rounds to whole numbers: its own input is given to both.
    frames = sam.preprocess(predictor.transform.apply_image_torch(torch.zeros(1, 3, *SIZE)))
    assert frames.shape == (1, 3, 128, 128)
    resized = torch.from_numpy(predictor.transform.apply_image(picture)).permute(2, 0, 1)[None]
    masks = draw(decoder, sam.preprocess(resized), (WrittenBox(box, point),))
    torch.testing.assert_close(masks[0, 0], torch.from_numpy(low[0]), atol=1e-5, rtol=1e-5)
    # The same places as thousandths of the frame.
    relative = FrameView(SIZE).to_coordinates(WrittenBox(box, point))
    if kind != "point":
        assert relative == FrameView(SIZE, (1000, 1000)).to_coordinates(WrittenBox(box, point))
        assert relative.box == pytest.approx((200.0, 200.0, 800.0, 66 / 90 * 1000))
    view = FrameView(SIZE, (1000, 1000))
    again = draw(decoder, sam.preprocess(resized), (view.to_coordinates(WrittenBox(box, point)),), view=view)
    torch.testing.assert_close(again, masks, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sam2_draws_as_upstream(kind, tmp_path):
    sam = small_sam2()
    sam.mask_decoder.dynamic_multimask_via_stability = False
    sam.save_pretrained(tmp_path)
    decoder = load_mask_decoder(tmp_path)
    frames = torch.randn(1, 3, 64, 64)
    box, point = KINDS[kind]
    scale = torch.tensor([64 / 120, 64 / 90])  # both sides are stretched to the square
    expected = sam(
        pixel_values=frames,
        input_boxes=None if box is None else torch.tensor(box).view(1, 1, 2, 2).mul(scale).view(1, 1, 4),
        input_points=None if point is None else torch.tensor(point).mul(scale).view(1, 1, 1, 2),
        input_labels=None if point is None else torch.ones(1, 1, 1, dtype=torch.long),
        multimask_output=False,
    ).pred_masks[0, 0, 0]
    masks = draw(decoder, frames, (WrittenBox(box, point),))
    torch.testing.assert_close(masks[0, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sam3_draws_as_upstream(kind, tmp_path):
    """Its tracker, with the score that it gives the mask; upstream's levels are those of test_sam3.py."""
    write_sam3(tmp_path, multimask_output_in_sam=False)
    decoder = load_mask_decoder(tmp_path)
    sam = Sam3TrackerModel(decoder.config.sam_config).eval()
    sam.load_state_dict(decoder.sam.state_dict())
    sam.mask_decoder.dynamic_multimask_via_stability = False
    frames = torch.randn(1, 3, 112, 112)
    box, point = KINDS[kind]
    scale = torch.tensor([112 / 120, 112 / 90])
    given = {
        "input_boxes": None if box is None else torch.tensor(box).view(1, 1, 2, 2).mul(scale).view(1, 1, 4),
        "input_points": None if point is None else torch.tensor(point).mul(scale).view(1, 1, 1, 2),
        "input_labels": None if point is None else torch.ones(1, 1, 1, dtype=torch.long),
    }
    expected = sam(pixel_values=frames, **given, multimask_output=False)
    masks = draw(decoder, frames, (WrittenBox(box, point),))
    torch.testing.assert_close(masks[0, 0], expected.pred_masks[0, 0, 0], atol=1e-5, rtol=1e-5)
    prompts = sam.prompt_encoder(given["input_points"], given["input_labels"], given["input_boxes"], None)[0][:, 0]
    _, quality = decoder.decode_with_quality(decoder.encode(frames), prompts)
    torch.testing.assert_close(quality, expected.iou_scores[0, 0], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def video_sam():
    """As upstream runs it, without what the decoder here leaves out; see test_sam2_video.py."""
    sam = small_sam2_video(multimask_output_in_sam=False)
    sam.mask_decoder.dynamic_multimask_via_stability = False
    with torch.no_grad():
        sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(50.0)
    return sam


@torch.no_grad()
def track(sam, frames, numbers, box, point, reverse, monkeypatch):
    """Upstream's masks of these frames in turn, prompted in the first by a box and a point."""
    session = Sam2VideoInferenceSession(video=frames, video_height=64, video_width=64, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    scale = torch.tensor([64 / 120, 64 / 90])
    # Corners are points of other kinds, as upstream's processor gives them.
    places = torch.tensor([*box, *point]).view(3, 2).mul(scale).view(1, 1, 3, 2)
    given = {"point_coords": places, "point_labels": torch.tensor([2, 3, 1], dtype=torch.int32).view(1, 1, 3)}
    masks = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bfloat16", torch.float32)  # upstream rounds its memories
        for t in numbers:
            if t == numbers[0]:
                session.add_point_inputs(index, t, given)
                session.obj_with_new_inputs.append(1)
            masks.append(sam(session, frame_idx=t, reverse=reverse).pred_masks[0, 0].clone())
    return torch.stack(masks)


@torch.no_grad()
def test_a_frame_that_is_named_is_tracked_both_ways(video_sam, tmp_path, monkeypatch):
    """SAM 2 with memory, from a box in the third of five frames: upstream's tracking on, and back."""
    video_sam.save_pretrained(tmp_path)
    decoder = load_mask_decoder(tmp_path, memory=ClipMemory(3))
    frames = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    masks = draw(decoder, frames, (WrittenBox(BOX, POINT, frame=2),))[0]
    assert (masks > 0).flatten(1).any(dim=1).all(), "an empty mask is an absent object here, not upstream"
    after = track(video_sam, frames, [2, 3, 4], BOX, POINT, False, monkeypatch)
    before = track(video_sam, frames, [2, 1, 0], BOX, POINT, True, monkeypatch)
    torch.testing.assert_close(masks[2:], after, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masks[:3].flip(0)[1:], before[1:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sam3_with_memory_tracks_from_the_frame_that_is_named(tmp_path):
    """From the first frame as its tracker does, see test_sam3.py; the last one named, the clip backwards."""
    write_sam3(tmp_path, multimask_output_in_sam=False)
    decoder = load_mask_decoder(tmp_path, memory=ClipMemory(3, "first"))
    frames = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(2))
    masks = draw(decoder, frames, (WrittenBox(BOX, frame=0),))[0]
    scale = torch.tensor([112 / 120, 112 / 90]).repeat(2)
    prompts = decoder.sam.prompt_encoder(None, None, (torch.tensor(BOX) * scale).view(1, 1, 4), None)[0][:, 0]
    expected = decoder.decode_clips(decoder.encode_clips(frames[None]), prompts)[0]
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-5)
    back = draw(decoder, frames.flip(0), (WrittenBox(BOX, frame=3),))[0]
    torch.testing.assert_close(back.flip(0), masks, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_a_memory_a_frame_gets_the_nearest_prompt(tmp_path):
    small_sam2().save_pretrained(tmp_path)
    decoder = load_mask_decoder(tmp_path)
    frames = torch.randn(6, 3, 64, 64)
    other = (0.0, 0.0, 30.0, 30.0)
    two = (WrittenBox(BOX, frame=1), WrittenBox(other, frame=4))
    for_all, elsewhere = draw(decoder, frames, (WrittenBox(BOX),), (WrittenBox(other),))
    masks = draw(decoder, frames, two)[0]
    torch.testing.assert_close(masks[:3], for_all[:3])
    torch.testing.assert_close(masks[3:], elsewhere[3:])
    # Kinds side by side, each as alone, in the order in which they came.
    mixed = draw(decoder, frames, two, (WrittenBox(None, POINT),), (WrittenBox(BOX),))
    torch.testing.assert_close(mixed[0], masks)
    torch.testing.assert_close(mixed[2], for_all)
    torch.testing.assert_close(mixed[1], draw(decoder, frames, (WrittenBox(None, POINT),))[0])


def test_places_are_kept_in_the_frame_and_in_its_shares():
    view = FrameView((50, 100), (500, 200))
    written = (WrittenBox((-20.0, 100.0, 300.0, 250.0), None, "", 2), WrittenBox((0.0, 0.0, 50.0, 500.0), None, "", 0))
    prompt = object_prompt(written, view, 3)
    assert prompt.frames == (0, 2)
    assert prompt.points is None
    assert prompt.boxes[2].tolist() == pytest.approx([0.0, 0.2, 1.0, 0.5])
    assert prompt.boxes[0].tolist() == pytest.approx([0.0, 0.0, 0.25, 1.0])
    assert prompt.boxes[1].isnan().all()
    boxes, points = stack_prompts([prompt, object_prompt((WrittenBox(None, (100.0, 250.0)),), view, 3)], 3)
    assert boxes.shape == (2, 3, 4)
    assert points[1].tolist() == [[0.5, 0.5]] * 3
    assert points[0].isnan().all()
    assert boxes[1].isnan().all()
    assert stack_prompts(None, 3) == (None, None)


@torch.no_grad()
def test_half_precision_places_prompts_as_exactly(tmp_path):
    small_sam2().save_pretrained(tmp_path)
    whole, half = load_mask_decoder(tmp_path), load_mask_decoder(tmp_path, dtype=torch.bfloat16)
    box, point = torch.tensor([[3.0, 4.0, 40.0, 50.0]]), torch.tensor([[9.0, 30.0]])
    theirs, ours = whole.embed_prompts(box, point), half.embed_prompts(box, point)
    assert ours.dtype == torch.float32
    # The frequencies are rounded with the weights, the places are not.
    frequencies = whole.prompt_tables().frequencies
    frequencies.copy_(half.prompt_tables().frequencies.float())
    torch.testing.assert_close(whole.embed_prompts(box, point), ours, atol=2e-2, rtol=2e-2)
    assert theirs.shape == ours.shape == (1, 4, 32)


class ConfigWithoutPrompts(PretrainedConfig):
    model_type = "no_prompts"
    image_size, pixel_mean, pixel_std, keep_aspect_ratio = 32, [0.0] * 3, [1.0] * 3, True


class DecoderWithoutPrompts(MaskDecoderBase):
    """The least that a decoder of one's own has to be."""

    prompt_dim = 8

    def __init__(self, config):
        super().__init__(config)
        self.image_encoder = torch.nn.Conv2d(3, 8, 8, 8)

    def trainable_modules(self):
        return {"mask_encoder": self.image_encoder, "mask_decoder": torch.nn.ModuleList()}

    def encode(self, frames):
        return self.image_encoder(frames)

    def decode(self, embeddings, prompts):
        return torch.einsum("nchw,nc->nhw", embeddings, prompts.sum(1)).repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_what_can_not_draw_from_boxes_says_so(model):
    decoder = DecoderWithoutPrompts(ConfigWithoutPrompts())
    with pytest.raises(ValueError, match="DecoderWithoutPrompts has no prompt encoder"):
        decoder.embed_prompts(torch.zeros(1, 4), None)
    model.mask_decoder = decoder
    with pytest.raises(ValueError, match="needs a mask decoder with a prompt encoder, and DecoderWithoutPrompts"):
        model.set_mask_source("box")
    assert model.config.mask_source == "seg"
    config = AuroraConfig(model.config.policy_config, ConfigWithoutPrompts(), model.config.seg_token_id)
    config.mask_source = "box"
    with pytest.raises(ValueError, match="needs a mask decoder with a prompt encoder"):
        AuroraModel(config, policy=model.policy, mask_decoder=decoder)


def test_a_source_that_does_not_go(model):
    with pytest.raises(ValueError, match="`mask_source` must be one of seg, box, both, got 'text'"):
        AuroraConfig(model.config.policy_config, model.config.mask_decoder_config, 3, mask_source="text")
    with pytest.raises(ValueError, match="`mask_source: box` reads no state at"):
        AuroraConfig(model.config.policy_config, model.config.mask_decoder_config, 3, 2, mask_source="box")
    model.set_mask_source("box")
    assert model.seg_projector is None
    assert not any(name.startswith("seg_") for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="`mask_source: seg` needs a projector"):
        model.set_mask_source("seg")
    with pytest.raises(ValueError, match="has no projector"):
        model.project(torch.zeros(1, 64))
    with pytest.raises(ValueError, match="reads no state at"):
        model.add_seg_parts(existence_output=True)
    strong = AuroraConfig(model.config.policy_config, model.config.mask_decoder_config, 3, existence_output=True)
    model.config = strong
    with pytest.raises(ValueError, match="or start from a checkpoint without them"):
        model.set_mask_source("box")
