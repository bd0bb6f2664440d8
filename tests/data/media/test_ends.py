"""Files that end before they say so are named, before training too; whole ones of any writer are read."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl.data import DataError
from aurora_trl.data.media.loading import load_audio, load_frames, measure_sound_seconds
from aurora_trl.data.media.streaming import open_sound
from aurora_trl.data.validation import find_problems

RATE = 16000
# Of libsndfile, with a codec; of FFmpeg, by the file's ending.
WRITTEN = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
MUXED = {"mka": "aac", "mkv": "flac", "webm": "libopus", "m4a": "aac"}


def noise(seconds, rate=RATE):
    """What no codec makes small."""
    return tone(seconds, rate) + 0.1 * np.random.default_rng(0).standard_normal(seconds * rate).astype(np.float32)


def write_sound(folder, suffix):
    path = folder / f"a.{suffix}"
    if suffix in MUXED:
        write_clip_with_sound(path, [(0.0, noise(2, 48000))], codecs=(None, MUXED[suffix]))
    else:
        soundfile.write(path, noise(2), RATE, format=WRITTEN[suffix][0], subtype=WRITTEN[suffix][1])
    return path


def stream_sound(codec, container_format, **options):
    """The bytes of a file whose writer could not go back to its header."""

    class Pipe:
        def __init__(self):
            self.content = bytearray()

        def write(self, part):
            self.content += part
            return len(part)

    pipe, wave = Pipe(), noise(2)
    with av.open(pipe, "w", format=container_format, options=options) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        for start in range(0, len(wave), 1152):
            whole = av.AudioFrame.from_ndarray(wave[None, start : start + 1152], format="fltp", layout="mono")
            whole.sample_rate, whole.pts = RATE, start
            for frame in av.AudioResampler(stream.codec_context.format.name, "mono", RATE).resample(whole):
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return bytes(pipe.content)


def row_of(**media):
    return {"id": "a", "reference": "x", "is_null": True, **media}


def kinds(row, **how):
    return [problem.kind for problem in find_problems([row], **how)]


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "0.png")
    return str(tmp_path / "0.png")


@pytest.mark.parametrize("suffix", [*WRITTEN, *MUXED])
def test_a_sound_that_is_cut_short_is_never_a_shorter_one(suffix, picture, tmp_path):
    path = write_sound(tmp_path, suffix)
    row = row_of(frames=[picture], audio=str(path))
    whole = path.read_bytes()
    assert kinds(row) == kinds(row, thorough=False) == []
    assert measure_sound_seconds(row) == pytest.approx(2, abs=0.03)
    for share in (0.4, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        for thorough in (True, False):
            (problem,) = find_problems([row], thorough=thorough)
            assert problem.kind == ("unreadable" if suffix == "flac" else "cut short")
            assert problem.text.startswith(str(path))
        with pytest.raises(DataError, match=f"a.{suffix}: "):
            load_audio(row, sampling_rate=RATE)
        with pytest.raises(DataError, match=f"a.{suffix}: "), open_sound(row) as sound:
            list(sound[0])


@pytest.mark.parametrize("suffix", [*WRITTEN, *MUXED])
def test_what_stands_behind_the_end_of_a_sound_is_no_fault(suffix, picture, tmp_path):
    path = write_sound(tmp_path, suffix)
    row = row_of(frames=[picture], audio=str(path))
    whole = load_audio(row, sampling_rate=RATE)
    path.write_bytes(path.read_bytes() + b"TAG" + b"a title".ljust(125, b"\0"))
    assert kinds(row, thorough=False) == []
    heard = load_audio(row, sampling_rate=RATE)
    assert np.abs(heard[: len(whole)] - whole).max() < 1e-3
    assert len(heard) - len(whole) in (0, 64)  # libsndfile takes it for samples in W64


def put(content, place, number, order="little"):
    return content[:place] + number.to_bytes(4, order) + content[place + 4 :]


def without_end(content):
    """An Ogg file as Android's writer leaves it: whole pages, none of them marked as the last."""
    return content[: content.rindex(b"OggS")]


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        ("wav", lambda content: put(content, 4, 0)),
        ("wav", lambda content: put(content, 4, 0xFFFFFFFF)),
        ("wav", lambda content: put(content, 4, 0x7FFFF024)),  # SoX and eSpeak into a pipe
        ("wav", lambda content: put(content, 4, len(content))),  # the header counted, too
        ("aiff", lambda content: put(content, 4, 0xFFFFFFFF, "big")),
        ("au", lambda content: put(content, 8, 0xFFFFFFFF, "big")),
        ("opus", lambda content: without_end(stream_sound("libopus", "ogg", page_duration="20000"))),
        ("mp3", lambda content: b"ID3\4\0\0\0\0\2\0" + bytes(256) + content),
        ("mp3", lambda content: stream_sound("libmp3lame", "mp3", write_xing="0")),
        ("mp3", lambda content: content[content.index(content[:2], 4) :]),  # without the frame that says its length
        ("flac", lambda content: stream_sound("flac", "flac")),
        ("mka", lambda content: stream_sound("aac", "matroska", live="1")),
        ("webm", lambda content: stream_sound("libopus", "webm", live="1")),
        ("m4a", lambda content: stream_sound("aac", "mp4", movflags="frag_keyframe+empty_moov")),
    ],
)
def test_a_sound_that_does_not_say_where_it_ends_is_read_to_its_end(suffix, change, picture, tmp_path):
    """The length of an MP3 without one is no longer guessed from the rate of its first frame."""
    path = write_sound(tmp_path, suffix)
    path.write_bytes(change(path.read_bytes()))
    row = row_of(frames=[picture], audio=str(path))
    assert kinds(row) == kinds(row, thorough=False) == []
    assert len(load_audio(row, sampling_rate=RATE)) / RATE == pytest.approx(2, abs=0.15)
    assert measure_sound_seconds(row) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", {"movflags": "faststart"}), ("a.mp4", {"movflags": "frag_keyframe"}), ("a.mkv", {}), ("a.avi", {})],
    ids=["mp4", "fragments", "mkv", "avi"],
)
@pytest.mark.parametrize("num_frames", [10, 100])
def test_a_video_without_its_last_frames_is_named(num_frames, name, options, tmp_path):
    path = Path(write_clip(tmp_path / name, [20 + i for i in range(num_frames)], container_options=options))
    row, whole = row_of(video=str(path)), path.read_bytes()
    for share in (0.3, 0.6, 0.85, 0.92):
        path.write_bytes(whole[: int(share * len(whole))])
        for thorough in (True, False):
            assert kinds(row, thorough=thorough) == ["cut short"], share
        with pytest.raises(DataError, match=f"{name}: the video is cut short"):
            load_frames(row, num_frames=10)
    path.write_bytes(whole + b"what an editor adds" * 5000)
    assert kinds(row) == kinds(row, thorough=False) == []
    assert len(load_frames(row, num_frames=100, pad=False)) == num_frames


def jpeg(size=(400, 400), **options):
    file = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=60, **options)
    return file.getvalue()


def test_the_end_of_a_photograph_is_its_own(tmp_path):
    """Not that of the small picture in its header; and telephones put a video behind it."""
    path, small = tmp_path / "a.jpg", jpeg((60, 60))
    row = row_of(frames=[str(path)])
    for content in (jpeg(exif=b"Exif\0\0" + small), jpeg(progressive=True)):
        for behind in (b"", bytes(400_000)):
            path.write_bytes(content + behind)
            assert kinds(row) == kinds(row, thorough=False) == []
            assert load_frames(row, num_frames=1).shape == (1, 400, 400, 3)
        for share in (0.02, 0.3, 0.9):
            path.write_bytes(content[: int(share * len(content))])
            assert kinds(row) == kinds(row, thorough=False) == ["cut short"]


@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_the_end_of_other_pictures(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.open(BytesIO(jpeg())).save(path)
    row, whole = row_of(frames=[str(path)]), path.read_bytes()
    path.write_bytes(whole + bytes(100_000))
    assert kinds(row) == kinds(row, thorough=False) == []
    path.write_bytes(whole[: int(0.9 * len(whole))])
    assert kinds(row) == kinds(row, thorough=False) == ["cut short"]


@pytest.mark.parametrize(
    ("key", "name"), [("video", "a.mp4"), ("audio", "a.wav"), ("frames", "a.jpg"), ("masks", "m.png")]
)
def test_a_pointer_of_git_lfs_is_named(key, name, picture, tmp_path):
    """A clone without its large files has one in place of each."""
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    row = {**row_of(frames=[picture]), key: str(path) if key in ("video", "audio") else [str(path)]}
    row["frames"] = None if key == "video" else row["frames"]
    row["is_null"] = key != "masks"
    (problem,) = find_problems([row], thorough=False)
    assert (problem.kind, problem.stops_training) == ("unreadable", True)
    assert problem.text.startswith(f"{path}: a pointer of Git LFS in place of the ")
    assert problem.text.endswith("fetch it with `git lfs pull`")


def test_text_is_no_video(tmp_path):
    """FFmpeg draws it, as old terminals did."""
    (tmp_path / "a.txt").write_text("hello world\n" * 100)
    with pytest.raises(DataError, match=r"a.txt: it is text, and no video"):
        load_frames({"video": str(tmp_path / "a.txt")}, num_frames=2)
