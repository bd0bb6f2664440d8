"""What a report shows of many answers and long curves."""

import json

import numpy as np
from PIL import Image

from aurora_trl.evaluation.gallery import of_distinct_classes
from aurora_trl.evaluation.visualize import draw_curves, read_curves, smooth


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
