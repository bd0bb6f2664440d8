"""What a policy is told about time: when frames are shown, and what it hears of a long sound."""

import re

import numpy as np
import pytest
import soundfile
from PIL import Image
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl.data.media.loading import frame_indices, frame_seconds, taken_frames
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.feature_store import clip_digest
from aurora_trl.models.policies.timing import extend_seconds, nearest_sound
from aurora_trl.models.processing_aurora import AuroraProcessor

RATE = 16000


def write_images(folder, count):
    paths = []
    for number in range(count):
        paths.append(str(folder / f"{number}.jpg"))
        Image.new("RGB", (64, 48), (20 * number, 90, 90)).save(paths[-1])
    return paths


def told_seconds(processor, row):
    """The times in the prompt of Qwen3-VL."""
    text = processor.tokenizer.decode(processor.prompt_ids(row, ClipLoader(processor).clip(row)))
    return [float(number) for number in re.findall(r"< ?([\d. ]+?) ?seconds ?>", text.replace(" ", ""))]


def steps_of(times, count=2):
    """What Qwen says of its steps: the middle of each pair of frames, an odd last one alone."""
    return [np.mean(times[i : i + count]) for i in range(0, len(times), count)]


@pytest.mark.parametrize("seconds", [60, 2.5])
def test_qwen3_is_told_the_times_of_a_video(seconds, qwen_checkpoints, tmp_path):
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints["qwen3"])
    count = round(10 * seconds) if seconds < 10 else 61
    stamps = [round(100 * seconds * i / (count - 1)) for i in range(count)]
    path = write_clip(tmp_path / "a.mp4", [20 + i % 200 for i in range(count)], stamps)
    row = {"id": "a", "reference": "it", "video": path, "audio": None, "is_null": True}
    clip = ClipLoader(processor).clip(row)
    taken = taken_frames(row, 10)
    times = [stamps[number] / 100 for number in taken]
    assert times[-1] > 0.9 * seconds
    policy_frames = processor.policy_frames or 10
    assert clip["pixel_grid"][4] == policy_frames
    seen = np.array(times)[_seen(processor)]
    assert told_seconds(processor, row) == pytest.approx(steps_of(seen), abs=0.051)
    assert clip["pixel_grid"][3] == pytest.approx(2000 * np.diff(seen).mean(), abs=30)


def _seen(processor):
    """Which of a clip's ten frames the policy sees."""
    return frame_indices(10, processor.policy_frames or 10)


@pytest.mark.parametrize("sound", [False, True, "qwen3", "omni3"], ids=["vl", "omni", "qwen3", "omni3"])
def test_the_time_of_a_step_is_the_clips(sound, qwen_checkpoints, tmp_path):
    """In the positions, too: a clip of six times the length has six times the time between steps."""
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints[sound])
    milliseconds = []
    for seconds in (10, 60):
        stamps = [round(100 * seconds * i / 30) for i in range(31)]
        path = write_clip(tmp_path / f"{seconds}.mp4", [20 + 5 * i for i in range(31)], stamps)
        clip = ClipLoader(processor).clip({"id": "a", "reference": "it", "video": path})
        milliseconds.append(int(clip["pixel_grid"][3]))
    assert milliseconds[1] == pytest.approx(6 * milliseconds[0], rel=0.01)


def test_times_of_moments_and_of_images(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [60] * 40)
    moments = {"id": "a", "frames": [f"{path}#t={second}" for second in (0.5, 1.25, 3.75)]}
    assert frame_seconds(moments, [0, 2]) == [0.5, 3.75]
    backwards = {"id": "a", "frames": moments["frames"][::-1]}
    assert frame_seconds(backwards, [0, 1]) is None
    images = {"id": "a", "frames": write_images(tmp_path, 5)}
    assert frame_seconds(images, range(5)) is None
    assert frame_seconds(images, range(5), sound_seconds=20.0) == [0, 4, 8, 12, 16]


def test_images_are_spread_over_their_sound(qwen_checkpoints, tmp_path):
    """Deaf policies, too; without sound there is one second between images."""
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints["qwen3"])
    soundfile.write(tmp_path / "a.wav", tone(40, RATE), RATE)
    row = {"id": "a", "reference": "it", "frames": write_images(tmp_path, 10), "audio": str(tmp_path / "a.wav")}
    seen = np.array(_seen(processor))
    assert told_seconds(processor, row) == pytest.approx(steps_of(4.0 * seen), abs=0.051)
    silent = {**row, "audio": None}
    assert told_seconds(processor, silent) == pytest.approx(steps_of(np.arange(len(seen))), abs=0.051)
    assert clip_digest(row, 10, sound=False, times=True) != clip_digest(silent, 10, sound=False, times=True)


def test_what_is_heard_of_a_long_sound():
    """The nearest to the frames, in order, each sample once, and as many as fit."""
    wave = np.arange(600, dtype=np.float32)
    heard = nearest_sound(wave, 100, 10, [3, 9, 15, 21, 27, 33, 39, 45, 51, 57], 10)
    assert heard.reshape(10, 10)[:, 0].tolist() == [25 + 60 * i for i in range(10)]
    assert np.array_equal(heard.reshape(10, 10) - heard.reshape(10, 10)[:, :1], np.tile(np.arange(10), (10, 1)))
    # Frames that stand close together: one stretch around them, none of it twice.
    close = nearest_sound(wave, 100, 10, [30, 31, 32], 3)
    assert np.array_equal(close, np.arange(260, 360))
    # At the ends there is nothing more to hear on one side.
    assert np.array_equal(nearest_sound(wave, 100, 10, [0.0], 1), np.arange(100))
    assert np.array_equal(nearest_sound(wave, 100, 10, [70.0], 1), np.arange(500, 600))
    assert np.array_equal(nearest_sound(wave, 100, 10, None, 2), [*range(125, 175), *range(425, 475)])
    assert nearest_sound(wave, 600, 10, None, 2) is wave
    for length in (1, 7, 333, 599):
        for times in ([1.0, 1.0, 2.0], [59.9, 3.3], [12.34]):
            kept = nearest_sound(wave, length, 10, times, 3)
            assert len(kept) == length
            assert (np.diff(kept) > 0).all()


def test_times_are_extended():
    assert extend_seconds([1.0, 3.0], 4, 9.0) == [1, 3, 5, 7]
    assert extend_seconds([1.0], 3, 2.0) == [1, 3, 5]
    assert extend_seconds(None, 3, 0.5) == [0, 0.5, 1]


@pytest.mark.parametrize("policy", ["videollama2", "omni"])
def test_a_policy_hears_the_end_of_a_long_clip(policy, checkpoint, qwen_checkpoints, tmp_path):
    """The tone is in the last quarter of 24 s, of which the policy hears 4 s."""
    folder = checkpoint if policy == "videollama2" else qwen_checkpoints[True]
    processor = AuroraProcessor.from_pretrained(folder)
    processor.policy_processor.audio_seconds = 4.0
    wave = np.zeros(24 * 48000, np.float32)
    wave[18 * 48000 :] = tone(6, 48000)
    path = write_clip_with_sound(tmp_path / "a.mkv", [(0.0, wave)], codecs=("libx264", "flac"), num_frames=240)
    row = {"id": "a", "reference": "it", "video": path, "audio": None}
    name = "audio_values" if policy == "videollama2" else "audio_features"
    heard = ClipLoader(processor).clip(row)[name].float()
    loud = heard.max(dim=1).values > heard.max() - 0.5 * (heard.max() - heard.min())
    times = np.array(frame_seconds(row, taken_frames(row, 10)))[_seen(processor)]
    moments = nearest_sound(np.arange(24 * RATE), 4 * RATE, RATE, times.tolist(), 10) / RATE
    expected = (moments > 18).mean()
    assert 0.1 < expected < 0.6
    assert loud.float().mean() == pytest.approx(expected, abs=0.1)
