"""Scores of references to objects in videos, against plain transcriptions of what the benchmarks publish."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import blob, write_image
from scipy import ndimage
from video_layouts import rle, write_mevis, write_omniavs, write_refcoco, write_revos

from aurora_trl.cli import main
from aurora_trl.data import DataError, find_source, save_json
from aurora_trl.data.masks import load_masks
from aurora_trl.evaluation.metrics import PROTOCOLS, SegmentationMetrics
from aurora_trl.evaluation.scoring import MaskScorer, require_scorable
from aurora_trl.generation.answer import Answer


def region(target, drawn):
    """J of each frame, as the benchmark of DAVIS 2017 defines it."""
    union = np.logical_or(target, drawn).sum((1, 2))
    shared = np.logical_and(target, drawn).sum((1, 2))
    return np.array([s / u if u else 1.0 for s, u in zip(shared, union, strict=True)])


def edges(mask):
    """A pixel is an edge where it differs from the one to the right, below, or both; the last one never is."""
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    edge[-1, -1] = False
    return edge


def boundary(target, drawn):
    """F of each frame: edges match where the others, widened by a disk, cover them."""
    scores = []
    for theirs, ours in zip(map(edges, target), map(edges, drawn), strict=True):
        radius = math.ceil(0.008 * math.hypot(*theirs.shape))
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        disk = x**2 + y**2 <= radius**2
        precision = (ours & ndimage.binary_dilation(theirs, disk)).sum() / ours.sum() if ours.any() else 1.0
        recall = (theirs & ndimage.binary_dilation(ours, disk)).sum() / theirs.sum() if theirs.any() else 1.0
        if ours.any() != theirs.any():
            precision, recall = float(not ours.any()), float(not theirs.any())
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.array(scores)


def accuracy(target, drawn):
    return (target == drawn).mean((1, 2))


def robustness(target, drawn, foreground):
    wrong = (drawn & ~target).sum((1, 2))
    return np.maximum(1 - wrong / (foreground.sum((1, 2)) + 1e-6), 0)


def make_references(count, seed=0, frames=4, size=40):
    """Blobs, guesses of them and all that is an object; of the last one the target is empty throughout."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count * frames, 1, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, (size, size), mode="bilinear")[:, 0]
    smooth = smooth.view(count, frames, size, size)
    target = (smooth > 0.4).numpy()
    foreground = target | (smooth < -1).numpy()
    logits = 4 * smooth + 2 * torch.randn(smooth.shape, generator=generator)
    target[-1] = False
    if frames > 2:
        target[0, 1] = False  # the object leaves the frame
        logits[1, 2] = -9.0  # nothing is drawn
    return logits, target, foreground


def score(protocol, logits, target, **kwargs):
    metrics = SegmentationMetrics(protocol)
    metrics.update(logits, torch.from_numpy(target), **kwargs)
    return metrics.compute()


@pytest.mark.parametrize("seed", range(2))
def test_each_reference_counts_alike(seed):
    """Ref-YouTube-VOS, Ref-DAVIS17 and MeViS: means over a reference's frames, then over references."""
    logits, target, _ = make_references(5, seed)
    drawn = (logits > 0).numpy()
    scores = score("rvos", logits, target)
    j = np.mean([region(t, d).mean() for t, d in zip(target, drawn, strict=True)])
    f = np.mean([boundary(t, d).mean() for t, d in zip(target, drawn, strict=True)])
    assert [scores["J"], scores["F"], scores["J&F"]] == pytest.approx([j, f, (j + f) / 2], abs=1e-6)
    # A short one as much as a long one.
    metrics = SegmentationMetrics("rvos")
    metrics.update(torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    metrics.update(-torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    assert metrics.compute()["J"] == 0.5


@pytest.mark.parametrize("seed", range(2))
def test_revos_is_the_mean_of_referring_and_reasoning(seed):
    logits, target, foreground = make_references(6, seed)
    drawn = (logits > 0).numpy()
    kinds = ["referring", "reasoning", "referring", "referring", "reasoning", "null"]
    scores = score("revos", logits, target, foreground=torch.from_numpy(foreground), kinds=kinds)
    each = {
        "J": [region(t, d).mean() for t, d in zip(target, drawn, strict=True)],
        "F": [boundary(t, d).mean() for t, d in zip(target, drawn, strict=True)],
        "A": [accuracy(t, d).mean() for t, d in zip(target, drawn, strict=True)],
        "R": [robustness(t, d, o).mean() for t, d, o in zip(target, drawn, foreground, strict=True)],
    }
    for name, values in each.items():
        by_kind = {kind: np.mean([v for v, k in zip(values, kinds, strict=True) if k == kind]) for kind in set(kinds)}
        assert scores[name] == pytest.approx((by_kind["referring"] + by_kind["reasoning"]) / 2, abs=1e-6)
        for kind, value in by_kind.items():
            assert scores[f"{name}/{kind}"] == pytest.approx(value, abs=1e-6)
    assert scores["J&F"] == pytest.approx((scores["J"] + scores["F"]) / 2)


def test_kinds_have_errors_as_they_have_means():
    """Two kinds that count alike: J 1 and 0 of one, 1 of the other. Each counts by its kind's mean."""
    masks = torch.ones(3, 1, 4, 4)
    metrics = SegmentationMetrics("omniavs")
    logits = torch.stack([masks[0], -masks[0], masks[0]])
    metrics.update(logits, masks, index=[0, 1, 2], kinds=["text", "text", "speech"])
    assert metrics.compute()["J"] == 0.75
    spread = (0.5 * 0.5) ** 2 + (0.5 * -0.5) ** 2 + (1 * 0.0) ** 2
    assert metrics.standard_errors(dict(enumerate("abc")))["J"] == pytest.approx(math.sqrt(3 / 2 * spread) / 2)


def test_robustness_by_hand():
    target, foreground = torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5)
    target[0, 0, 0] = 1  # 5 pixels
    foreground[0, :, :2] = 1  # 10 pixels
    logits = torch.full((1, 2, 4, 5), -1.0)
    logits[0, 0, 0] = 1.0
    logits[0, 0, 1, :3] = 1.0  # 3 beside the target: 1 - 3 / 10
    logits[0, 1] = 1.0  # 20 of nothing: not less than 0
    scores = score("revos", logits, target.numpy(), foreground=foreground, kinds=["reasoning"])
    assert scores["R"] == pytest.approx(0.35)
    assert scores["A"] == pytest.approx((17 / 20 + 0) / 2)


def test_omniavs_is_the_mean_over_kinds_and_a_clip_without_a_target_is_right_or_wrong():
    logits, target, _ = make_references(6)
    logits[-1] = -1.0
    logits[-1, 2, 3, 3] = 1.0  # one pixel in one frame
    drawn = (logits > 0).numpy()
    kinds = ["text", "text", "speech", "text_image", "text", "speech"]
    scores = score("omniavs", logits, target, kinds=kinds)
    j, f = ([m(t, d).mean() for t, d in zip(target, drawn, strict=True)] for m in (region, boundary))
    j[-1] = f[-1] = 0.0
    for name, values in (("J", j), ("F", f)):
        each = [np.mean([v for v, k in zip(values, kinds, strict=True) if k == kind]) for kind in dict.fromkeys(kinds)]
        assert scores[name] == pytest.approx(np.mean(each), abs=1e-6)
    logits[-1, 2, 3, 3] = -1.0
    assert score("omniavs", logits, target, kinds=kinds)["J/speech"] == pytest.approx((j[2] + 1) / 2, abs=1e-6)


def test_references_to_photographs():
    logits, target, _ = make_references(7, frames=1)
    target[-1, 0, :3] = True
    drawn = (logits > 0).numpy()
    shared, union = (op(target, drawn).sum((1, 2, 3)) for op in (np.logical_and, np.logical_or))
    scores = score("refcoco", logits, target)
    assert scores == {
        "gIoU": pytest.approx(np.mean(shared / union)),
        "cIoU": pytest.approx(shared.sum() / union.sum()),
    }
    assert PROTOCOLS["refcoco"].headline == "cIoU"


def test_misuse_is_named():
    logits, target, foreground = make_references(2)
    with pytest.raises(ValueError, match="`revos` needs the foreground of each video: give `foreground`"):
        score("revos", logits, target, kinds=["referring"] * 2)
    metrics = SegmentationMetrics("revos")
    metrics.update(logits, torch.from_numpy(target), foreground=torch.from_numpy(foreground), kinds=["null"] * 2)
    with pytest.raises(ValueError, match="`revos` averages over referring, reasoning, and there are null alone"):
        metrics.compute()


def test_rows_of_revos_are_scored_with_their_foreground_and_kind(tmp_path):
    root = write_revos(tmp_path)
    rows = find_source(root).load("valid").to_list()
    scorer = MaskScorer(PROTOCOLS["revos"])
    require_scorable(rows, scorer.rules)
    again = MaskScorer(PROTOCOLS["revos"])
    for number, row in enumerate(rows):
        masks = torch.from_numpy(load_masks(row)).float()
        assert scorer.add(Answer(row, "It is [SEG].", 40 * masks - 20, 3), number, 3)["J"] == 1.0
        again.restore(row, number, scorer.metrics.kept(number))
    clips = dict(enumerate("abc"))
    scores = scorer.compute(clips)
    assert [scores[name] for name in ("A", "R", "J", "F", "J&F/null")] == [1.0] * 5
    assert scores["errors"] == dict.fromkeys(("A", "R", "J", "F", "J&F", "S"), pytest.approx(0, abs=0.2))
    assert again.compute(clips) == scores
    (root / "mask_dict_foreground.json").unlink()
    with pytest.raises(DataError, match="'MOSE/birds_0': it has no `foreground_masks`, which the protocol"):
        require_scorable(find_source(root).load("valid").to_list(), scorer.rules)
    with pytest.raises(DataError, match="`omniavs` averages over text, .* and no row says in `reference_kind`"):
        require_scorable(rows, PROTOCOLS["omniavs"])


@pytest.mark.parametrize(
    ("write", "options", "headline"),
    [
        (write_mevis, ["--protocol", "rvos", "--splits", "valid_u"], "J&F"),
        (write_revos, ["--protocol", "revos", "--splits", "valid"], "J&F"),
        (write_omniavs, ["--protocol", "omniavs", "--subset", "text"], "J&F"),
        (write_refcoco, ["--protocol", "refcoco", "--splits", "val"], "cIoU"),
    ],
    ids=["mevis", "revos", "omniavs", "refcoco"],
)
def test_the_command_scores_each_dataset(write, options, headline, checkpoint, tmp_path, capsys):
    data = write(tmp_path / "data")
    arguments = ["evaluate", str(checkpoint), "--data", str(data), *options, "--max-new-tokens", "3"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    scores = next(iter(metrics["splits"].values()))
    assert headline in scores
    if write is write_revos:
        assert set(scores["by_kind"]) == {"referring", "reasoning", "null"}
        assert "R/reasoning" in scores


def test_all_frames_of_a_long_clip_get_a_score(checkpoint, tmp_path):
    """The model takes 10 frames; of 25 all are drawn and scored, and it looks at as many as before."""
    row = {"id": "1", "reference": "the bird", "is_null": False}
    row["frames"] = [str(tmp_path / f"{i}.png") for i in range(25)]
    row["masks"] = [json.dumps(rle(blob(0)))] * 25
    for i, frame in enumerate(row["frames"]):
        write_image(Path(frame), 10 * i)
    file = save_json([row], tmp_path / "test.jsonl")
    found = {}
    for wanted in (None, "all", "12"):
        out = tmp_path / f"out_{wanted}"
        arguments = ["evaluate", str(checkpoint), "--data", str(file), "--splits", "train", "--protocol", "rvos"]
        arguments += ["--output", str(out), "--max-new-tokens", "3"]
        assert main([*arguments, *([] if wanted is None else ["--num-frames", wanted])]) == 0
        answer = json.loads((out / "answers.jsonl").read_text())
        found[wanted] = (len(answer["masks"]), answer["completion"])
    assert [count for count, _ in found.values()] == [10, 25, 12]
    assert found[None][1] == found["all"][1]  # the same frames lead to the same words


def test_a_reference_that_a_policy_can_not_take_is_refused_before_anything_is_answered(
    qwen_checkpoints, tmp_path, capsys
):
    data = write_omniavs(tmp_path / "data")
    arguments = ["evaluate", str(qwen_checkpoints[False]), "--data", str(data), "--protocol", "omniavs"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: row 'hall_3': it has a `reference_speech`, and the policy does not hear")
    assert "the subsets `text` and `text_image` have none" in line
