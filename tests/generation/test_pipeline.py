"""`AuroraPipeline` and `aurora segment`, on files of the synthetic world and on real clips."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from sounds import tone, write_clip_with_sound

from aurora_trl import AuroraModel, AuroraPipeline
from aurora_trl.cli import main
from aurora_trl.data import DataError
from aurora_trl.data.masks import decode_rle
from aurora_trl.data.media.loading import load_frames
from aurora_trl.data.media.sound import read_track
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.generation.given_media import rows_of_clips
from aurora_trl.generation.pipeline import Segmentation
from aurora_trl.generation.segment import write_segmentation


@pytest.fixture(scope="module")
def pipe(checkpoint):
    """Whatever this model reads, it says `[SEG]`."""
    pipe = AuroraPipeline.from_pretrained(checkpoint)
    seg = torch.tensor([pipe.processor.seg_token_id])
    pipe.model.policy.lm_head.register_forward_hook(lambda _module, _args, logits: logits.index_fill(-1, seg, 99.0))
    return pipe


def write_video(path: Path, num_frames: int, size: tuple[int, int], sound: bool) -> Path:
    """Noise at 10 frames per second, with a tone where asked."""
    height, width = size
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        track = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for _ in range(num_frames):
            pixels = random.integers(0, 255, (height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
        if track is not None:
            wave = np.sin(np.arange(num_frames * 1600) / 10).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(track.encode(frame))
            container.mux(track.encode())
    return path


def test_the_masks_are_those_of_the_evaluation(pipe, rows, tmp_path):
    """Two ways to the same pixels; a reference of the same clip does not read it again."""
    pair = rows.to_list()[:2]
    evaluate_model(pipe.model, pipe.processor, {"train": pair}, tmp_path, max_new_tokens=4)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    for row, answer in zip(pair, answers, strict=True):
        result = pipe(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=4)
        assert result.has_seg
        assert result.reasoning == answer["completion"]
        assert result.masks.shape == (10, 48, 48)
        assert np.array_equal(result.masks, np.stack([decode_rle(mask) for mask in answer["masks"]]))
        assert result.frame_indices == list(range(10))
        assert result.frame_seconds is None


def test_no_seg_is_an_empty_mask(checkpoint, rows):
    pipe = AuroraPipeline.from_pretrained(checkpoint)
    seg = pipe.processor.seg_token_id
    result = pipe(rows[0]["reference"], frames=rows[0]["frames"], max_new_tokens=3, suppress_tokens=[seg])
    assert not result.has_seg
    assert result.masks.shape == (10, 48, 48)
    assert not result.masks.any()


def test_a_long_and_a_short_video(pipe, tmp_path):
    """10 of 40 frames at their times; all 4 of a short one; the clip's own sound is heard."""
    long = write_video(tmp_path / "long.mp4", 40, (48, 64), sound=True)
    result = pipe(reference="the tone", video=long, max_new_tokens=2)
    assert result.masks.shape == (10, 48, 64)
    assert result.frame_indices == [2, 6, 10, 14, 18, 21, 25, 29, 33, 37]
    assert result.frame_seconds == pytest.approx([i / 10 for i in result.frame_indices], abs=0.01)
    short = pipe(reference="nothing", video=write_video(tmp_path / "short.mp4", 4, (48, 64), sound=False))
    assert short.masks.shape == (4, 48, 64)
    assert short.num_frames == 4


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({}, "give the clip as `video` or as `frames`"),
        ({"video": "a.mp4", "frames": ["b.png"]}, "and not both"),
        ({"video": "no/such.mp4"}, "no/such.mp4: no such video"),
        ({"frames": ["no/such.png"]}, "no/such.png: no such frame"),
        ({"frames": []}, "neither `frames` nor `video`"),
    ],
)
def test_a_bad_clip(clip, message, pipe):
    with pytest.raises(ValueError, match=message):
        pipe("the dog", **clip)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (
            {"frames": np.zeros((4, 48, 64, 3), np.float32)},
            "frame 0 is an array of float32 and shape .* give RGB pixels",
        ),
        ({"frames": np.zeros((48, 64, 3), np.uint8)}, r"`frames` takes an array of shape \(T, H, W, 3\), got \(48"),
        ({"frames": [3]}, "frame 0 is a int; give paths, PIL images or arrays"),
        ({"frames": Image.new("RGB", (4, 4))}, "`frames` takes a list of frames in order, got one: a picture"),
        ({"frames": "clip/0.jpg"}, "`frames` takes a list of frames in order, got one: 'clip/0.jpg'"),
        (
            {"video": np.zeros((4, 48, 64, 3), np.uint8)},
            "`video` takes the path of a file, got a ndarray; give pixels as",
        ),
        (
            {"video": "a.mp4", "audio": np.zeros(16000, np.float32)},
            r"`audio` takes a path, or samples with their rate",
        ),
        ({"video": "a.mp4", "audio": (np.zeros((0,)), 16000)}, r"`audio` takes `\(samples, rate\)` with an array"),
        ({"video": "a.mp4", "audio": {"array": 1}}, "`audio` takes the path of a file, got a dict"),
        (
            {"video": "a.mp4", "audio": (np.zeros(9, np.int64), 16000)},
            "takes samples in int16, int32 or floats .* int64",
        ),
        ({"frames": [["a.png"], ["b.png"]]}, "`frames` has 2 clips for 1 references"),
        ({"frames": np.zeros((1, 0, 64, 3), np.uint8)}, "frame 0 has no pixels"),
        (
            {"video": "a.mp4", "audio": (np.zeros((2, 800), np.float32), 16000)},
            r"of shape \(N, channels\), got \(2, 800\); give them turned",
        ),
        ({"video": "a.mp4", "audio": (np.zeros(9), 0)}, "a rate in whole hertz, got 0"),
        ({"video": "a.mp4", "audio": (np.zeros(9), None)}, "a rate in whole hertz, got None"),
        ({"video": "a.mp4", "audio": (np.zeros(9), 16000, 1)}, r"`audio` takes `\(samples, rate\)` with an array"),
        ({"frames": [Image.new("F", (4, 4))]}, "`frames`: frame 0: its pixels are fractions"),
    ],
    ids=[
        "floats",
        "one array",
        "numbers",
        "a picture",
        "one frame",
        "a video",
        "a sound",
        "no samples",
        "a dict",
        "wide numbers",
        "clips",
        "no pixels",
        "channels first",
        "no rate",
        "nothing for a rate",
        "three",
        "fractions",
    ],
)
def test_pixels_are_named_by_their_type(clip, message, pipe):
    with pytest.raises(ValueError, match=message) as caught:
        pipe("the dog", **clip)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_any_mode_are_taken(mode):
    """As a viewer shows them, and as from their files."""
    picture = Image.new("RGB", (16, 12), (255, 255, 255)).convert(mode)
    with rows_of_clips(["x"], None, [picture, picture], None) as rows:
        read = load_frames(rows[0], num_frames=2)
    assert read.shape == (2, 12, 16, 3)
    assert (read > 250).all()


def test_pixels_and_samples_are_taken(pipe, rows):
    """The same as from files: PNG and float WAV lose nothing. Several references are answered as each alone."""
    first, other = rows[0], next(row for row in rows if row["frames"] != rows[0]["frames"])
    pictures = [Image.open(path).convert("RGB") for path in first["frames"]]
    array = np.stack([np.asarray(picture) for picture in pictures])
    expected = pipe(first["reference"], frames=first["frames"], audio=first["audio"], max_new_tokens=4)
    sound = soundfile.read(first["audio"], dtype="float32")
    for frames in (pictures, array, list(array)):
        result = pipe(first["reference"], frames=frames, audio=sound, max_new_tokens=4)
        assert result.reasoning == expected.reasoning
        assert np.array_equal(result.masks, expected.masks)
    references = [first["reference"], other["reference"], "the other one"]
    clips, sounds = [pictures, other["frames"], array], [sound, other["audio"], first["audio"]]
    each = [
        pipe(reference, frames=clip, audio=audio, max_new_tokens=4)
        for reference, clip, audio in zip(references, clips, sounds, strict=True)
    ]
    together = pipe(references, frames=clips, audio=sounds, max_new_tokens=4, batch_size=2)
    shared = pipe(references[::2], frames=array, audio=sound, max_new_tokens=4)
    for result, alone in [*zip(together, each, strict=True), *zip(shared, each[::2], strict=True)]:
        assert result.reference == alone.reference
        assert result.reasoning == alone.reasoning
        assert np.array_equal(result.masks, alone.masks)


def test_a_file_that_was_written_anew_is_read_anew(pipe, tmp_path):
    video = tmp_path / "clip.mp4"
    reports = []
    for frames in (6, 9):
        write_video(video, frames, (48, 64), sound=False)
        reports.append(pipe("the dog", video=video, max_new_tokens=2).masks)
        again = pipe._loader
        pipe("the cat", video=video, max_new_tokens=2)
        assert pipe._loader is again
    assert [len(masks) for masks in reports] == [6, 9]


def test_a_photograph_stands_upright_as_pixels_too(pipe, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "0.png", exif=exif)
    with Image.open(tmp_path / "0.png") as opened:
        given = pipe("the dog", frames=[opened], max_new_tokens=2)
    assert (
        given.masks.shape == pipe("the dog", frames=[tmp_path / "0.png"], max_new_tokens=2).masks.shape == (1, 64, 48)
    )


def test_an_empty_reference(pipe, rows):
    with pytest.raises(DataError, match="the reference is empty"):
        pipe(" ", frames=rows[0]["frames"])


def test_the_overlay_shows_each_mask_at_its_time_with_the_sound(tmp_path):
    """Ten grey frames, a square that moves; read back from the MP4."""
    frames = []
    for i in range(10):
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / f"{i}.png")
        frames.append(str(tmp_path / f"{i}.png"))
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(160_000) / 10).astype(np.float32), 16000)
    masks = np.zeros((10, 48, 64), np.uint8)
    for i in range(10):
        masks[i, 16:32, 5 * i : 5 * i + 16] = 1
    result = Segmentation("r", "It is [SEG].", None, masks, True, list(range(10)), None, 10)
    record = write_segmentation(
        result, {"video": None, "frames": frames, "audio": str(tmp_path / "a.wav")}, tmp_path / "out"
    )
    assert record["note"] == "masks of 10 of the clip's 10 frames"
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert len(pictures) == 100
    assert samples / 44_100 == pytest.approx(10, abs=0.1)
    for i in range(10):
        red, blue = (pictures[10 * i + 5][:, :, c].astype(int) for c in (0, 2))
        orange = red - blue > 60
        assert (orange == masks[i].astype(bool)).mean() > 0.93  # chroma is stored at half the size
    rles = json.loads((tmp_path / "out" / "masks.json").read_text())
    for i, entry in enumerate(rles):
        assert np.array_equal(decode_rle(json.dumps(entry["segmentation"])), masks[i])
        with Image.open(tmp_path / "out" / "masks" / f"{i:06d}.png") as image:
            assert np.array_equal(np.asarray(image), masks[i] * 255)
    assert (tmp_path / "out" / "reasoning.txt").read_text() == "It is [SEG].\n"


def test_the_overlay_of_a_clip_whose_sound_begins_late(tmp_path):
    """Silence first, as in the clip; images are held as long as their sound says."""
    path = write_clip_with_sound(tmp_path / "late.mp4", [(1.5, tone(2, 48000))])
    taken = [2, 6, 10, 14, 18, 21, 25, 29, 33, 37]
    seconds = [number / 10 for number in taken]
    result = Segmentation("r", "x", None, np.zeros((10, 48, 64), np.uint8), False, taken, seconds, 40)
    write_segmentation(result, {"video": path, "frames": None, "audio": None}, tmp_path / "out")
    wave, rate = read_track(str(tmp_path / "out" / "overlay.mp4"))
    assert np.argmax(np.abs(wave[:, 0]) > 0.1) / rate == pytest.approx(1.5, abs=0.03)
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    soundfile.write(tmp_path / "a.wav", tone(3, 16000), 16000)
    images = {"video": None, "frames": [str(tmp_path / "0.png")] * 10, "audio": str(tmp_path / "a.wav")}
    result = Segmentation("r", "x", None, np.zeros((10, 48, 64), np.uint8), False, list(range(10)), None, 10)
    write_segmentation(result, images, tmp_path / "images")
    with av.open(str(tmp_path / "images" / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30


def test_an_overlay_of_odd_size_without_sound(tmp_path):
    Image.new("RGB", (63, 47)).save(tmp_path / "0.png")
    result = Segmentation("r", "Nothing.", None, np.zeros((1, 47, 63), np.uint8), False, [0], None, 1)
    clip = {"video": None, "frames": [str(tmp_path / "0.png")], "audio": None}
    record = write_segmentation(result, clip, tmp_path / "out")
    assert record["note"].endswith("all are empty, since the answer asks for no mask")
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        assert not container.streams.audio
        assert (container.streams.video[0].width, container.streams.video[0].height) == (62, 46)


def test_the_overlay_tells_objects_apart(tmp_path):
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "0.png")
    targets = np.zeros((2, 1, 48, 64), np.uint8)
    targets[0, 0, 8:24, 8:40] = targets[1, 0, 16:40, 24:56] = 1
    union = targets.max(axis=0)
    result = Segmentation("r", "It is [SEG] and [SEG].", None, union, True, [0], None, 1, object_masks=targets)
    write_segmentation(result, {"video": None, "frames": [str(tmp_path / "0.png")], "audio": None}, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    warmth = picture[:, :, 0] - picture[:, :, 2]
    first, second = targets[:, 0].astype(bool)
    assert ((warmth > 60) == first).mean() > 0.93  # orange, and on top where both are
    assert ((warmth < -40) == (second & ~first)).mean() > 0.93  # sky blue


@pytest.mark.skipif("AURORA_REAL_DATA" not in os.environ, reason="AURORA_REAL_DATA names no folder of real clips")
def test_the_command_on_real_clips(checkpoint, tmp_path, capsys):
    clips = sorted((Path(os.environ["AURORA_REAL_DATA"]) / "clips").glob("*.mp4"))
    assert clips
    for clip in clips:
        output = tmp_path / clip.stem
        command = ["segment", "--model", str(checkpoint), "--video", str(clip), "--reference", "the one that speaks"]
        assert main([*command, "--output", str(output), "--max-new-tokens", "8"]) == 0
        assert "evenly chosen: the model takes no more" in capsys.readouterr().out
        record = json.loads((output / "result.json").read_text())
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            size, duration = (stream.width, stream.height), float(stream.duration * stream.time_base)
        for entry in record["masks"]:
            with Image.open(output / entry["file"]) as image:
                assert image.size == size
        with av.open(str(output / "overlay.mp4")) as container:
            assert container.streams.audio
            assert container.duration / 1e6 == pytest.approx(duration, abs=0.3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--video", "no/such.mp4"], "no/such.mp4: no such file"),
        ([], "give the clip as --video or as --frames"),
    ],
)
def test_the_command_says_what_is_wrong(flags, message, checkpoint, tmp_path, capsys):
    command = ["segment", "--model", str(checkpoint), "--reference", "x", "--output", str(tmp_path / "o"), *flags]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_it_is_exported(checkpoint):
    import aurora_trl

    assert aurora_trl.AuroraPipeline is AuroraPipeline
    assert "AuroraPipeline" in aurora_trl.__all__
    assert isinstance(AuroraPipeline.from_pretrained(checkpoint, device="cpu").model, AuroraModel)


def test_in_bf16(checkpoint, rows):
    pipe = AuroraPipeline.from_pretrained(checkpoint, dtype=torch.bfloat16)
    assert next(pipe.model.parameters()).dtype == torch.bfloat16
    result = pipe(rows[0]["reference"], frames=rows[0]["frames"], audio=rows[0]["audio"], max_new_tokens=4)
    assert result.masks.shape == (10, 48, 48)
