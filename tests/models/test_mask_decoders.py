"""Mask decoders: the same masks as their authors' code, and their published files."""

import copy

import pytest
import torch
import torch.nn.functional as F
from published_sams import small_sam, small_sam2, small_sam2_video
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling.image_encoder import Attention
from transformers import Sam2VideoConfig

from aurora_trl.errors import DataError
from aurora_trl.models import AuroraConfig, Sam2MaskConfig, SamConfig
from aurora_trl.models.mask_decoders import ClipMemory, build_mask_decoder
from aurora_trl.models.mask_decoders.published import load_mask_decoder, sam_config
from aurora_trl.models.mask_decoders.sam import FusedAttention


@pytest.fixture(scope="module")
def sam():
    return small_sam()


@pytest.fixture(scope="module")
def sam_file(sam, tmp_path_factory):
    file = tmp_path_factory.mktemp("sam") / "sam_vit_s.pth"
    torch.save(sam.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def sam2():
    return small_sam2()


@pytest.fixture(scope="module")
def sam2_folder(sam2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2") / "sam2.1-hiera-small"
    sam2.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("height", "width"), [(14, 14), (5, 9)])
def test_sams_attention_is_upstreams(height, width):
    """With relative positions that matter, and learnt from alike."""
    theirs = Attention(48, num_heads=3, use_rel_pos=True, input_size=(height, width)).double()
    for name in ("rel_pos_h", "rel_pos_w"):
        torch.nn.init.normal_(getattr(theirs, name))
    ours = copy.deepcopy(theirs)
    ours.__class__ = FusedAttention
    tokens, upstream = torch.randn(4, height, width, 48).double(), torch.randn(4, height, width, 48).double()
    results = []
    for attention in (theirs, ours):
        given = tokens.clone().requires_grad_()
        seen = attention(given)
        seen.backward(upstream)
        results.append([seen, given.grad, *(parameter.grad for parameter in attention.parameters())])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ["sam", "sam2", "sam2_video"])
@torch.no_grad()
def test_a_part_at_a_time_draws_the_same(name, sam_file, sam2_folder, tmp_path):
    """Whatever the number of clips, no forward takes more frames than it may."""
    if name == "sam2_video":
        small_sam2_video().save_pretrained(tmp_path)
    decoder = load_mask_decoder({"sam": sam_file, "sam2": sam2_folder}.get(name, tmp_path))
    side = decoder.config.image_size
    frames, prompts = torch.randn(4, 3, 3, side, side), torch.randn(6, 1, decoder.prompt_dim)
    clip_index = torch.tensor([0, 3, 3, 1, 2, 0])
    embeddings = decoder.encode_clips(frames)
    masks = decoder.decode_rows(embeddings, prompts, clip_index)
    sizes = []
    decoder.image_encoder.register_forward_pre_hook(lambda _module, given: sizes.append(len(given[0])))
    for at_once in (1, 2, 5, 7):
        decoder.frames_at_once = (at_once + 0.5) * side**2 / 1024**2
        again = decoder.encode_clips(frames)
        torch.testing.assert_close(again, embeddings, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoder.decode_rows(again, prompts, clip_index), masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoder.decode_rows(again[clip_index], prompts, None), masks, atol=1e-4, rtol=1e-4)
        assert max(sizes) == at_once
        assert sum(sizes) == 12
        sizes.clear()


@pytest.mark.parametrize("num_prompts", [1, 3])
@torch.no_grad()
def test_sam_equals_its_own_forward_image_by_image(num_prompts, sam, sam_file):
    decoder = load_mask_decoder(sam_file)
    frames, prompts = torch.randn(4, 3, 128, 128), torch.randn(4, num_prompts, 32)
    embeddings = decoder.encode(frames)
    masks = decoder.decode(embeddings, prompts)
    assert masks.shape == (4, 32, 32)
    for i in range(4):
        image = sam.image_encoder(frames[i : i + 1])
        torch.testing.assert_close(embeddings[i : i + 1], image, atol=1e-5, rtol=1e-5)
        _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        expected, _ = sam.mask_decoder(
            image_embeddings=image,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[i : i + 1],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        torch.testing.assert_close(masks[i], expected[0, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sam2_equals_its_own_forward_image_by_image(sam2, sam2_folder):
    decoder = load_mask_decoder(sam2_folder)
    frames, prompts = torch.randn(3, 3, 64, 64), torch.randn(3, 2, 32)
    embeddings = decoder.encode(frames)
    assert embeddings.shape == (3, 4 * 32, 4, 4)
    masks = decoder.decode(embeddings, prompts)
    assert masks.shape == (3, 16, 16)
    for i in range(3):
        finest, middle, coarse = sam2.get_image_embeddings(frames[i : i + 1])
        sam2.mask_decoder.dynamic_multimask_via_stability = False
        expected = sam2.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=sam2.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=prompts[i : i + 1, None],
            dense_prompt_embeddings=sam2.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4),
            multimask_output=False,
            high_resolution_features=[finest, middle],
        )[0]
        torch.testing.assert_close(masks[i], expected[0, 0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sam", "sam2", "sam2_video"])
@torch.no_grad()
def test_the_score_of_a_mask_is_published(name, sam, sam_file, sam2, sam2_folder, tmp_path):
    """Image by image what the authors' decoder predicts for its single mask, and the masks are those without it."""
    if name == "sam2_video":
        sam2 = small_sam2_video()
        sam2.save_pretrained(tmp_path)
        decoder, width = load_mask_decoder(tmp_path, memory=ClipMemory(2)), 128
    else:
        decoder, width = load_mask_decoder({"sam": sam_file, "sam2": sam2_folder}[name]), 32
    side = decoder.config.image_size
    frames, prompts = torch.randn(2, 3, 3, side, side), torch.randn(3, 1, width)
    embeddings, clip_index = decoder.encode_clips(frames), torch.tensor([1, 0, 1])
    masks, quality = decoder.decode_rows_with_quality(embeddings, prompts, clip_index)
    assert torch.equal(masks, decoder.decode_rows(embeddings, prompts, clip_index))
    assert quality.shape == (3, 3)
    decoder.frames_at_once = 1.5 * 3 * side**2 / 1024**2  # a clip at a time
    again = decoder.decode_rows_with_quality(embeddings, prompts, clip_index)[1]
    torch.testing.assert_close(again, quality, atol=1e-5, rtol=1e-5)
    for row, clip in enumerate(clip_index.tolist()):
        for frame in range(1 if name == "sam2_video" else 3):  # later ones look back
            image = frames[clip, frame][None]
            if name == "sam":
                _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
                expected = sam.mask_decoder(
                    image_embeddings=sam.image_encoder(image),
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=prompts[row][None],
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )[1][0, 0]
            else:
                sam2.mask_decoder.dynamic_multimask_via_stability = False
                finest, middle, coarse = sam2_features(sam2, image)
                dense = sam2.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
                expected = sam2.mask_decoder(
                    image_embeddings=coarse,
                    image_positional_embeddings=sam2.get_image_wide_positional_embeddings(),
                    sparse_prompt_embeddings=prompts[row][None, None],
                    dense_prompt_embeddings=dense.expand(1, -1, *coarse.shape[-2:]),
                    multimask_output=False,
                    high_resolution_features=[finest, middle],
                )[1].squeeze()
            torch.testing.assert_close(quality[row, frame], expected, atol=1e-5, rtol=1e-5)


def sam2_features(sam2, image):
    """As `Sam2Model.get_image_embeddings`, which the video model does not have."""
    maps = sam2.vision_encoder(image).fpn_hidden_states
    return (
        sam2.mask_decoder.conv_s0(maps[0]),
        sam2.mask_decoder.conv_s1(maps[1]),
        maps[2] + sam2.no_memory_embedding.reshape(1, -1, 1, 1),
    )


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "blocks"),
    [
        ("vit_b", 768, 12, 12, [2, 5, 8, 11]),
        ("vit_l", 1024, 24, 16, [5, 11, 17, 23]),
        ("vit_h", 1280, 32, 16, [7, 15, 23, 31]),
    ],
)
def test_sizes_are_told_from_the_weights(name, width, depth, heads, blocks):
    with torch.device("meta"):
        weights = sam_model_registry[name]().state_dict()
    config = sam_config(weights, name)
    assert (config.image_size, config.patch_size, config.encoder_window_size) == (1024, 16, 14)
    assert (config.encoder_embed_dim, config.encoder_depth, config.encoder_num_heads) == (width, depth, heads)
    assert config.encoder_global_attn_indexes == blocks
    assert (config.prompt_embed_dim, config.decoder_depth, config.decoder_mlp_dim) == (256, 2, 2048)
    with torch.device("meta"):
        ours = build_mask_decoder(config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in weights.items()}


@torch.no_grad()
def test_sam_at_a_smaller_size(sam, sam_file):
    """Positions and global distances are resized, windows are not, and nothing else is touched."""
    decoder = load_mask_decoder(sam_file, image_size=64)
    ours, theirs = decoder.state_dict(), sam.state_dict()
    changed = {key for key in ours if ours[key].shape != theirs[key].shape}
    tables = {f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (1, 3) for axis in "hw"}
    assert changed == {"image_encoder.pos_embed", *tables}
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key not in changed)
    grid = theirs["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (4, 4), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(ours["image_encoder.pos_embed"], expected)
    for key in tables:
        # Along distances alone: each column is a signal of its own.
        column = F.interpolate(theirs[key][None, None, :, 2:3].expand(-1, -1, -1, 4), (7, 4), mode="bicubic")
        torch.testing.assert_close(ours[key][:, 2], column[0, 0, :, 0])
    assert decoder.config.image_size == 64
    masks = decoder.decode(decoder.encode(torch.randn(2, 3, 64, 64)), torch.randn(2, 1, 32))
    assert masks.shape == (2, 16, 16)


@torch.no_grad()
def test_sam2_at_a_smaller_size(sam2_folder):
    decoder = load_mask_decoder(sam2_folder, image_size=32)
    assert decoder.config.image_size == 32
    masks = decoder.decode(decoder.encode(torch.randn(2, 3, 32, 32)), torch.randn(2, 1, 32))
    assert masks.shape == (2, 8, 8)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
@torch.no_grad()
def test_bfloat16(kind, sam_file, sam2_folder):
    path, size = (sam_file, 128) if kind == "sam" else (sam2_folder, 64)
    exact, half = load_mask_decoder(path), load_mask_decoder(path, dtype=torch.bfloat16)
    frames, prompts = torch.randn(2, 3, size, size), torch.randn(2, 1, 32)
    masks = half.decode(half.encode(frames.bfloat16()), prompts.bfloat16())
    assert masks.dtype == torch.bfloat16
    expected = exact.decode(exact.encode(frames), prompts)
    assert (masks.float() - expected).abs().mean() < 0.05 * expected.abs().mean() + 0.02


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_all_that_may_train_takes_part(kind, sam_file, sam2_folder):
    """A parameter of these groups without a gradient would stop DDP."""
    decoder = load_mask_decoder(sam_file if kind == "sam" else sam2_folder)
    groups = decoder.trainable_modules()
    decoder.requires_grad_(False)
    for module in groups.values():
        module.requires_grad_(True)
    size = decoder.config.image_size
    drawn = decoder.decode_with_quality(decoder.encode(torch.randn(1, 3, size, size)), torch.randn(1, 1, 32))
    sum(value.square().mean() for value in drawn).backward()
    for group, module in groups.items():
        assert [name for name, p in module.named_parameters() if p.grad is None] == [], group
    encoder = {id(p) for p in groups["mask_encoder"].parameters()}
    assert {id(p) for p in decoder.image_encoder.parameters()} <= encoder


def test_an_old_file_is_read(sam, tmp_path):
    """In torch's format before 1.6."""
    torch.save(sam.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    decoder = load_mask_decoder(tmp_path / "old.pth")
    assert all(torch.equal(value, sam.state_dict()[key]) for key, value in decoder.state_dict().items())


def test_a_file_that_a_training_saved_is_read(sam, tmp_path):
    """Beside its optimizer, and with the names of a model that several processes trained."""
    weights = {f"module.{key}": value for key, value in sam.state_dict().items()}
    torch.save({"model": weights, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "medsam.pth")
    decoder = load_mask_decoder(tmp_path / "medsam.pth")
    assert all(torch.equal(value, sam.state_dict()[key]) for key, value in decoder.state_dict().items())


def test_configs_come_back(sam2):
    for config in (SamConfig(image_size=224), Sam2MaskConfig(sam2.config, keep_aspect_ratio=True)):
        again = AuroraConfig.from_dict(AuroraConfig(None, config, seg_token_id=3).to_dict()).mask_decoder_config
        assert type(again) is type(config)
        assert again.to_dict() == config.to_dict()


def test_an_unknown_config_is_an_error():
    with pytest.raises(ValueError, match="no mask decoder is registered for Sam2VideoConfig"):
        build_mask_decoder(Sam2VideoConfig())


def test_a_video_checkpoint_is_read_without_its_memory(tmp_path):
    video = small_sam2_video()
    video.save_pretrained(tmp_path)
    weights = video.state_dict()
    decoder = load_mask_decoder(tmp_path)
    assert not any("memory_attention" in key for key in decoder.state_dict())
    assert all(torch.equal(value, weights[key]) for key, value in decoder.sam.state_dict().items())


def test_what_is_not_a_sam_is_one_clear_line(sam, sam_file, sam2_folder, tmp_path):
    other, half, lacking = tmp_path / "other.pth", tmp_path / "half.pth", tmp_path / "lacking.pth"
    torch.save({"backbone.weight": torch.zeros(2)}, other)
    half.write_bytes(sam_file.read_bytes()[:20000])
    weights = dict(sam.state_dict())
    del weights["mask_decoder.iou_token.weight"]
    torch.save({**weights, "mask_decoder.hf_token.weight": torch.zeros(1)}, lacking)
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_text((sam2_folder / "config.json").read_text())
    (cut / "model.safetensors").write_bytes((sam2_folder / "model.safetensors").read_bytes()[:5000])
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(2)}}, tmp_path / "sam2.1_hiera_large.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "sam_vit_b.pth").touch()
    for path, message in (
        (tmp_path / "sam2.1_hiera_large.pt", "SAM 2 and 3 are read in transformers' layout, such as facebook/sam2.1-"),
        (tmp_path / "folder", "config.json: no such file; .* sam_vit_b.pth is there, which is named as a file"),
        (other, "other.pth: not a segment-anything checkpoint: it has no image_encoder.pos_embed .*backbone.weight"),
        (half, "half.pth: cut short"),
        (lacking, "1 missing: mask_decoder.iou_token.weight; 1 unexpected: mask_decoder.hf_token.weight"),
        (tmp_path / "no.pth", "no.pth: no such file"),
        (tmp_path / "nowhere", "nowhere: no such folder, and no name of a Hub"),
        (clip, "a mask decoder is SAM 2 .* this is 'clip'"),
        (cut, "model.safetensors: cut short"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load_mask_decoder(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must be a multiple of 16, got 100"):
        load_mask_decoder(sam_file, image_size=100)
