"""Clips with fewer frames than the model takes: what fills them up is not drawn, and not seen where it need not be."""

import json
import logging

import numpy as np
import pytest
import torch
from layouts import write_s4
from PIL import Image
from sft_helpers import build
from videos import write_clip

from aurora_trl import AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.annotation.request_parts import Picture, clip_parts
from aurora_trl.cli import main
from aurora_trl.data import load_avsbench, load_json, save_json
from aurora_trl.data.masks import decode_rle, encode_rle
from aurora_trl.data.validation import describe_short_clips
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.clip_loader import ClipLoader


@pytest.fixture
def short_rows(tmp_path):
    """Two clips: of 2 images, and a video of 4 frames."""
    paths = []
    for number in range(2):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (64, 48), (200, 40 + 100 * number, 90)).save(paths[-1])
    video = write_clip(tmp_path / "a.mp4", [60, 100, 140, 180])
    mask = encode_rle(np.ones((48, 64), np.uint8))
    common = {"reference": "it", "class_name": "dog", "target": "It is [SEG]."}
    rows = [
        {"id": "images", "frames": paths, "masks": [mask] * 2, **common},
        {"id": "video", "video": video, "masks": [mask] * 4, **common},
    ]
    return load_json(save_json(rows, tmp_path / "rows.jsonl"))


def test_the_policy_sees_the_clip_and_not_what_fills_it_up(short_rows, processor, qwen_checkpoints):
    """Two policy frames of ten, of which the clip has two: these two, and none of the black ones."""
    assert (processor.num_frames, processor.policy_frames) == (10, 2)
    clip = ClipLoader(processor).clip(short_rows[0])
    frames = np.stack([np.asarray(Image.open(path)) for path in short_rows[0]["frames"]])
    assert torch.equal(clip["pixel_values_videos"], processor.policy_processor.process_video(frames))
    assert clip["mask_frames"].shape[0] == 10
    black = processor.process_mask_frames(np.zeros((1, 48, 64, 3), np.uint8))
    assert torch.equal(clip["mask_frames"][2:], black.expand(8, -1, -1, -1))
    assert not torch.equal(clip["mask_frames"][1:2], black)
    alone = ClipLoader(processor).clip({**short_rows[0], "frames": short_rows[0]["frames"][:1]})
    assert alone["pixel_values_videos"].shape[0] == 2  # one frame, and one that fills up


def test_an_odd_frame_is_seen(processor):
    """The connector joins frames in pairs; the last of three stands twice."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    policy = processor.policy_processor
    media = policy.process_media(frames, None)
    assert torch.equal(media["pixel_values_videos"], policy.process_video(frames[[0, 1, 2, 2]]))
    places = policy.expand_ids([policy.video_token_id], media)
    assert len(places) == 2 * len(policy.expand_ids([policy.video_token_id], policy.process_media(frames[:2], None)))


def test_answers_and_pictures_have_the_clips_own_frames(short_rows, checkpoint, tmp_path):
    model, processor = AuroraModel.from_pretrained(checkpoint), AuroraProcessor.from_pretrained(checkpoint)
    evaluate_model(model, processor, {"test": short_rows}, tmp_path / "out", max_new_tokens=2, protocol="davis")
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [len(line["masks"]) for line in lines] == [2, 4]
    assert decode_rle(lines[0]["masks"][0]).shape == (48, 64)
    pipe = AuroraPipeline(model, processor)
    result = pipe("it", frames=short_rows[0]["frames"], max_new_tokens=2)
    assert (result.masks.shape, result.frame_indices, result.num_frames) == ((2, 48, 64), [0, 1], 2)
    moments = pipe("it", frames=[f"{short_rows[1]['video']}#t={second}" for second in (0.1, 0.3)], max_new_tokens=2)
    assert moments.frame_seconds == [0.1, 0.3]


def test_a_picture_shows_as_many_frames_as_there_are(short_rows, tmp_path):
    from aurora_trl.evaluation.visualize import draw_answer

    mask = encode_rle(np.zeros((48, 64), np.uint8))
    answer = {"reference": "it", "class_name": "dog", "completion": "x", "j": 0.5, "class_correct": True}
    path = draw_answer(short_rows[0], {**answer, "masks": [mask] * 2}, tmp_path / "drawn.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    black = (pixels.max(axis=2) < 10).mean()
    assert black < 0.05  # text alone; five black frames would be a third of it


def test_annotators_see_no_padding(short_rows):
    for row, count in zip(short_rows, (2, 4), strict=True):
        pictures = [part for part in clip_parts(row, num_frames=10, max_image_side=64) if isinstance(part, Picture)]
        assert len(pictures) == count


def test_it_is_said_with_the_flag_that_mends_it(short_rows, tmp_path, capsys, checkpoint, caplog, processor):
    assert main(["check-data", str(tmp_path / "rows.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 clips have 2 to 4 frames, and the model takes 10: black frames fill them up" in said
    assert "`num_frames: 4`" in said
    assert main(["check-data", str(tmp_path / "rows.jsonl"), "--num-frames", "2"]) == 0
    assert "fill them up" not in capsys.readouterr().out
    (tmp_path / "s4").mkdir()
    rows = load_avsbench(write_s4(tmp_path / "s4"), "s4", "val")
    assert "1 of 1 clips have 5 frames" in describe_short_clips(rows, 10)
    with caplog.at_level(logging.WARNING):
        build(AuroraModel.from_pretrained(checkpoint), short_rows, processor, tmp_path / "out")
    assert "2 of 2 clips have 2 to 4 frames" in caplog.text


def test_a_phase_may_take_fewer_frames(short_rows, tmp_path, checkpoint, caplog, processor):
    """The checkpoint keeps it; the masks are as many."""
    with caplog.at_level(logging.WARNING):
        trainer = build(
            AuroraModel.from_pretrained(checkpoint),
            short_rows,
            processor,
            tmp_path / "out",
            num_frames=2,
            max_steps=1,
            per_device_train_batch_size=2,
        )
    assert "fill them up" not in caplog.text
    batch = trainer.data_collator(short_rows.to_list())
    assert batch["mask_frames"].shape[1] == batch["masks"].shape[1] == 2
    trainer.train()
    trainer.save_model()
    assert AuroraProcessor.from_pretrained(tmp_path / "out").num_frames == 2
    with pytest.raises(ValueError, match="`num_frames` must be at least 1, got 0"):
        build(AuroraModel.from_pretrained(checkpoint), short_rows, processor, tmp_path / "no", num_frames=0)
