"""SAM 3 as a mask decoder: transformers' own tracker out of the published folder, frame by frame and with memory."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from published_sams import write_sam3
from safetensors.torch import load_file, save_file
from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoModel
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession

from aurora_trl.errors import DataError
from aurora_trl.models import AuroraConfig, ClipMemory, Sam3MaskConfig, Sam3MaskDecoder, Sam3VideoMaskConfig
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.models.mask_geometry import MaskGeometry

NUM_FRAMES = 6  # more than the small model's 3 memory frames and 4 pointers
WIDTH = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3") / "sam3"
    write_sam3(folder, multimask_output_in_sam=False)
    return folder


@pytest.fixture(scope="module")
def tracker(folder):
    """As transformers reads the folder, without what the decoder here leaves out: the choice of masks, the verdict."""
    tracker = Sam3TrackerVideoModel.from_pretrained(folder).eval()
    tracker.mask_decoder.dynamic_multimask_via_stability = False
    with torch.no_grad():
        tracker.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(50.0)
    return tracker


@pytest.fixture(scope="module")
def clips():
    """Two clips `(2, T, 3, 112, 112)` and a point in each."""
    frames = torch.randn(2, NUM_FRAMES, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    return frames, torch.tensor([[[[35.0, 52.0]]], [[[88.0, 12.0]]]])


def prompts_of(tracker, points):
    """What upstream's prompt encoder makes of them `(2, 2, C)`."""
    labels = torch.ones(points.shape[:3], dtype=torch.int32)
    return tracker.prompt_encoder(points, labels, None, None)[0][:, 0]


def draw(decoder, frames, prompts):
    return decoder.decode_clips(decoder.encode_clips(frames), prompts)


def track(tracker, frames, point, prompt_frames, monkeypatch):
    """Upstream's masks `(T, 32, 32)` of one object, frame by frame."""
    session = Sam3TrackerVideoInferenceSession(video=frames, video_height=112, video_width=112, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    inputs = {"point_coords": point[None], "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
    masks = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bfloat16", torch.float32)  # upstream rounds its memories
        for t in range(len(frames)):
            if t == 0 or prompt_frames == "all":
                session.add_point_inputs(index, t, inputs)
                session.obj_with_new_inputs.append(1)
            if t > 0 and prompt_frames == "all":
                # As a click that corrects a frame which has been tracked: prompt and memory together.
                session.frames_tracked_per_obj[index][t] = {"reverse": False}
            masks.append(tracker(session, frame_idx=t).pred_masks[0, 0].clone())
    return torch.stack(masks)


@torch.no_grad()
def test_images_equal_the_published_tracker_one_by_one(folder, tracker, clips, monkeypatch):
    frames, points = clips[0][:, :2].flatten(0, 1), clips[1].repeat_interleave(2, dim=0)
    decoder = load_mask_decoder(folder)
    assert type(decoder) is Sam3MaskDecoder
    embeddings = decoder.encode(frames)
    assert embeddings.shape == (4, 4 * WIDTH, 8, 8)
    masks = decoder.decode(embeddings, prompts_of(tracker, points))
    assert masks.shape == (4, 32, 32)
    for i in range(4):
        expected = track(tracker, frames[i : i + 1], points[i], "all", monkeypatch)[0]
        torch.testing.assert_close(masks[i], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_images_equal_transformers_model_of_images(folder, tracker, clips):
    """Where its config has the three levels that it reads; with four it loses the mark of a frame without memory."""
    decoder = load_mask_decoder(folder)
    images = Sam3TrackerModel(decoder.config.sam_config).eval()
    images.load_state_dict(decoder.sam.state_dict())
    images.mask_decoder.dynamic_multimask_via_stability = False
    frames, points = clips[0][:, 0], clips[1]
    masks = decoder.decode(decoder.encode(frames), prompts_of(tracker, points))
    expected = images(frames, input_points=points, multimask_output=False).pred_masks[:, 0, 0]
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-5)
    as_published = Sam3TrackerModel.from_pretrained(folder).eval()
    assert type(as_published.config) is Sam3TrackerConfig
    unmarked = as_published.get_image_embeddings(frames)[-1] + as_published.no_memory_embedding.view(1, -1, 1, 1)
    torch.testing.assert_close(unmarked, images.get_image_embeddings(frames)[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt_frames", ["all", "first"])
@torch.no_grad()
def test_a_batch_of_clips_equals_upstreams_tracking_one_by_one(prompt_frames, folder, tracker, clips, monkeypatch):
    frames, points = clips
    decoder = load_mask_decoder(folder, memory=ClipMemory(3, prompt_frames))
    masks = draw(decoder, frames, prompts_of(tracker, points))
    assert (masks > 0).flatten(2).any(-1).all(), "an empty mask is an absent object here, not upstream"
    for i in range(2):
        expected = track(tracker, frames[i], points[i], prompt_frames, monkeypatch)
        torch.testing.assert_close(masks[i], expected, atol=1e-5, rtol=1e-5)


def test_frames_are_as_sam3s_image_processor_makes_them():
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 100, 3), dtype=np.uint8)
    config = Sam3MaskConfig()
    assert config.image_size == 1008
    geometry = MaskGeometry(112, 112, config.pixel_mean, config.pixel_std, config.keep_aspect_ratio)
    processor = Sam3ImageProcessor(size={"height": 112, "width": 112})
    expected = processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
    # Theirs are rounded to whole values of a pixel after each of two passes.
    off = (geometry.process_frames(frames) - expected).abs() * 127.5
    assert off.max() < 1.01
    assert off.mean() < 0.32


@pytest.mark.parametrize("memory", [None, ClipMemory(3, "all", True)])
def test_all_that_may_train_takes_part(memory, folder, clips):
    """A parameter of these groups without a gradient would stop DDP."""
    decoder = load_mask_decoder(folder, memory=memory)
    groups = decoder.trainable_modules()
    groups.pop("mask_quality")  # only where a loss is about it, see test_choosing.py
    decoder.requires_grad_(False)
    for module in groups.values():
        module.requires_grad_(True)
    draw(decoder, clips[0][:1, :2], torch.randn(1, 1, WIDTH)).square().mean().backward()
    for group, module in groups.items():
        assert [name for name, p in module.named_parameters() if p.grad is None] == [], group
    assert {id(p) for p in decoder.image_encoder.parameters()} <= {id(p) for p in groups["mask_encoder"].parameters()}


@pytest.mark.parametrize("memory", [None, ClipMemory(3)])
@torch.no_grad()
def test_bfloat16_and_another_size(memory, folder, clips):
    exact, half = (
        load_mask_decoder(folder, memory=memory, image_size=70, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.config.image_size == 70
    cast = load_mask_decoder(folder, memory=memory, image_size=70).to(torch.bfloat16)  # as DeepSpeed does
    buffers = dict(cast.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in half.named_buffers())
    assert next(v for name, v in buffers.items() if name.endswith("1.position_ids")).dtype == torch.float32
    frames, prompts = clips[0][:, :3, :, :70, :70], torch.randn(2, 1, WIDTH)
    masks, expected = draw(half, frames, prompts.bfloat16()), draw(exact, frames, prompts)
    assert masks.dtype == torch.bfloat16
    assert expected.shape == (2, 3, 20, 20)
    assert (masks.float() - expected).abs().mean() < 0.1 * expected.abs().mean()
    # Windows, positions and their scale as transformers has them for this size.
    config = exact.sam.config
    image_size = getattr(config, "image_size", config.vision_config.image_size)
    assert (image_size, config.vision_config.backbone_feature_sizes) == (70, [[20, 20], [10, 10], [5, 5]])


def test_one_line_says_what_is_not_used(folder, caplog):
    published = load_file(folder / "model.safetensors")
    for memory, names in (
        (
            None,
            "the text encoder, the boxes' encoder, the detector, the memory and the image encoder's coarsest level",
        ),
        (ClipMemory(3), "the text encoder, the boxes' encoder, the detector and the image encoder's coarsest level"),
    ):
        with caplog.at_level(logging.WARNING):
            decoder = load_mask_decoder(folder, memory=memory)
        (line,) = [record.getMessage() for record in caplog.records if "tracker draws" in record.getMessage()]
        caplog.clear()
        assert f"not used: {names} (" in line
        read = sum(value.numel() for value in decoder.sam.state_dict().values())
        table = decoder.sam.shared_image_embedding.positional_embedding.numel()
        unused = int(line.rsplit("(", 1)[1].split()[0].replace(",", ""))
        assert unused + read in {sum(value.numel() for value in published.values()) + n * table for n in (0, 1)}


def test_configs_come_back(folder):
    video = load_mask_decoder(folder, memory=ClipMemory(2, "first", True)).config
    images = Sam3MaskConfig(load_mask_decoder(folder).config.sam_config, keep_aspect_ratio=True)
    assert type(video) is Sam3VideoMaskConfig
    for config in (video, images, Sam3MaskConfig(), Sam3VideoMaskConfig()):
        again = AuroraConfig.from_dict(AuroraConfig(None, config, seg_token_id=3).to_dict()).mask_decoder_config
        assert type(again) is type(config)
        assert again.to_dict() == config.to_dict()


def test_what_is_not_a_whole_sam3_is_one_clear_line(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())

    def written(name, content, weights):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        save_file(weights, tmp_path / name / "model.safetensors")
        return tmp_path / name

    lacking = {name: value for name, value in weights.items() if name != "tracker_neck.fpn_layers.0.proj1.bias"}
    for path, memory, message in (
        (
            written("lacking", content, {**lacking, "tracker_model.bank": torch.zeros(1)}),
            None,
            "lacking: .* 1 missing: vision_encoder.neck.fpn_layers.0.proj1.bias; 1 unexpected: bank$",
        ),
        (
            written("detector", {**content["detector_config"]}, weights),
            None,
            "detector: a mask decoder is SAM 2 .*, SAM 3 \\(sam3_video\\) .* this is 'sam3'",
        ),
        (
            written("half", {"model_type": "sam3_video"}, weights),
            None,
            "half: its config has no `tracker_config`; this is not a whole SAM 3",
        ),
        (folder, ClipMemory(), "`num_memory_frames` is at most 3 with this SAM 3, got 7"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_mask_decoder(path, memory=memory)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="SAM 3's image size must be a multiple of 14, got 100"):
        load_mask_decoder(folder, image_size=100)
    levels = {**content["tracker_config"]["vision_config"], "scale_factors": [2.0, 1.0, 0.5]}
    with pytest.raises(ValueError, match="SAM 3's `scale_factors` are 4, 2, 1"):
        Sam3MaskConfig({"vision_config": levels})
    assert issubclass(DataError, ValueError)
