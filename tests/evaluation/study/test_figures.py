"""Figures 8 and 9, and section 7.1, from the files that a chain leaves."""

import json

import pytest

from aurora_trl.annotation.instructions import FAILURE_KINDS
from aurora_trl.evaluation.study.failures import failure_parts, reference_kind
from aurora_trl.evaluation.study.figures import figure_parts
from aurora_trl.evaluation.study.published import FAILURE_COUNTS


def write_state(root, phase, values):
    folder = root / phase
    folder.mkdir(parents=True)
    history = [{"step": i, "reward": v, "reward_std_in_group": v / 2} for i, v in enumerate(values, 1)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [*history, {"step": 99}]}))


def test_curves_with_and_without_the_reflective_phase(tmp_path):
    assert figure_parts([tmp_path]) == []
    roots = [tmp_path / "1", tmp_path / "2"]
    for root, shift in zip(roots, (0.0, 1.0), strict=True):
        write_state(root, "grpo", [shift + i for i in range(20)])
    text = "\n".join(figure_parts(roots))
    # The first and the last two of twenty steps, over two seeds.
    assert "| reward | 1.00 to 19.00 |" in text
    write_state(roots[0], "grpo-no-reflective", [5.0] * 20)
    # Of the seed that has both.
    assert "| reward | 0.50 to 18.50 | 5.00 to 5.00 |" in "\n".join(figure_parts(roots))
    write_state(roots[1], "grpo-no-reflective", [5.0] * 20)
    text = "\n".join(figure_parts(roots))
    assert "| reward | 1.00 to 19.00 | 5.00 to 5.00 |" in text
    assert "| deviation within a group | 0.50 to 9.50 | 2.50 to 2.50 |" in text
    assert "cut answers" not in text  # it was not logged
    for number in (8, 9):
        assert (roots[0] / "pictures" / f"figure_{number}.png").stat().st_size > 3000


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("The louder instrument", "audio"),
        ("the object making a sound on the left", "audio"),
        ("the man on the left of the piano", "spatial"),
        ("the wooden table", "image"),
        ("a bright object", "image"),  # no place, and nothing to hear
    ],
)
def test_references_by_the_written_rule(reference, kind):
    assert reference_kind(reference) == kind


def answer(row, right, kind=None, split="test_s", reference="the loud drum", swap=None):
    return {"split": split, "row": row, "class_correct": right, "kind": kind, "reference": reference, "swap": swap}


def write_answers(root, phase, answers):
    folder = root / "eval" / phase
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))


def test_what_a_phase_mends_row_by_row(tmp_path):
    before = [answer(i, False) for i in range(9)] + [answer(9, True), answer(10, True, "sight")]
    after = [answer(i, True) for i in range(9)] + [answer(9, False), answer(10, True, "sight")]
    others = [answer(0, False, split="test_n"), answer(0, False, swap="audio"), answer(11, None)]
    write_answers(tmp_path, "sft", before + others)
    write_answers(tmp_path, "reflective", after + others)
    text = "\n".join(failure_parts([tmp_path]))
    # Nine mended and one broken: 8 is more than twice the root of 10.
    assert "| sft to reflective | audio | 10 | 9 | 1 | **+8** (± 3.2) |" in text
    assert "| sft to reflective | sight | 1 | 0 | 0 | +0 (± 0.0) |" in text
    assert "reflective to grpo" not in text


def test_failures_beside_the_papers(tmp_path):
    assert list(FAILURE_COUNTS) == list(FAILURE_KINDS)
    assert sum(FAILURE_COUNTS.values()) == 1505  # the reflective paths
    kinds = {kind: {"count": i, "share": 0} for i, kind in enumerate(FAILURE_KINDS)}
    (tmp_path / "reflective.report.json").write_text(json.dumps({"kinds": kinds}))
    lines = [json.dumps({"class_name": name}) for name in ("drum", "bell", "drum")]
    (tmp_path / "hard.jsonl").write_text("\n".join(lines) + "\n")
    text = "\n".join(failure_parts([tmp_path]))
    assert "| temporal | 4 | 19% | 166 | 11% |" in text
    assert "Classes that fail most: drum 2, bell 1." in text
    assert (tmp_path / "pictures" / "failures.png").stat().st_size > 3000
