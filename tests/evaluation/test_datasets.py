"""`aurora evaluate` takes every dataset that training takes, by every protocol."""

import json

import pytest
import torch
from layouts import write_ms3, write_reasonseg, write_s4

from aurora_trl.cli import main
from aurora_trl.data import load_avsbench
from aurora_trl.data.masks import load_masks
from aurora_trl.evaluation.evaluate import _score_answer
from aurora_trl.evaluation.metrics import SegmentationMetrics
from aurora_trl.evaluation.report import write_report
from aurora_trl.inference import Answer


@pytest.mark.parametrize(
    ("write", "options", "headline"),
    [
        (write_s4, ["--protocol", "avsbench"], "J&F"),
        (write_ms3, ["--protocol", "davis", "--format", "avsbench"], "J&F"),
        (write_reasonseg, ["--protocol", "reasonseg", "--splits", "val"], "gIoU"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_any_dataset_is_scored(write, options, headline, checkpoint, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint), "--data", str(write(tmp_path / "data")), *options]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--max-new-tokens", "3"]) == 0
    protocol = options[1]
    assert f"(protocol {protocol})" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["protocol"] == protocol
    scores = next(iter(metrics["splits"].values()))
    assert headline in scores
    assert scores["class_accuracy"] is None or write is write_s4  # the others name no class
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"Scores by the protocol `{protocol}`" in report
    assert headline in report


def test_frames_past_the_end_of_a_short_clip_have_no_score(tmp_path):
    row = load_avsbench(write_s4(tmp_path), "s4", "val")[0]
    logits = torch.full((10, 24, 32), 20.0)  # all is drawn in the 5 frames that the clip lacks
    logits[:5] = 40 * torch.from_numpy(load_masks(row)).float() - 20
    metrics = SegmentationMetrics("davis")
    record = _score_answer(Answer(row, "It is [SEG].", logits, 3), metrics, 0, 10)
    assert record["j"] == 1.0
    assert metrics.compute()["J"] == 1.0


def test_unknown_protocol_is_one_line(checkpoint, world, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint), "--data", str(world), "--output", str(tmp_path / "o")]
    assert main([*arguments, "--protocol", "davos"]) == 1
    assert "error: unknown protocol 'davos'; use one of refavs, aurora" in capsys.readouterr().err


def test_a_report_does_not_mix_protocols(tmp_path):
    for name in ("refavs", "davis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"protocol": name, "splits": {}, "swaps": {}}))
    with pytest.raises(ValueError, match="they can not be compared"):
        write_report(tmp_path, {name: tmp_path / name for name in ("refavs", "davis")}, {}, {})
