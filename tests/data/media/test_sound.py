"""Sound: where it stands against the pictures, what its channels make, and what is wrong with it."""

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from PIL import Image
from sounds import tone, write_clip_with_sound

from aurora_trl.data import DataError
from aurora_trl.data.media.loading import load_audio
from aurora_trl.data.media.sound import mix_channels, read_track
from aurora_trl.data.media.streaming import open_sound
from aurora_trl.data.validation import find_problems

RATE = 16000
CONTAINERS = [
    ("mp4", ("libx264", "aac")),
    ("mov", ("libx264", "pcm_s16le")),
    ("mkv", ("libx264", "aac")),
    ("mkv", ("libx264", "libmp3lame")),
    ("webm", ("libvpx", "libopus")),
    ("ts", ("libx264", "aac")),
    ("mpg", ("mpeg2video", "mp2")),
    ("flv", ("libx264", "aac")),
]


def onset(wave, rate=RATE):
    return float(np.argmax(np.abs(wave) > 0.05)) / rate


@pytest.mark.parametrize(
    ("suffix", "codecs"), CONTAINERS, ids=lambda value: "-".join(value) if len(value) == 2 else value
)
def test_sound_stands_against_the_pictures(suffix, codecs, tmp_path):
    """Late sound is preceded by silence, what comes before the pictures is left out, a pause stays."""
    late = write_clip_with_sound(tmp_path / f"late.{suffix}", [(1.5, tone(2, 48000))], codecs=codecs)
    wave = load_audio({"video": late}, sampling_rate=RATE)
    assert onset(wave) == pytest.approx(1.5, abs=0.01)
    assert len(wave) / RATE == pytest.approx(3.5, abs=0.06)
    row = {"id": "a", "frames": [f"{late}#t=1.0"], "audio": late}  # by the same clock
    assert np.array_equal(load_audio(row, sampling_rate=RATE), wave)
    early = [(0.0, tone(1, 48000, level=0.2)), (1.0, tone(2, 48000))]
    cut = write_clip_with_sound(tmp_path / f"cut.{suffix}", early, codecs=codecs, picture_start=1.0)
    wave = load_audio({"video": cut}, sampling_rate=RATE)
    assert np.abs(wave[800:8000]).max() > 0.4
    assert len(wave) / RATE == pytest.approx(2, abs=0.06)
    if codecs[1] != "pcm_s16le":  # in MP4 and MOV a pause is not kept by the writer
        pause = [(0.0, tone(0.96, 48000)), (2.4, tone(0.96, 48000))]
        wave = load_audio(
            {"video": write_clip_with_sound(tmp_path / f"pause.{suffix}", pause, codecs=codecs)}, sampling_rate=RATE
        )
        heard = np.abs(wave).reshape(-1)[: 3 * RATE]
        assert heard[int(1.2 * RATE) : int(2.2 * RATE)].max() < 0.02
        assert heard[int(2.5 * RATE) : int(2.9 * RATE)].max() > 0.4


@pytest.mark.parametrize(("defaults", "heard"), [((0, 1), 1), ((1, 0), 0), ((1, 1), 0), ((0, 0), 0)], ids=str)
def test_of_several_tracks_that_is_heard_which_players_play(defaults, heard, tmp_path):
    """As of a film whose first track is a comment; the tracks differ in their level."""
    path = str(tmp_path / "tracks.mkv")
    with av.open(path, "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in defaults]
        for track, default in zip(tracks, defaults, strict=True):
            track.disposition = Disposition.default if default else Disposition.comment
        for track, level in zip(tracks, (0.2, 0.6), strict=True):
            samples = (tone(1, RATE, level=level).reshape(1, -1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    wave = load_audio({"audio": path}, sampling_rate=RATE)
    assert np.abs(wave).max() == pytest.approx((0.2, 0.6)[heard], abs=0.02)


def test_a_sound_without_pictures_begins_where_it_begins(tmp_path):
    path = write_clip_with_sound(tmp_path / "a.mka", [(1.5, tone(2, 48000))], codecs=(None, "libopus"))
    assert onset(load_audio({"audio": path}, sampling_rate=RATE)) < 0.02


def test_sound_that_is_over_before_the_pictures_begin(tmp_path):
    path = write_clip_with_sound(tmp_path / "a.mkv", [(0.0, tone(1, 48000))], picture_start=2.0)
    with pytest.raises(DataError, match=r"a.mkv: it holds no samples"):
        load_audio({"video": path}, sampling_rate=RATE)
    row = {"id": "a", "reference": "x", "video": path, "is_null": True}
    assert [problem.kind for problem in find_problems([row])] == ["empty sound"]


def test_channels_of_opposite_phase_do_not_cancel():
    rate = 48000
    one, other = tone(2, rate), tone(2, rate, 700)
    assert np.array_equal(mix_channels(one[:, None]), one)
    plain = np.stack([one, other], axis=1)
    assert np.array_equal(mix_channels(plain), plain.mean(axis=1))
    for channels in ([one, -one], [0.9 * one, -one], [one, -one, 0 * one, 0 * one, 0 * one, 0 * one]):
        mixed = mix_channels(np.stack(channels, axis=1))
        assert np.abs(mixed).max() == pytest.approx(0.5, abs=0.01)
    # In a part of the time only.
    half = np.stack([one, np.concatenate([one[:rate], -one[rate:]])], axis=1)
    mixed = mix_channels(half)
    assert np.array_equal(mixed[: rate - 8192], one[: rate - 8192])
    assert np.array_equal(mixed[rate + 8192 :], half[rate + 8192 :, 0])
    assert np.abs(mixed).max() <= 0.5
    # A lone channel of six keeps the level of a mean, and silence stays silent.
    lone = np.zeros((rate, 6), np.float32)
    lone[:, 2] = one[:rate]
    assert np.abs(mix_channels(lone)).max() == pytest.approx(0.5 / 6, abs=0.001)
    assert not mix_channels(np.zeros((100, 2), np.float32)).any()


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
def test_any_layout(layout, tmp_path):
    count = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    waves = [(0.0, np.stack([tone(2, 48000)] * count, axis=1))]
    path = write_clip_with_sound(tmp_path / "a.mkv", waves, codecs=("libx264", "flac"), layout=layout)
    assert read_track(path)[0].shape[1] == count
    assert np.abs(load_audio({"video": path}, sampling_rate=RATE)[800:-800]).max() == pytest.approx(0.5, abs=0.02)


def test_what_check_data_hears_is_what_the_model_hears(tmp_path):
    """Silence, and samples that are no numbers, in a file and in a track."""
    wave = np.zeros((2 * RATE, 2), np.float32)
    soundfile.write(tmp_path / "silent.wav", wave, RATE, subtype="FLOAT")
    wave[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    rows = [
        {"id": name, "reference": "x", "frames": ["x.jpg"], "audio": str(tmp_path / f"{name}.wav"), "is_null": True}
        for name in ("silent", "nan")
    ]
    kinds = {problem.kind: problem.text for problem in find_problems(rows) if problem.kind != "missing"}
    assert "it is silent" in kinds["silent sound"]
    assert "nan.wav: some of its samples are no numbers" in kinds["unreadable"]
    with pytest.raises(DataError, match=r"nan.wav: some of its samples are no numbers"):
        load_audio(rows[1], sampling_rate=RATE)


@pytest.mark.parametrize("name", ["codec.wav", "codec.mkv", "a.raw"])
def test_a_sound_of_an_unknown_codec_is_named(name, tmp_path):
    path = tmp_path / name
    if name == "a.raw":
        path.write_bytes(tone(2, RATE).tobytes())
    elif name == "codec.wav":
        soundfile.write(path, tone(2, RATE), RATE)
        content = path.read_bytes()
        path.write_bytes(content[:20] + b"\x77\x77" + content[22:])
    else:
        write_clip_with_sound(path, [(0.0, tone(2, 48000))])
        path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    picture = str(tmp_path / "0.png")
    Image.new("RGB", (32, 24)).save(picture)
    row = {"id": "a", "reference": "x", "frames": [picture], "audio": str(path), "is_null": True}
    for thorough in (True, False):
        (problem,) = find_problems([row], thorough=thorough)
        assert problem.kind == "unreadable"
        assert problem.text.startswith(str(path))
    with pytest.raises(DataError, match=name):
        load_audio(row, sampling_rate=RATE)


def test_pictures_of_an_unknown_codec_are_named(tmp_path):
    path = write_clip_with_sound(tmp_path / "codec.mkv", [(0.0, tone(2, 48000))])
    content = (tmp_path / "codec.mkv").read_bytes()
    (tmp_path / "codec.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_ZZZZZ/ZZZ/ZZZ"))
    row = {"id": "a", "reference": "x", "video": path, "is_null": True}
    for thorough in (True, False):
        assert [problem.kind for problem in find_problems([row], thorough=thorough)] == ["unreadable"]
    assert len(load_audio({"audio": path}, sampling_rate=RATE)) / RATE == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (7.0, True), (32768.0, False), (2.0**31, False)])
@pytest.mark.parametrize("suffix", ["wav", "mka"])
def test_numbers_that_were_never_scaled_are_no_sound(suffix, scale, fits, tmp_path):
    """Samples of 16 bits saved as floats; editors write floats that exceed 1 by little."""
    path, wave = tmp_path / f"a.{suffix}", scale * np.concatenate([np.zeros(RATE, np.float32), tone(2, RATE)])
    if suffix == "wav":
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    else:
        write_clip_with_sound(path, [(0.0, wave)], codecs=(None, "pcm_f32le"), rate=RATE)
    Image.new("RGB", (32, 24)).save(tmp_path / "0.png")
    row = {"id": "a", "reference": "x", "frames": [str(tmp_path / "0.png")], "audio": str(path), "is_null": True}
    if fits:
        assert find_problems([row]) == find_problems([row], thorough=False) == []
        assert np.abs(load_audio(row, sampling_rate=RATE)).max() == pytest.approx(scale / 2, rel=1e-3)
        return
    for thorough in (True, False):
        (problem,) = find_problems([row], thorough=thorough)
        assert f"a.{suffix}: its samples reach {scale / 2:,.0f}, and" in problem.text
        assert problem.stops_training
    with pytest.raises(DataError, match=f"a.{suffix}: its samples reach"):
        load_audio(row, sampling_rate=RATE)
    with pytest.raises(DataError, match=f"a.{suffix}: its samples reach"), open_sound(row) as sound:
        list(sound[0])


def test_a_sound_that_is_over_before_a_sample_is_named(tmp_path):
    """One of them at 192 kHz is none at 16 kHz."""
    soundfile.write(tmp_path / "a.wav", np.full(1, 0.5, np.float32), 192_000)
    with pytest.raises(DataError, match=r"a.wav: 1 samples at 192,000 Hz are no sound"):
        load_audio({"audio": str(tmp_path / "a.wav")}, sampling_rate=16_000)
    assert len(load_audio({"audio": str(tmp_path / "a.wav")}, sampling_rate=192_000)) == 1


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_a_damaged_page_of_ogg_is_no_shorter_sound(subtype, tmp_path):
    """A decoder leaves it out, and what follows is heard up to a second too early."""
    path = tmp_path / "a.ogg"
    wave = np.random.default_rng(0).normal(0, 0.1, 96_000).astype(np.float32)
    soundfile.write(path, wave, 48_000, format="OGG", subtype=subtype)
    content = path.read_bytes()
    assert len(load_audio({"audio": str(path)}, sampling_rate=48_000)) == 96_000
    path.write_bytes(content + b"a tag")
    assert len(load_audio({"audio": str(path)}, sampling_rate=48_000)) == 96_000
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    for page in pages[2:]:
        place = page + 400
        path.write_bytes(
            content[:place] + bytes(byte ^ 0x5A for byte in content[place : place + 8]) + content[place + 8 :]
        )
        with pytest.raises(DataError, match=f"a.ogg: the sound is damaged at byte {page}; restore it"):
            load_audio({"audio": str(path)}, sampling_rate=48_000)
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    row = {"id": "a", "reference": "x", "is_null": True, "frames": [str(tmp_path / "0.png")], "audio": str(path)}
    assert [problem.kind for problem in find_problems([row])] == ["unreadable"]
