"""Frames, sound, masks and rows in files."""

import json
import struct
import zlib

import av
import numpy as np
import pytest
import soundfile
from PIL import ExifTags, Image, PngImagePlugin

from aurora_trl.data import DataError, load_json, save_json
from aurora_trl.data.masks import decode_rle, encode_rle, frame_size, load_masks
from aurora_trl.data.media.loading import MediaCache, frame_indices, load_audio, load_frames
from aurora_trl.data.validation import find_bad_rows, find_problems


def write_video(path, frames, with_sound=True):
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        video.options = {"crf": "0"}
        sound = container.add_stream("aac", rate=16000) if with_sound else None
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if sound is not None:
            wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
            for start in range(0, 32000, 1024):
                part = wave[None, start : start + 1024].astype(np.float32)
                packet = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
                packet.sample_rate, packet.pts = 16000, start
                container.mux(sound.encode(packet))
            container.mux(sound.encode())


def test_frame_indices():
    assert frame_indices(10, 10) == list(range(10))
    assert frame_indices(20, 4) == [2, 7, 12, 17]
    # As VideoLLaMA2's published code samples.
    assert frame_indices(20, 10) == [1, 3, 5, 7, 9, 10, 12, 14, 16, 18]
    assert frame_indices(100, 8) == [6, 19, 31, 43, 56, 68, 80, 93]
    assert frame_indices(2, 4) == [0, 1, -1, -1]


@pytest.mark.parametrize("with_sound", [True, False])
def test_video(with_sound, tmp_path):
    frames = np.repeat(np.arange(20, 240, 20, dtype=np.uint8)[:10], 64 * 48 * 3).reshape(10, 48, 64, 3)
    write_video(tmp_path / "clip.mp4", frames, with_sound)
    row = {"id": "a", "video": str(tmp_path / "clip.mp4")}
    read = load_frames(row, num_frames=5)
    assert read.shape == (5, 48, 64, 3)
    assert np.abs(read.mean((1, 2, 3)) - frames[[1, 3, 5, 6, 8]].mean((1, 2, 3))).max() < 3
    assert not load_frames(row, num_frames=12)[10:].any()  # past the end: black
    wave = load_audio(row, sampling_rate=8000)
    if with_sound:
        assert wave.ndim == 1
        assert abs(len(wave) - 16000) < 2000
        spectrum = np.abs(np.fft.rfft(wave[4000:12000]))
        assert abs(np.argmax(spectrum) - 440) <= 1  # 8000 samples at 8 kHz: bins of 1 Hz
    else:
        assert wave is None


def test_audio_is_mono_at_the_rate_that_is_asked_for(tmp_path):
    time = np.arange(48000) / 48000
    stereo = np.stack([np.sin(2 * np.pi * 300 * time), np.zeros_like(time)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 48000, subtype="FLOAT")
    wave = load_audio({"audio": str(tmp_path / "a.wav")}, sampling_rate=16000)
    assert wave.shape == (16000,)
    assert wave.dtype == np.float32
    assert np.abs(wave[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_media_errors_name_the_file(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for suffix, what in (("bad.jpg", "can not be read as an image"), ("none.jpg", "no such frame")):
        with pytest.raises(DataError, match=f"{suffix}: {what}"):
            load_frames({"frames": [str(tmp_path / suffix)]}, num_frames=1)
    for suffix in ("bad.mp4", "none.mp4"):
        with pytest.raises(DataError, match=suffix):
            load_frames({"video": str(tmp_path / suffix)}, num_frames=1)
    for suffix in ("bad.wav", "none.wav"):
        with pytest.raises(DataError, match=f"{suffix}: can not be read as sound"):
            load_audio({"audio": str(tmp_path / suffix)}, sampling_rate=16000)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b.png: 4x5 pixels, but the clip's first frame has 4x4"):
        load_frames({"frames": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]}, num_frames=2)


def too_large(path):
    """A PNG of 400 megapixels, one bit each: 50 kB."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501 * 20000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def too_much_text(path):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    Image.new("RGB", (32, 24)).save(path, pnginfo=info)


def damage(place, content):
    """Of a BMP: what its header says."""

    def spoil(path):
        Image.new("RGB", (32, 24)).save(path, "BMP")
        data = path.read_bytes()
        path.write_bytes(data[:place] + content + data[place + len(content) :])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (too_large, "more than 179 megapixels"),
        (too_much_text, "can not be read as an image: Decompressed data too large"),
        (damage(18, b"\xff\xff\xff\x7f"), "more than 179 megapixels"),
        (damage(28, b"\7"), "can not be read as an image"),
    ],
)
def test_an_image_that_is_refused_is_named(spoil, said, tmp_path):
    """Whatever is raised: as a frame and as a mask, and the rows without it can be trained on."""
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    spoil(bad)
    Image.new("L", (32, 24), 255).save(good)
    with pytest.raises(DataError, match=f"bad.png: .*{said}"):
        load_frames({"frames": [str(bad)]}, num_frames=1)
    row = {"id": "a", "reference": "x", "frames": [str(good)], "masks": [str(good)]}
    with pytest.raises(DataError, match=f"bad.png: .*{said}"):
        load_masks({**row, "masks": [str(bad)]})
    with pytest.raises(DataError, match=f"bad.png: .*{said}"):
        frame_size({**row, "frames": [str(bad)]})
    rows = [row, {**row, "id": "b", "frames": [str(bad)]}, {**row, "id": "c", "masks": [str(bad)]}]
    assert list(find_bad_rows(rows)) == [1, 2]
    assert [problem.kind for problem in find_problems(rows, thorough=False)] == ["unreadable"] * 2


def test_masks_from_png_and_rle(tmp_path):
    plane = np.zeros((6, 8), np.uint8)
    plane[1:4, 2:5] = 7  # a class index, as some copies hold
    Image.fromarray(plane).save(tmp_path / "m.png")
    rle = encode_rle(plane > 0)
    assert np.array_equal(decode_rle(rle), plane > 0)
    masks = load_masks({"id": "a", "masks": [str(tmp_path / "m.png"), rle]}, indices=[0, 1, -1])
    assert np.array_equal(masks[0], plane > 0)
    assert np.array_equal(masks[1], plane > 0)
    assert not masks[2].any()
    with pytest.raises(DataError, match="not a COCO run-length encoding"):
        decode_rle('{"size": 3}')
    with pytest.raises(DataError, match=r"none.png: no such mask \(row 'a'\)"):
        load_masks({"id": "a", "masks": [str(tmp_path / "none.png")]})


def test_rows_survive_a_file_and_move_with_it(rows, tmp_path):
    path = save_json(rows.select(range(3)), tmp_path / "a" / "rows.jsonl")
    assert load_json(path).to_list() == rows.select(range(3)).to_list()
    assert not json.loads(path.read_text().splitlines()[0])["audio"].startswith("/")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "it holds no rows"),
        ("3", "line 1: a row is an object"),
        ('{"id": "a", "refrence": "x"}', "line 1: unknown key `refrence`"),
        ('{"id": "a"}', "line 1: `reference` is missing"),
        ('{"id": "a", "reference": "x", "frames": "f.jpg"}', "line 1: `frames` is str, not list"),
        ("", "it holds no rows"),
    ],
)
def test_bad_rows_are_named(line, message, tmp_path):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        load_json(tmp_path / "rows.jsonl")


def test_cache_keeps_what_was_used_last():
    cache, loads = MediaCache(2), []

    def get(key):
        return cache.get(key, lambda: loads.append(key) or key)

    for key in "abacab":
        get(key)
    assert loads == ["a", "b", "c", "b"]
    nothing = MediaCache(0)
    nothing.get("a", lambda: loads.append("a"))
    nothing.get("a", lambda: loads.append("a"))
    assert loads[-2:] == ["a", "a"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_come_upright(orientation, suffix, tmp_path):
    """Turned and mirrored as cameras do; their size, their masks and what check-data says follow."""
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :20] = 250  # nothing else is near the upper left corner
    upright[30:, 40:] = 120
    # What a camera stores of it: the inverse of what a viewer does.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    stored = stored.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else stored
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    quality = {"lossless": True} if suffix == "webp" else {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    path = str(tmp_path / f"a.{suffix}")
    stored.save(path, exif=exif, **quality)
    row = {"id": "a", "reference": "x", "frames": [path], "masks": [encode_rle(np.ones((40, 60), np.uint8))]}
    read = load_frames(row, num_frames=1)[0]
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() < 12
    assert frame_size(row) == (40, 60)
    assert find_problems([row]) == []
    sideways = {**row, "masks": [encode_rle(np.ones((60, 40), np.uint8))]}
    assert "40x60 pixels, but the clip's frames have 60x40" in find_problems([sideways])[0].text
    # A mask that was made of the photograph with its EXIF is turned like it.
    mask = Image.fromarray(upright[..., 0]).transpose(Image.Transpose(undo[orientation])) if orientation > 1 else None
    if mask is not None and suffix == "png":
        mask.save(tmp_path / "m.png", exif=exif)
        drawn = load_masks({**row, "masks": [str(tmp_path / "m.png")]})[0]
        assert np.array_equal(drawn, upright[..., 0] > 0)


def test_photographs_of_16_bits(tmp_path):
    """Grey levels above 255 are not white."""
    grey = (np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    read = load_frames({"frames": [str(tmp_path / "a.png")]}, num_frames=1)[0]
    assert np.array_equal(read, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))
    Image.fromarray(np.zeros((6, 8), np.float32)).save(tmp_path / "b.tiff")
    row = {"id": "b", "reference": "x", "frames": [str(tmp_path / "b.tiff")], "is_null": True}
    with pytest.raises(DataError, match=r"b.tiff: its pixels are fractions"):
        load_frames(row, num_frames=1)
    assert [problem.kind for problem in find_problems([row])] == ["unreadable"]


def test_broken_exif_is_none(tmp_path):
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0")
    row = {"id": "a", "reference": "x", "frames": [str(tmp_path / "a.jpg")], "is_null": True}
    assert load_frames(row, num_frames=1).shape == (1, 6, 8, 3)
    assert find_problems([row]) == []
