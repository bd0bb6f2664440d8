"""Videos: any rate, any moment, without sound, damaged, cut short; `test_video_matrix.py` has their kinds."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from PIL import ExifTags, Image
from sounds import tone, write_clip_with_sound
from video_matrix import set_display_matrix
from videos import write_clip

from aurora_trl.data import DataError, load_json, save_json
from aurora_trl.data.masks import encode_rle, frame_size, load_masks, mask_indices
from aurora_trl.data.media.loading import load_audio, load_frames, split_moment, taken_frames
from aurora_trl.data.media.sound import read_track
from aurora_trl.data.media.video import index_video, read_frames
from aurora_trl.data.validation import check_dataset, find_problems
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.video_writer import VideoWriter

REAL = os.environ.get("AURORA_REAL_DATA")
needs_real_data = pytest.mark.skipif(REAL is None, reason="AURORA_REAL_DATA names no folder with real clips")


def levels_of(frames):
    return [round(float(frame[-4:].mean())) for frame in frames]


def close(read, written):
    return np.abs(np.array(read) - np.array(written)).max() <= 3


def test_any_frames_in_any_order(tmp_path):
    levels = list(range(20, 220, 5))
    path = write_clip(tmp_path / "a.mp4", levels)
    index = index_video(path)
    assert len(index.times) == 40
    assert index.times[3] == pytest.approx(0.3)
    assert index.duration == pytest.approx(4.0, abs=0.11)
    assert len(index.keyframes) > 2
    numbers = [39, 0, 13, 13, 12, 25]
    assert close(levels_of(read_frames(path, index, numbers)), [levels[i] for i in numbers])


def test_a_varying_rate_is_read_by_time(tmp_path):
    # Five frames in the first half second, then one each second.
    stamps = [0, 10, 20, 30, 40, 100, 200, 300, 400]
    levels = [20, 40, 60, 80, 100, 130, 160, 190, 220]
    path = write_clip(tmp_path / "a.mp4", levels, stamps)
    index = index_video(path)
    assert list(index.times) == pytest.approx([stamp / 100 for stamp in stamps])
    assert [index.at(seconds) for seconds in (0, 0.05, 0.1, 0.99, 1.0, 2.5, 9)] == [0, 0, 1, 4, 5, 6, 8]
    middles = index.spread(4)  # nearest to 0.5, 1.5, 2.5 and 3.5 seconds
    assert middles == [4, 6, 7, 8]
    assert close(levels_of(read_frames(path, index, middles)), [100, 160, 190, 220])


def test_moments_are_frames_and_sound_comes_from_a_video(tmp_path):
    levels = list(range(20, 220, 5))
    path = write_clip(tmp_path / "a.mp4", levels)
    mask = encode_rle(np.ones((48, 64), np.uint8))
    row = {
        "id": "a",
        "reference": "x",
        "frames": [f"{path}#t={seconds}" for seconds in (0.0, 1.55, 3.9)],
        "masks": [mask] * 3,
    }
    assert close(levels_of(load_frames(row, num_frames=3)), [levels[0], levels[15], levels[39]])
    assert not load_frames(row, num_frames=4)[3].any()
    assert frame_size(row) == (48, 64)
    rows = load_json(save_json([row], tmp_path / "rows.jsonl"))
    assert '"a.mp4#t=1.55"' in (tmp_path / "rows.jsonl").read_text()
    assert rows[0]["frames"] == row["frames"]
    assert check_dataset(rows) == []
    with pytest.raises(DataError, match="'soon' is no moment"):
        split_moment("a.mp4#t=soon")
    with pytest.raises(DataError, match="it has no sound track; remove `audio`"):
        load_audio({"audio": path}, sampling_rate=16000)
    assert load_audio({"video": path}, sampling_rate=16000) is None


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a", "ogg"])
def test_sound_of_any_codec_rate_and_channels(suffix, tmp_path):
    rate = 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=rate, layout="stereo")
            samples = np.stack([tone, tone]).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, 0
            container.mux([*stream.encode(frame), *stream.encode()])
    else:
        channels = 2 if suffix in ("mp3", "ogg") else 6
        soundfile.write(path, np.stack([tone] * channels, axis=1), rate)
    wave = load_audio({"audio": str(path)}, sampling_rate=16000)
    assert wave.dtype == np.float32
    assert abs(len(wave) - 48000) < 1600
    assert np.argmax(np.abs(np.fft.rfft(wave[8000:24000]))) == 440
    assert np.abs(wave[8000:24000]).max() == pytest.approx(0.5, abs=0.03)


def test_broken_videos_are_named(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video at all")
    for read in (index_video, read_track):
        with pytest.raises(DataError, match="text.mp4: "):
            read(str(tmp_path / "text.mp4"))
        with pytest.raises(DataError, match="none.mp4: no such"):
            read(str(tmp_path / "none.mp4"))
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    with pytest.raises(DataError, match="a.wav: it has no video track"):
        index_video(str(tmp_path / "a.wav"))


@needs_real_data
@pytest.mark.parametrize("name", ["clip_6s_360p.mp4", "clip_9s_336p.mp4"])
def test_real_clips_are_what_another_reader_gives(name):
    decord = pytest.importorskip("decord")
    path = str(Path(REAL) / "clips" / name)
    index = index_video(path)
    numbers = [*index.spread(10), 0, len(index.times) - 1]
    ours = read_frames(path, index, numbers).astype(int)
    theirs = decord.VideoReader(path).get_batch(numbers).asnumpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    wave, rate = read_track(path)
    # decord mixes two channels to one with 0.7071 each, where a mean takes 0.5.
    mixed = decord.AudioReader(path, sample_rate=-1, mono=True)[:].asnumpy()[0] / np.sqrt(2)
    assert rate == 44100
    assert np.abs(wave.mean(axis=1) - mixed).max() < 1e-3


def test_what_is_wrong_with_a_video_is_found(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [60] * 20)
    row = {"id": "a", "reference": "x", "video": path, "audio": None, "frames": None, "masks": None, "is_null": False}
    assert find_problems([row]) == []
    late = {**row, "video": None, "frames": [f"{path}#t=1.0", f"{path}#t=7.5"]}
    assert "it ends at 1.91 s, a frame is wanted at 7.50 s" in find_problems([late])[0].text
    small = {**late, "frames": [f"{path}#t=1.0"], "masks": [encode_rle(np.ones((8, 8), np.uint8))]}
    assert "a mask: 8x8 pixels, but the clip's frames have 64x48" in find_problems([small])[0].text
    Path(path).write_bytes(Path(path).read_bytes()[:1500])
    problem = find_problems([row])[0]
    assert problem.kind == "cut short"
    assert problem.text.startswith(path)
    assert find_problems([{**row, "video": str(tmp_path / "none.mp4")}])[0].kind == "missing"


def test_clips_of_any_length_and_without_sound_make_one_batch(processor, tmp_path):
    path = write_clip(tmp_path / "a.mp4", [60] * 20)
    rows = [{"id": "none", "reference": "x", "video": path, "is_null": True}]
    for seconds in (0.05, 6, 31):
        soundfile.write(tmp_path / f"{seconds}.wav", 0.1 * np.sin(np.arange(int(16000 * seconds))), 16000)
        rows.append({**rows[0], "id": str(seconds), "audio": str(tmp_path / f"{seconds}.wav")})
    batch = SFTCollator(ClipLoader(processor))([{**row, "target": "It is [SEG]."} for row in rows])
    assert batch["audio_values"].shape[0] == len(rows)
    assert not batch["audio_values"][0].any()
    assert (batch["attention_mask"].sum(1)[1:] == batch["attention_mask"].sum(1)[1]).all()
    assert batch["attention_mask"].sum(1)[0] < batch["attention_mask"].sum(1)[1]


@needs_real_data
def test_a_real_clip_without_a_sound_to_hear_is_found():
    rows = [
        {"id": name, "reference": "x", "video": str(Path(REAL) / "clips" / name), "is_null": True}
        for name in ("clip_6s_360p.mp4", "clip_9s_336p.mp4")
    ]
    assert [(problem.kind, problem.rows) for problem in find_problems(rows)] == [("silent sound", (1,))]


def test_masks_of_a_video_belong_to_frame_numbers(tmp_path, processor):
    """At a varying rate the frames nearest to even moments are far from even numbers; each keeps its own mask."""
    stamps = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 400, 700, 1000, 1300, 1600]
    path = write_clip(tmp_path / "a.mp4", [20 + 10 * i for i in range(15)], stamps)
    masks = [np.zeros((48, 64), np.uint8) for _ in range(15)]
    for number, mask in enumerate(masks):
        mask[:, : 4 * (number + 1)] = 1
    row = {"id": "a", "reference": "x", "video": path, "masks": [encode_rle(mask) for mask in masks]}
    taken = taken_frames(row, 5)
    assert taken == [9, 10, 11, 12, 13]  # by time: nearest to 1.6, 4.8, 8, 11.2 and 14.4 s
    assert mask_indices(row, 5) == taken
    assert close(levels_of(load_frames(row, num_frames=5)), [20 + 10 * number for number in taken])
    assert np.array_equal(load_masks(row, mask_indices(row, 5)), np.stack([masks[number] for number in taken]))
    assert find_problems([row]) == []
    unmarked = {**row, "masks": [None if number == 11 else mask for number, mask in enumerate(row["masks"])]}
    assert mask_indices(unmarked, 5) == [9, 10, -1, 12, 13]
    for count in (7, 16):
        wrong = {**row, "masks": (row["masks"] * 2)[:count]}
        for problems in (find_problems([wrong]), find_problems([wrong], thorough=False)):
            assert [problem.kind for problem in problems] == ["mask count"]
            assert f"{count} masks for 15 frames; give one per frame" in problems[0].text
        with pytest.raises(DataError, match=f"{count} masks for 15 frames"):
            mask_indices(wrong, 5)
    assert mask_indices({**row, "masks": None, "is_null": True}, 20) == [*range(15), *[-1] * 5]


def test_moments_of_videos_of_other_sizes_are_found(tmp_path):
    one, other = write_clip(tmp_path / "a.mp4", [60] * 4), write_clip(tmp_path / "b.mp4", [60] * 4, size=(32, 64))
    row = {"id": "a", "reference": "x", "frames": [f"{one}#t=0.1", f"{other}#t=0.1"], "is_null": True}
    assert [problem.kind for problem in find_problems([row], thorough=False)] == ["size"]


def test_damaged_and_cut_videos_are_named(tmp_path):
    levels = [20 + i % 200 for i in range(100)]
    for name, options in (("a.mp4", {"movflags": "faststart"}), ("a.mkv", {})):
        path = Path(write_clip(tmp_path / name, levels, container_options=options))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * 0.6)])
        (problem,) = find_problems([{"id": "a", "reference": "x", "video": str(path), "is_null": True}])
        assert problem.kind in ("cut short", "unreadable")
        assert str(path) in problem.text
    path = Path(write_clip(tmp_path / "b.mp4", levels))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    content[packets[50].pos : packets[50].pos + packets[50].size] = bytes(packets[50].size)
    path.write_bytes(content)
    (problem,) = find_problems([{"id": "b", "reference": "x", "video": str(path), "is_null": True}])
    assert problem.kind == "unreadable"
    assert problem.stops_training


def write_tracks(path, tracks):
    """A video with a track for each `(grey levels, disposition)`."""
    with av.open(str(path), "w") as container:
        streams = []
        for _, disposition in tracks:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 64, 48, "yuv420p", disposition
            streams.append(stream)
        for stream, (levels, _) in zip(streams, tracks, strict=True):
            for level in levels:
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24"))
                )
            container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("dispositions", "shown"), [((0, 1), 200), ((1, 0), 60), ((1, 1), 60), ((0, 0), 60)], ids=str)
def test_of_several_tracks_that_is_seen_which_players_show(suffix, dispositions, shown, tmp_path):
    tracks = [([level] * 3, Disposition(number)) for level, number in zip((60, 200), dispositions, strict=True)]
    path = write_tracks(tmp_path / f"a.{suffix}", tracks)
    assert close(levels_of(load_frames({"video": path}, num_frames=3)), [shown] * 3)


def test_an_animation_is_not_the_still_picture_beside_it(tmp_path):
    """AVIF holds both; the still one comes first."""
    pictures = [Image.new("RGB", (64, 48), (level,) * 3) for level in (20, 90, 160, 230)]
    path = tmp_path / "a.avif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=200)
    assert close(levels_of(load_frames({"video": str(path)}, num_frames=4)), [20, 90, 160, 230])
    assert index_video(str(path)).times == pytest.approx((0.0, 0.2, 0.4, 0.6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_tells_in_exif_how_pictures_are_turned(orientation, tmp_path):
    """Of a photograph as a video of one frame, and of motion JPEG: as of the photograph as a frame."""
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:16, :24] = 250
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = str(tmp_path / "a.jpg")
    Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)
    expected = load_frames({"frames": [path]}, num_frames=1)
    read = load_frames({"video": path}, num_frames=1)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() < 12
    assert index_video(path).size == expected.shape[1:3]


def test_transparent_pictures_of_a_video_lie_on_white(tmp_path):
    path = tmp_path / "a.mov"
    pixels = np.full((48, 64, 4), 90, np.uint8)
    pixels[:24, :, 3], pixels[24:, :, 3] = 255, 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba")))
        container.mux(stream.encode())
    frame = load_frames({"video": str(path)}, num_frames=1)[0]
    assert (frame[:24] == 90).all()
    assert (frame[24:] == 255).all()


def test_a_clock_that_jumps_is_no_pause(tmp_path):
    """All frames that are spread over such a time would be the two at its ends."""
    path = write_clip(tmp_path / "a.mp4", [60] * 10, [10 * i + 400_000 * (i > 5) for i in range(10)])
    with pytest.raises(DataError, match=r"a.mp4: its pictures pause for 4000 s at 0.50 s, by its clock; .*setpts"):
        load_frames({"video": path}, num_frames=4)


def test_a_moment_after_the_end_is_no_frame(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [60] * 10)
    assert load_frames({"frames": [f"{path}#t=1.2"]}, num_frames=1).shape == (1, 48, 64, 3)
    with pytest.raises(DataError, match=r"a.mp4: it ends at 1.* s, a frame is wanted at 7.50 s"):
        load_frames({"frames": [f"{path}#t=0.2", f"{path}#t=7.5"]}, num_frames=2)


@pytest.mark.parametrize("name", ["12:30", "a%03d", "a b#c", "x?y&z", "file:a", "-i", "ü日本", "[1]*"])
def test_a_name_is_a_files_name(name, tmp_path, monkeypatch):
    """And no protocol, pattern or option."""
    monkeypatch.chdir(tmp_path)
    made = write_clip_with_sound(tmp_path / "made.mp4", [(0.0, tone(0.5, 48000))], num_frames=4)
    Path(made).rename(tmp_path / f"{name}.mp4")
    assert load_frames({"video": f"{name}.mp4"}, num_frames=3).shape == (3, 48, 64, 3)
    assert load_audio({"video": f"{name}.mp4"}, sampling_rate=16000) is not None


def write_wide_pixels(path, aspect=Fraction(2)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pixels_that_are_not_square_stay_as_they_are_stored(suffix, tmp_path):
    """Masks are drawn in pictures as they are stored; who drew them in a player's window is told."""
    path = write_wide_pixels(tmp_path / f"a.{suffix}")
    assert load_frames({"video": path}, num_frames=2).shape == (2, 48, 64, 3)
    row = {"id": "a", "reference": "x", "is_null": True, "video": path}
    (problem,) = find_problems([row])
    assert (problem.kind, problem.stops_training) == ("pixels", False)
    assert problem.text.startswith(f"{path}: its pixels are not square, 64x48 are shown as 128x48")
    with VideoWriter(tmp_path / "out.mp4", (48, 64), pixel_aspect=index_video(path).pixel_aspect) as writer:
        writer.add(np.zeros((48, 64, 3), np.uint8), 0.0)
    assert index_video(str(tmp_path / "out.mp4")).pixel_aspect == 2


def test_pixels_of_a_turned_video_are_turned(tmp_path):
    path = write_wide_pixels(tmp_path / "a.mp4")
    set_display_matrix(path, (0, 1, -1, 0))
    index = index_video(path)
    assert (index.size, index.pixel_aspect) == ((64, 48), Fraction(1, 2))
