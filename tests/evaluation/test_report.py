"""What a report shows of many answers and long curves."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from aurora_trl.evaluation.gallery import of_distinct_classes, render_clip
from aurora_trl.evaluation.visualize import draw_curves, read_curves, smooth
from aurora_trl.generation.video_writer import VideoWriter


def test_pictures_are_of_distinct_classes_first():
    answers = [{"class_name": name, "j": j} for j, name in enumerate(["drum", "drum", "bell", "drum", "harp"])]
    assert [a["j"] for a in of_distinct_classes(answers, 2)] == [0, 2]
    assert [a["j"] for a in of_distinct_classes(answers, 4)] == [0, 2, 4, 1]
    assert [a["j"] for a in of_distinct_classes(answers[:2], 3)] == [0, 1]
    assert of_distinct_classes([], 3) == []


def test_smoothing_by_hand():
    values = [0.0, 10.0] * 20  # windows of two steps on either side
    smoothed = smooth(values)
    assert smoothed[0] == np.mean(values[:3])
    assert smoothed[20] == np.mean(values[18:23])
    assert smoothed[-1] == np.mean(values[-3:])
    assert smooth([3.0]) == [3.0]
    gaps = smooth([np.nan, 1.0, np.inf, *values])  # what is no number takes nothing from those after it
    assert gaps[0] == 1.0
    assert np.isfinite(gaps).all()
    assert gaps[-1] == smoothed[-1]
    assert np.isnan(smooth([np.nan])).all()


def test_a_phase_has_one_color_in_all_panels(tmp_path):
    states = []
    for phase, names in (("teacher", ["loss"]), ("sft", ["loss", "distillation_loss"])):
        history = [{"step": step, **dict.fromkeys(names, float(step))} for step in range(1, 6)]
        state = tmp_path / f"{phase}.json"
        state.write_text(json.dumps({"log_history": history}))
        states.append((phase, state))
    picture = draw_curves(read_curves(states, ["distillation_loss"]), tmp_path / "curves.png")
    colors = set(map(tuple, np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).tolist()))
    assert (230, 159, 0) in colors  # the second phase's
    assert (0, 114, 178) not in colors  # the first, the teacher's


@pytest.mark.parametrize("shape", [(8, 17000), (3000, 7), (1, 1), (90, 121)])
def test_a_clip_of_any_shape_can_be_shown(shape, tmp_path):
    """A strip, a tall one, a pixel: no encoder takes 90,000 pixels side by side, and the report comes last of all."""
    frames = np.full((2, *shape, 3), 200, np.uint8)
    masks = np.zeros((2, *shape), np.uint8)
    content = render_clip(frames, masks, masks, [0.0, 0.04], None, 16000)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert stream.width <= 2 * 1280 + 6
        assert stream.height <= 180
    with VideoWriter(tmp_path / "overlay.mp4", shape) as writer:
        for seconds in (0.0, 0.1):
            writer.add(frames[0], seconds)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        shown = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    assert len(shown) == 2
    assert max(shown[0].shape) <= 16384
    assert abs(float(shown[0].mean()) - 200) < 3
