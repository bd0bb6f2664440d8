"""SAM 2's memory across frames: upstream's own tracking, frame by frame, and what the trainers need of it."""

import json

import pytest
import torch
from published_sams import small_sam, small_sam2, small_sam2_video
from safetensors.torch import load_file, save_file
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from aurora_trl.errors import DataError
from aurora_trl.models import AuroraConfig, ClipMemory, Sam2VideoMaskConfig
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.models.mask_decoders.sam2_video import _ClipMemories, _Memory

NUM_FRAMES = 6  # more than the small model's 3 memory frames and 4 pointers


@pytest.fixture(scope="module")
def sam():
    """As upstream runs it, without what the decoder here leaves out: the choice of masks, the verdict of the head."""
    sam = small_sam2_video(multimask_output_in_sam=False)
    sam.mask_decoder.dynamic_multimask_via_stability = False
    with torch.no_grad():
        sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(50.0)
    return sam


@pytest.fixture(scope="module")
def folder(sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2") / "sam2.1-hiera-small"
    sam.save_pretrained(folder)
    # The published configs are older than `rope_parameters`.
    content = json.loads((folder / "config.json").read_text())
    del content["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**content, "memory_attention_rope_theta": 10000}))
    return folder


@pytest.fixture(scope="module")
def clips():
    """Two clips `(2, T, 3, 64, 64)` and a point in each."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(2, NUM_FRAMES, 3, 64, 64, generator=generator)
    labels = torch.ones(1, 1, 1, dtype=torch.int32)
    points = [{"point_coords": torch.tensor([[[xy]]]), "point_labels": labels} for xy in ([20.0, 30.0], [50.0, 7.0])]
    return frames, points


def prompts_of(sam, points):
    """What upstream's prompt encoder makes of them `(2, 2, C)`."""
    encoded = [sam.prompt_encoder(point["point_coords"], point["point_labels"], None, None)[0] for point in points]
    return torch.cat([tokens[:, 0] for tokens in encoded])


def draw(decoder, frames, prompts):
    return decoder.decode_clips(decoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), prompts)


def track(sam, frames, point, prompt_frames, monkeypatch, scores=None):
    """Upstream's masks `(T, 16, 16)` of one object, frame by frame; `scores` lets its head say where there is one."""
    session = Sam2VideoInferenceSession(video=frames, video_height=64, video_width=64, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    masks = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bfloat16", torch.float32)  # upstream rounds its memories
        for t in range(len(frames)):
            if t == 0 or prompt_frames == "all":
                session.add_point_inputs(index, t, point)
                session.obj_with_new_inputs.append(1)
            if t > 0 and prompt_frames == "all":
                # As a click that corrects a frame which has been tracked: prompt and memory together.
                session.frames_tracked_per_obj[index][t] = {"reverse": False}
            if scores is not None:
                sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(scores[t])
            masks.append(sam(session, frame_idx=t).pred_masks[0, 0].clone())
    return torch.stack(masks)


@pytest.mark.parametrize("prompt_frames", ["all", "first"])
@torch.no_grad()
def test_a_batch_of_clips_equals_upstream_one_by_one(prompt_frames, sam, folder, clips, monkeypatch):
    frames, points = clips
    decoder = load_mask_decoder(folder, memory=ClipMemory(3, prompt_frames))
    masks = draw(decoder, frames, prompts_of(sam, points))
    assert masks.shape == (2, NUM_FRAMES, 16, 16)
    assert (masks > 0).flatten(2).any(-1).all(), "an empty mask is an absent object here, not upstream"
    for i in range(2):
        expected = track(sam, frames[i], points[i], prompt_frames, monkeypatch)
        torch.testing.assert_close(masks[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt_frames", ["all", "first"])
@torch.no_grad()
def test_an_empty_mask_is_remembered_as_upstream_remembers_an_absent_object(
    prompt_frames, clips, tmp_path, monkeypatch
):
    frames, points = clips
    sam = small_sam2_video(multimask_output_in_sam=False)
    sam.mask_decoder.dynamic_multimask_via_stability = False
    kernel = sam.mask_decoder.output_hypernetworks_mlps[0].proj_out
    # Everywhere a little below zero: an undecided mask, were it not empty.
    kernel.weight.zero_(), kernel.bias.fill_(-0.01), sam.mask_decoder.upscale_conv2.bias.fill_(5.0)
    sam.save_pretrained(tmp_path)
    decoder = load_mask_decoder(tmp_path, memory=ClipMemory(3, prompt_frames))
    masks = draw(decoder, frames[:1, :3], prompts_of(sam, points[:1]))[0]
    assert (masks < 0).all()
    # Absent, and in the end there again, where the logits can be compared.
    expected = track(sam, frames[0, :3], points[0], prompt_frames, monkeypatch, scores=[-50.0, -50.0, 50.0])
    assert (expected[:2] == -1024).all()
    # Close: what is remembered of an undecided mask would differ by 1e-5.
    torch.testing.assert_close(masks[2], expected[2], atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_frame_without_others_is_drawn_as_without_memory(folder, clips):
    frames, _ = clips
    prompts = torch.randn(2, 1, 128)
    remembering, plain = load_mask_decoder(folder, memory=ClipMemory(3)), load_mask_decoder(folder)
    expected = draw(plain, frames, prompts)
    for num_frames in (1, 3):
        masks = draw(remembering, frames[:, :num_frames], prompts)
        torch.testing.assert_close(masks[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)
    assert (masks[:, 1:] - expected[:, 1:3]).abs().amax((1, 2, 3)).min() > 0.1
    embeddings = remembering.encode(frames[:, 0])
    torch.testing.assert_close(remembering.decode(embeddings, prompts), expected[:, 0], atol=1e-5, rtol=1e-5)
    # And without: all frames of a batch at once are what they are one by one.
    by_frame = [plain.decode(plain.encode(frames[:, t]), prompts) for t in range(NUM_FRAMES)]
    torch.testing.assert_close(expected, torch.stack(by_frame, dim=1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_how_far_a_frame_looks_back(folder, clips):
    frames, _ = clips
    prompts = torch.randn(2, 1, 128)
    near, far = (draw(load_mask_decoder(folder, memory=ClipMemory(n)), frames, prompts) for n in (1, 3))
    torch.testing.assert_close(near[:, :2], far[:, :2])
    assert (near[:, 2:] - far[:, 2:]).abs().amax((0, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("prompt_frames", ["all", "first"])
def test_gradients_through_memory(prompt_frames, gradients, folder, clips):
    """The last frame's loss reaches the prompt as its own, through the memory, or not at all."""
    decoder = load_mask_decoder(folder, memory=ClipMemory(3, prompt_frames, gradients)).requires_grad_(False)
    prompts = torch.randn(2, 1, 128, requires_grad=True)
    draw(decoder, clips[0][:, :3], prompts)[:, -1].square().mean().backward()
    assert bool(prompts.grad.any()) == (gradients or prompt_frames == "all")


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_all_that_may_train_takes_part(num_frames, gradients, folder, clips):
    """In images, too: a parameter without a gradient would stop DDP."""
    decoder = load_mask_decoder(folder, memory=ClipMemory(3, "first", gradients))
    groups = decoder.trainable_modules()
    decoder.requires_grad_(False)
    for module in groups.values():
        module.requires_grad_(True)
    frames = clips[0][:, :num_frames]
    embeddings = decoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    drawn = decoder.decode_clips_with_quality(embeddings, torch.randn(2, 1, 128))
    sum(value.square().mean() for value in drawn).backward()
    for group, module in groups.items():
        assert [name for name, p in module.named_parameters() if p.grad is None] == [], group
    trained = {id(parameter) for parameter in groups["mask_decoder"].parameters()}
    assert {id(p) for p in decoder.sam.memory_attention.parameters()} <= trained
    assert ({id(p) for p in decoder.sam.memory_encoder.parameters()} <= trained) == gradients


@torch.no_grad()
def test_training_draws_as_use_does(folder, clips):
    """No dropout, and memories of the same masks."""
    for gradients in (False, True):
        decoder = load_mask_decoder(folder, memory=ClipMemory(3, "all", gradients))
        prompts = torch.randn(2, 1, 128)
        used = draw(decoder, clips[0], prompts)
        assert torch.equal(draw(decoder.train(), clips[0], prompts), used)


@torch.no_grad()
def test_bfloat16_and_another_size(folder, clips):
    exact = load_mask_decoder(folder, memory=ClipMemory(3), image_size=32)
    half = load_mask_decoder(folder, memory=ClipMemory(3), image_size=32, dtype=torch.bfloat16)
    assert half.sam.memory_attention.rotary_emb.inv_freq.dtype == torch.float32
    frames, prompts = clips[0][..., :32, :32], torch.randn(2, 1, 128)
    masks = draw(half, frames.bfloat16(), prompts.bfloat16())
    assert masks.dtype == torch.bfloat16
    expected = draw(exact, frames, prompts)
    assert expected.shape == (2, NUM_FRAMES, 8, 8)
    assert (masks.float() - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_every_published_weight_is_read(sam, folder, tmp_path):
    published = load_file(folder / "model.safetensors")
    decoder = load_mask_decoder(folder, memory=ClipMemory(3))
    read = decoder.sam.state_dict()
    assert set(read) >= set(published)
    assert all(torch.equal(read[key], value) for key, value in published.items())
    assert decoder.config.sam2_config.rope_parameters["rope_theta"] == 10000
    del published["memory_encoder.projection.bias"]
    save_file({**published, "memory_bank": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    message = "1 missing: memory_encoder.projection.bias; 1 unexpected: memory_bank"
    with pytest.raises(DataError, match=message):
        load_mask_decoder(tmp_path, memory=ClipMemory(3))


def test_sam2_before_2_1(clips, tmp_path):
    """It gives pointers no time, and absence no mark of its own."""
    sam = small_sam2_video(
        enable_temporal_pos_encoding_for_object_pointers=False, enable_occlusion_spatial_embedding=False
    )
    sam.save_pretrained(tmp_path)
    decoder = load_mask_decoder(tmp_path, memory=ClipMemory(3, "all", True))
    masks = draw(decoder, clips[0], torch.randn(2, 1, 128))
    assert masks.isfinite().all()
    assert all(list(module.parameters()) for module in decoder.trainable_modules()["mask_decoder"])


def test_the_config_comes_back(sam):
    config = Sam2VideoMaskConfig(sam.config, num_memory_frames=2, prompt_frames="first", memory_gradients=True)
    again = AuroraConfig.from_dict(AuroraConfig(None, config, seg_token_id=3).to_dict()).mask_decoder_config
    assert type(again) is Sam2VideoMaskConfig
    assert again.to_dict() == config.to_dict()


def test_a_memory_that_can_not_be_is_one_clear_line(sam, folder, tmp_path):
    small_sam2().save_pretrained(tmp_path / "images")
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    for path, message in (
        (tmp_path / "images", "images: a SAM 2 of images, whose file has no memory"),
        (tmp_path / "sam.pth", "sam.pth: segment-anything has no memory across frames"),
        (folder, "`num_memory_frames` is at most 3 with this SAM 2, got 7"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_mask_decoder(path, memory=ClipMemory())
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="`num_memory_frames` must be at least 1, got 0"):
        ClipMemory(0)
    with pytest.raises(ValueError, match="`prompt_frames` must be one of all, first, got 'last'"):
        Sam2VideoMaskConfig(sam.config, num_memory_frames=2, prompt_frames="last")
    with pytest.raises(ValueError, match=r"`memory_attention_rope_feat_sizes` \[64, 64\] is not the grid \[4, 4\]"):
        Sam2VideoMaskConfig({**sam.config.to_dict(), "memory_attention_rope_feat_sizes": [64, 64]}, 2)


@pytest.mark.parametrize("prompt_frames", ["all", "first"])
@torch.no_grad()
def test_a_clip_in_chunks_is_drawn_as_at_once(prompt_frames, folder):
    """The memory goes on from chunk to chunk, and holds what is looked back at alone."""
    decoder = load_mask_decoder(folder, memory=ClipMemory(3, prompt_frames)).eval()
    frames = torch.randn(1, 12, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    prompts = torch.randn(2, 1, decoder.prompt_dim, generator=torch.Generator().manual_seed(3))
    embeddings = decoder.encode_clips(frames)
    at_once = decoder.decode_clips(embeddings.expand(2, -1, -1, -1, -1), prompts)
    for sizes in ([12], [5, 5, 2], [1] * 12):
        in_chunks = torch.cat(list(decoder.decode_stream(iter(embeddings.split(sizes, dim=1)), prompts, 12)), dim=1)
        torch.testing.assert_close(in_chunks, at_once, atol=1e-5, rtol=1e-4)
    clip = _ClipMemories(12, 3, 4)
    for number in range(12):
        clip.add(_Memory(torch.tensor(number), torch.tensor(number)))
    assert sorted(clip.memories) == [0, 8, 9, 10, 11]
