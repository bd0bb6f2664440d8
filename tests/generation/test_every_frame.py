"""Masks of every frame: the one `[SEG]` prompts them all, and what is in memory does not grow with their number."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl import AuroraPipeline
from aurora_trl.cli import main
from aurora_trl.data.masks import decode_rle
from aurora_trl.data.media.sound import read_track
from aurora_trl.generation.segment import write_segmentation

LEVELS = [20 + 4 * number for number in range(40)]


@pytest.fixture(scope="module")
def pipe(checkpoint):
    """Whatever this model reads, it says `[SEG]`."""
    pipe = AuroraPipeline.from_pretrained(checkpoint)
    seg = torch.tensor([pipe.processor.seg_token_id])
    pipe.model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    pipe.model.mask_decoder.frames_at_once = 7 * 32**2 / 1024**2  # chunks of seven frames of 32 px
    return pipe


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", LEVELS)


def test_all_frames_have_the_masks_that_each_has_by_itself(pipe, video):
    few = pipe("the square", video=video, max_new_tokens=2)
    every = pipe("the square", video=video, frames="all", max_new_tokens=2)
    assert every.masks.shape == (40, 48, 64)
    assert every.frame_indices == list(range(40))
    assert every.reasoning == few.reasoning
    for place, number in enumerate(few.frame_indices):  # frame by frame, with other frames around it
        assert (every.masks[number] != few.masks[place]).mean() < 1e-3
    some = pipe("the square", video=video, frames="all", fps=2, start=1.0, end=3.0, max_new_tokens=2)
    assert some.frame_indices == [10, 15, 20, 25]
    assert some.frame_seconds == pytest.approx([1.0, 1.5, 2.0, 2.5], abs=1e-3)
    assert (some.masks != every.masks[[10, 15, 20, 25]]).mean() < 1e-3


def test_it_draws_as_it_is_asked(pipe, video, monkeypatch):
    """The first frame is there before the last ones are read, and a chunk holds seven of them."""
    seen = []
    encode = pipe.model.encode_masks
    monkeypatch.setattr(pipe.model, "encode_masks", lambda frames: seen.append(frames.size(1)) or encode(frames))
    result = pipe("the square", video=video, max_new_tokens=2)
    seen.clear()
    drawn = pipe.every_frame(result)
    first = next(drawn)
    assert (first.number, first.masks.shape, first.frame.shape) == (0, (1, 48, 64), (48, 64, 3))
    assert seen == [7]
    assert len(list(drawn)) == 39
    assert seen == [7, 7, 7, 7, 7, 5]


def test_no_seg_is_an_empty_mask_in_every_frame(checkpoint, video):
    plain = AuroraPipeline.from_pretrained(checkpoint)
    seg = plain.processor.seg_token_id
    every = plain("x", video=video, frames="all", max_new_tokens=2, suppress_tokens=[seg])
    assert every.masks.shape == (40, 48, 64)
    assert not every.masks.any()


def test_what_does_not_fit_is_said(pipe, video, rows, monkeypatch):
    with pytest.raises(ValueError, match='go with a video and `frames="all"`'):
        pipe("x", video=video, fps=2)
    with pytest.raises(ValueError, match="takes a list of frames"):
        pipe("x", frames="all")
    pixels = pipe("x", frames=np.zeros((2, 48, 64, 3), np.uint8), max_new_tokens=2)
    with pytest.raises(ValueError, match="pixels are not kept: give the clip as files"):
        pipe.every_frame(pixels)
    monkeypatch.setattr("aurora_trl.generation.pipeline._MOST_MASK_BYTES", 1000)
    with pytest.raises(ValueError, match="the masks of 40 frames take .* iterate over `every_frame"):
        pipe("x", video=video, frames="all", max_new_tokens=2)


def test_images_are_drawn_in_too(pipe, rows):
    result = pipe(rows[0]["reference"], frames=rows[0]["frames"], max_new_tokens=2)
    drawn = list(pipe.every_frame(result))
    assert [frame.number for frame in drawn] == list(range(10))
    assert (np.stack([frame.masks[0] for frame in drawn]) != result.masks).mean() < 1e-3


def test_what_is_written(pipe, tmp_path):
    """PNG, run lengths and mask video have the same pixels; the overlay has each frame at its time, and the sound."""
    path = write_clip_with_sound(tmp_path / "late.mp4", [(1.5, tone(2, 48000))])
    clip = {"video": path, "frames": None, "audio": None}
    result = pipe("the tone", video=path, max_new_tokens=2)
    span = (1.0, 3.0)
    record = write_segmentation(result, clip, tmp_path / "out", pipe.every_frame(result, start=1.0, end=3.0), span)
    numbers = [entry["frame"] for entry in record["masks"]]
    count = len(numbers)
    assert record["note"] == f"masks of {count} of the clip's {result.num_frames} frames"
    assert [entry["seconds"] for entry in record["masks"]][0] == pytest.approx(1.0, abs=0.05)
    runs = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert [run["frame"] for run in runs] == numbers
    with av.open(str(tmp_path / "out" / "masks.mkv")) as container:
        video = list(container.decode(video=0))
    assert len(video) == count
    for run, entry, frame in zip(runs, record["masks"], video, strict=True):
        mask = decode_rle(json.dumps(run["segmentation"]))
        with Image.open(tmp_path / "out" / entry["file"]) as image:
            assert np.array_equal(np.asarray(image), mask * 255)
        assert np.array_equal(frame.to_ndarray(format="gray"), mask * 255)
        assert frame.time == pytest.approx(entry["seconds"] - 1.0, abs=0.002)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times == pytest.approx([entry["seconds"] - 1.0 for entry in record["masks"]], abs=0.002)
    wave, rate = read_track(str(tmp_path / "out" / "overlay.mp4"))
    assert np.argmax(np.abs(wave[:, 0]) > 0.1) / rate == pytest.approx(0.5, abs=0.04)
    assert len(wave) / rate == pytest.approx(2.0, abs=0.1)
    with Image.open(tmp_path / "out" / "picture.png") as picture:
        assert picture.width == 1000


def test_the_command(drawing_checkpoint, video, tmp_path, capsys):
    command = ["segment", "--model", str(drawing_checkpoint), "--video", video, "--reference", "x"]
    command += ["--output", str(tmp_path / "out"), "--max-new-tokens", "8"]
    assert main([*command, "--fps", "2"]) == 1
    assert "--fps chooses among all frames: add --every-frame" in capsys.readouterr().err
    assert main([*command, "--every-frame", "--start", "9"]) == 1
    assert "no frame is shown between 9 s and the end" in capsys.readouterr().err
    assert main([*command, "--every-frame", "--fps", "5"]) == 0
    assert "masks of 20 of the clip's 40 frames" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 20


PEAK = """
import sys
from pathlib import Path
from aurora_trl import AuroraPipeline
from aurora_trl.generation.segment import write_segmentation
pipe = AuroraPipeline.from_pretrained(sys.argv[1])
pipe.model.mask_decoder.frames_at_once = 8 * 32**2 / 1024**2
clip = {"video": sys.argv[2], "frames": None, "audio": None}
def highest():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
result = pipe("x", video=sys.argv[2], max_new_tokens=2)
drawn = pipe.every_frame(result)
next(drawn)
before = highest()
write_segmentation(result, clip, sys.argv[3], pipe.every_frame(result))
print(highest() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_frames(drawing_checkpoint, tmp_path):
    """Of frames of 1.4 MB, 400 take hardly more at the highest than 100: all of them would be 415 MB more."""
    peaks = []
    for count in (100, 400):
        path = write_clip(tmp_path / f"{count}.mp4", [90 + i % 100 for i in range(count)], size=(720, 640))
        command = [sys.executable, "-c", PEAK, str(drawing_checkpoint), path, str(tmp_path / str(count))]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 60, peaks
