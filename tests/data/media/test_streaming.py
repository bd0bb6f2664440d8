"""Frames and sound one after the other: those that are read at once, and no more of them in memory."""

import numpy as np
import pytest
import soundfile
from PIL import Image
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl.data import DataError
from aurora_trl.data.media.loading import load_audio
from aurora_trl.data.media.streaming import choose_frames, cut_stream, open_sound, resample_stream, stream_frames
from aurora_trl.data.media.video import index_video, read_frames

LEVELS = [20 + 3 * number for number in range(60)]  # ten a second, a key frame every 12


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", LEVELS)


@pytest.mark.parametrize("numbers", [list(range(60)), [0], [59], [13, 14, 30], list(range(25, 60, 7))])
def test_frames_are_those_that_are_read_at_once(video, numbers):
    streamed = list(stream_frames({"video": video}, numbers))
    assert np.array_equal(np.stack(streamed), read_frames(video, index_video(video), numbers))


def test_listed_frames_and_moments(video, tmp_path):
    paths = []
    for number in range(20):
        paths.append(str(tmp_path / f"{number:02d}.png"))
        Image.new("RGB", (64, 48), (10 * number, 0, 0)).save(paths[-1])
    levels = [int(frame[0, 0, 0]) for frame in stream_frames({"frames": paths}, [0, 3, 17, 19])]
    assert levels == [0, 30, 170, 190]
    moments = [f"{video}#t={second}" for second in (0.5, 2.0)]
    first, second = stream_frames({"frames": moments}, [0, 1])
    assert np.array_equal(first, read_frames(video, index_video(video), [5])[0])
    assert np.array_equal(second, read_frames(video, index_video(video), [20])[0])
    Image.new("RGB", (32, 48)).save(paths[18])
    with pytest.raises(DataError, match=r"18\.png: 32x48 pixels, .*64x48"):
        list(stream_frames({"frames": paths}, range(20)))


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ({}, list(range(60))),
        ({"start": 1.0, "end": 1.5}, [10, 11, 12, 13, 14]),
        ({"fps": 1}, [0, 10, 20, 30, 40, 50]),
        ({"fps": 2, "start": 2.0, "end": 3.6}, [20, 25, 30, 35]),
        ({"fps": 100}, list(range(60))),  # the clip has no more
        ({"fps": 3, "end": 1.0}, [0, 3, 6]),
        ({"start": 5.9}, [59]),
    ],
)
def test_frames_are_chosen_by_rate_and_time(video, chosen, numbers):
    found, seconds = choose_frames({"video": video}, **chosen)
    assert found == numbers
    assert seconds == pytest.approx([number / 10 for number in numbers], abs=1e-3)


def test_what_can_not_be_chosen_is_said(video, tmp_path):
    for chosen in ({"fps": 0}, {"fps": float("nan")}, {"start": -1.0}, {"start": 2.0, "end": 2.0}):
        with pytest.raises(ValueError, match=r"must be"):
            choose_frames({"video": video}, **chosen)
    with pytest.raises(DataError, match=r"between 7 s and the end; its last one is at 5\.90 s"):
        choose_frames({"id": "a", "video": video}, start=7.0)
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    images = {"id": "a", "frames": [str(tmp_path / "0.png")] * 4}
    assert choose_frames(images) == ([0, 1, 2, 3], None)
    with pytest.raises(DataError, match="images without sound have no times"):
        choose_frames(images, fps=1)
    soundfile.write(tmp_path / "a.wav", tone(8, 16000), 16000)
    assert choose_frames({**images, "audio": str(tmp_path / "a.wav")}, end=4.0) == ([0, 1], [0.0, 2.0])


def test_sound_in_pieces_is_the_sound(tmp_path):
    late = write_clip_with_sound(tmp_path / "late.mp4", [(1.5, tone(2, 48000))])
    soundfile.write(tmp_path / "a.wav", tone(3, 22050), 22050)
    for row in ({"video": late}, {"audio": str(tmp_path / "a.wav")}, {"audio": late}):
        with open_sound(row) as sound:
            assert sound is not None
            parts = list(resample_stream(sound[0], sound[1], 16000))
        assert max(map(len, parts)) <= 1.2 * 16000
        whole = load_audio(row, sampling_rate=16000)
        assert sum(map(len, parts)) == len(whole)
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-3)
    with open_sound({"video": write_clip(tmp_path / "mute.mp4", [9] * 5)}) as sound:
        assert sound is None


def test_sound_is_cut_by_the_clock():
    parts = [np.arange(10 * part, 10 * part + 10, dtype=np.float32) for part in range(5)]
    cut = np.concatenate(list(cut_stream(iter(parts), 10, 1.5, 3.2)))
    assert cut.tolist() == list(range(15, 32))
    assert np.concatenate(list(cut_stream(iter(parts), 10, 0.0, None))).tolist() == list(range(50))
