"""The data steps between the phases."""

import pytest
import torch

from aurora_trl import AuroraModel
from aurora_trl.annotation import (
    annotate_file,
    annotate_rows,
    build_reflective_rows,
    correct_file,
    correct_rows,
    get_annotator,
    mine_rows,
)
from aurora_trl.annotation.mining import score_answer
from aurora_trl.data import DataError
from aurora_trl.generation.answer import Answer
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.prompts import REFLECTION_TRIGGERS, ends_with_answer, extract_class, normalize_class, strip_answer


def test_chains_of_thought(rows, annotator):
    annotated = list(annotate_rows(rows, annotator, style="fixed", seed=1))
    assert [row["id"] for row in annotated] == rows["id"]
    for row in annotated:
        assert ends_with_answer(row["target"])
        assert extract_class(row["target"]) == normalize_class(row["class_name"])
    assert annotated == list(annotate_rows(rows, annotator, style="fixed", seed=1))
    with pytest.raises(ValueError, match="unknown style 'free'"):
        next(annotate_rows(rows, annotator, style="free"))


def test_get_annotator(world, tmp_path):
    assert get_annotator(f"synthetic:{world}").world.root == world
    for spec in ("gpt", "synthetic:", ""):
        with pytest.raises(DataError, match="unknown annotator"):
            get_annotator(spec)
    with pytest.raises(DataError):
        get_annotator(f"synthetic:{tmp_path}")


def test_hard_is_wrong_in_mask_and_class(cot_rows, processor):
    """IoU below 0.6 and another class: both, not one of them."""
    loader = ClipLoader(processor)
    row = next(row for row in cot_rows if not row["is_null"] and loader.masks(row).flatten(1).any(1).all())
    target = loader.masks(row).float()
    good, bad = 10 * (2 * target - 1), torch.full_like(target, -10.0)
    right = f"So the target is the {row['class_name']}. It is [SEG]."
    wrong = "So the target is the submarine. It is [SEG]."
    verdicts = {
        (name, text): score_answer(Answer(row, text, mask, 5), loader).is_hard()
        for name, mask in {"good": good, "bad": bad, "none": None}.items()
        for text in (right, wrong)
    }
    assert verdicts == {
        ("good", right): False,
        ("good", wrong): False,
        ("bad", right): False,
        ("bad", wrong): True,
        ("none", right): False,
        ("none", wrong): True,
    }


@pytest.mark.parametrize("class_name", ["null", None, "dog"])
def test_where_nothing_fits_an_answer_is_hard_that_names_and_draws_something(cot_rows, processor, class_name):
    """It is right to draw nothing there, with `[SEG]` or without, whatever the row calls its class."""
    loader = ClipLoader(processor)
    row = {**next(row for row in cot_rows if row["is_null"]), "class_name": class_name}
    nothing = torch.full(loader.masks(row).shape, -10.0)
    answers = {
        "So the target is null. Nothing fits.": None,
        "Nothing fits.": None,
        "So the target is null. It is [SEG].": nothing,
        "So the target is the drum. It is [SEG].": nothing,
        "So the target is the dog. It is [SEG].": -nothing,
    }
    hard = [score_answer(Answer(row, text, drawn, 5), loader).is_hard() for text, drawn in answers.items()]
    assert hard == [False, False, False, False, True]


def test_frames_that_are_not_annotated_have_no_iou(cot_rows, processor):
    """As in AVSBench's training split, where the first of five frames is annotated: 1, not 1/10."""
    loader = ClipLoader(processor)
    row = next(row for row in cot_rows if not row["is_null"] and loader.masks(row).flatten(1).any(1).all())
    target = loader.masks(row).float()
    drawn = torch.cat([10 * (2 * target[:1] - 1), torch.full_like(target[1:], 10.0)])
    assert score_answer(Answer(row, "", drawn, 5), loader).iou < 0.5
    first_alone = {**row, "masks": [row["masks"][0], *[None] * 9]}
    assert score_answer(Answer(first_alone, "", drawn, 5), loader).iou == 1.0


def test_mined_corrected_and_mixed(drawing_checkpoint, cot_rows, processor, annotator):
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    rows = [row for row in cot_rows if not row["is_null"]][:6]
    mined = list(mine_rows(model, processor, rows, batch_size=4, max_new_tokens=10))
    assert [answer.row["id"] for answer in mined] == [row["id"] for row in rows]
    hard = [answer.row for answer in mined if answer.is_hard()]
    assert len(hard) == 6  # it writes no more than the answer, and names no class
    assert hard[0]["target"] != rows[0]["target"]
    pairs = list(correct_rows(hard, annotator))
    assert len(pairs) == 6
    for wrong, corrected in pairs:
        assert extract_class(corrected["target"]) == normalize_class(wrong["class_name"])
    mixed = build_reflective_rows(pairs, cot_rows.to_list(), plain_per_reflective=2.0, seed=3)
    assert len(mixed) == 18
    assert mixed == build_reflective_rows(pairs, cot_rows.to_list(), plain_per_reflective=2.0, seed=3)
    reflective = [row for row in mixed if row["id"].endswith("#reflective")]
    assert len(reflective) == 6
    for row in reflective:
        assert sum(trigger in row["target"] for trigger in REFLECTION_TRIGGERS) == 1
        assert row["target"].count("[SEG]") == 1
        assert extract_class(row["target"]) == normalize_class(row["class_name"])
    read = build_reflective_rows(pairs, cot_rows.to_list(), plain_per_reflective=2.0, learn_mistakes=False, seed=3)
    wrong = {row["id"]: strip_answer(row["target"]) for row in hard}
    for learnt, row in zip(mixed, read, strict=True):  # the same mix; where the wrong path stands differs
        assert learnt["id"] == row["id"]
        assert learnt["target"] == " ".join(filter(None, (row.get("prefill"), row["target"])))
        assert row.get("prefill") == wrong.get(row["id"].removesuffix("#reflective") if "#" in row["id"] else None)
    with pytest.raises(DataError, match="no hard sample"):
        build_reflective_rows([], cot_rows.to_list())


def test_a_correction_that_names_another_class_is_left_out(cot_rows, annotator):
    class Stubborn:
        def correct(self, row, text):
            return text

    wrong = {**cot_rows[0], "target": "So the target is the submarine. It is [SEG]."}
    assert list(correct_rows([wrong], Stubborn())) == []


def test_an_annotator_of_ones_own(cot_rows, tmp_path):
    """Four members; text alone is an answer. What it can not do is listed with the reason."""

    class Person:
        settings = {"annotator": "person"}
        metered = False

        def reasoning(self, row, *, style="flexible", seed=0, problem=None):
            # The second time it reads what was wrong with the first.
            name = row["class_name"] if problem and "names `boat`" in problem else "boat"
            return f"I looked at the clip and listened to it twice. So the target is the {name}."

        def correct(self, row, text, *, seed=0, problem=None):
            return f"{text.split('.')[0]} once more, with care. So the target is the {row['class_name']}."

    rows = [row for row in cot_rows if not row["is_null"]][:3]
    summary = annotate_file(rows, Person(), tmp_path / "cot.jsonl")
    assert (summary.written, summary.failed) == (3, 0)
    hard = [{**row, "target": "I see a boat on a lake. So the target is the boat. It is [SEG]."} for row in rows]
    result = correct_file(hard, Person(), tmp_path / "corrected.jsonl")
    assert len(result.pairs) == 3
    assert result.report["kinds"]["not_given"] == {"count": 3, "share": 1.0}
