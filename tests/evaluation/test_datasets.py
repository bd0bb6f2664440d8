"""`aurora evaluate` takes every dataset that training takes, by every protocol."""

import json

import pytest
import torch
from layouts import write_avss, write_ms3, write_reasonseg, write_s4

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_avsbench
from aurora_trl.data.masks import load_masks
from aurora_trl.evaluation.metrics import PROTOCOLS, get_protocol
from aurora_trl.evaluation.report import write_report
from aurora_trl.evaluation.scoring import ClassScorer, MaskScorer, scored_frames
from aurora_trl.generation.answer import Answer


@pytest.mark.parametrize(
    ("write", "options", "headline"),
    [
        (write_s4, ["--protocol", "avsbench"], "J&F"),
        (write_ms3, ["--protocol", "davis", "--format", "avsbench"], "J&F"),
        (write_avss, ["--protocol", "avss"], "mIoU"),
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
    scorer = MaskScorer(PROTOCOLS["davis"])
    assert scorer.add(Answer(row, "It is [SEG].", logits, 3), 0, 10)["J"] == 1.0
    assert scorer.compute()["J"] == 1.0
    first = load_avsbench(tmp_path, "s4", "train")[0]  # of which the first frame alone is annotated
    assert scored_frames(first, 2) == ([0], [0])
    with pytest.raises(DataError, match="none of the 2 frames that the model takes is annotated"):
        scored_frames({**first, "masks": [None] * 5}, 2)


def test_classes_are_painted_where_the_mask_is(tmp_path):
    rows = load_avsbench(write_avss(tmp_path), "avss", "test").to_list()
    scorer = ClassScorer(PROTOCOLS["avss"])
    for place, (row, said) in enumerate(zip(rows, ("class 9", "class 8"), strict=True)):
        masks = torch.from_numpy(load_masks(row)).float()
        answer = Answer(row, f"So the target is the {said}. It is [SEG].", 40 * masks - 20, 9)
        assert scorer.add(answer, place, len(masks))["J"] > 0.9  # the mask is right, whatever it is called
    by_class = scorer.compute()["by_class"]
    assert by_class["class 9"] == pytest.approx(10 / 15, abs=0.05)  # right in 10 frames, not named in 5
    assert by_class["class 8"] == 0.0
    with pytest.raises(DataError, match="needs rows of AVSBench's `avss`"):
        scorer.add(Answer({"id": "a", "masks": ["x/m.png"]}, "", None, 0), 9, 10)


def test_unknown_protocol_is_one_line(checkpoint, world, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint), "--data", str(world), "--output", str(tmp_path / "o")]
    assert main([*arguments, "--protocol", "davos"]) == 1
    assert "error: unknown protocol 'davos'; use one of refavs, aurora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("splits", "ids", "message"),
    [
        (("test_s", "test_u"), "xx", "has scores of test_s, .* of test_u: evaluate one of them again with the same"),
        (("test_s", "test_s"), "xy", "answers 'x' of test_s, .* does not: they are of different rows"),
    ],
)
def test_a_report_is_of_the_same_rows(splits, ids, message, tmp_path):
    for name, split, row_id in zip("ab", splits, ids, strict=True):
        (tmp_path / name).mkdir()
        scores = {**dict.fromkeys(("J", "F", "J&F"), 0.5), "rows": 1, "mean_tokens": 3.0, "by_kind": {}}
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"protocol": "refavs", "splits": {split: scores}, "swaps": {}})
        )
        answer = {"id": row_id, "split": split, "swap": None, "j": 0.5, "class_name": None, "masks": []}
        answer |= {"reference": "a reference of\u2028two lines", "completion": "Nothing fits."}
        (tmp_path / name / "answers.jsonl").write_text(json.dumps(answer, ensure_ascii=False) + "\n")
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, {name: tmp_path / name for name in "ab"}, {}, {})


@pytest.mark.parametrize(
    ("protocols", "rows", "message"),
    [
        (("refavs", "davis"), (1, 1), "is scored by `refavs`.*they can not be compared"),
        (
            ("refavs", "refavs"),
            (600, 1200),
            "has the scores of 600 rows of test, .* of 1,200: they can not",
        ),
    ],
    ids=["protocols", "rows"],
)
def test_a_report_does_not_mix(protocols, rows, message, tmp_path):
    for name, protocol, count in zip("ab", protocols, rows, strict=True):
        (tmp_path / name).mkdir()
        scores = {
            **dict.fromkeys(get_protocol(protocol).scores, 0.5),
            "rows": count,
            "mean_tokens": 3.0,
            "by_kind": {},
        }
        content = {"protocol": protocol, "splits": {"test": scores}, "swaps": {}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, {name: tmp_path / name for name in "ab"}, {}, {})
