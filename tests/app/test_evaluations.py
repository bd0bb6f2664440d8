"""Evaluations as a table: what came of each answer, filters, what changed, and lines read again."""

import json
import math

import numpy as np
import pytest

from aurora_trl.app.answer_views import AnswerCards, changes_html, scores_html, table_html
from aurora_trl.app.evaluations import RowSource, find_evaluations, judge_outcome, load_evaluations
from aurora_trl.app.selection import PAGE_ROWS, Selection, choices, count_changes, cut_page, select
from aurora_trl.data import DataError, find_source
from aurora_trl.data.masks import encode_rle

DRUM, NOTHING = "So the target is the drum. It is [SEG].", "So the target is null. Nothing fits."


def answer(number, j=0.8, right=True, **changes):
    mask = np.zeros((8, 8), np.uint8)
    mask[: number % 8] = 1
    return {
        "id": f"row_{number}",
        "reference": f"The object number {number}",
        "class_name": "drum",
        "completion": DRUM,
        "num_tokens": 10 + number,
        "cut": False,
        "class_correct": right,
        "format_correct": True,
        "null_correct": True,
        "has_seg": True,
        "reflective": False,
        "masks": [encode_rle(mask)] * 2,
        "j": j,
        "split": "test_s",
        "swap": None,
        "kind": "hearing" if number % 2 else "sight",
        **changes,
    }


def null_answer(number, text, **changes):
    changes = {"class_name": "null", "completion": text, "null_correct": text is NOTHING, "split": "test_n", **changes}
    return answer(number, 0.99, text is NOTHING, **changes)


def write_evaluation(folder, answers):
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers))
    scores = {"rows": len(answers), "J": 0.5, "F": 0.6, "J&F": 0.55, "S": 0.1, "mean_tokens": 12.0, "by_kind": {}}
    splits = dict.fromkeys(dict.fromkeys(line["split"] for line in answers), scores)
    (folder / "metrics.json").write_text(json.dumps({"protocol": "refavs", "splits": splits, "swaps": {}}))


OUTCOME_OF = [
    (answer(1), "right"),
    (answer(1, class_name=None, class_correct=None), "right"),
    (answer(1, 0.49), "poor mask"),
    (answer(1, 0.8, False), "wrong class"),
    (answer(1, 0.1, False), "wrong object"),
    (answer(1, 0.0, has_seg=False), "no mask"),
    (answer(1, 0.0, False, completion=NOTHING, null_correct=False, has_seg=False), "says nothing fits"),
    (answer(1, 0.1, False, cut=True), "cut"),
    (answer(1, 0.9, True, cut=True), "right"),
    (null_answer(1, NOTHING), "right"),
    (null_answer(1, NOTHING, class_name=None), "right"),
    (null_answer(1, DRUM), "false alarm"),
    (null_answer(1, DRUM, class_name=None), "false alarm"),
    (null_answer(1, "I see", cut=True), "cut"),
]


@pytest.mark.parametrize(("line", "outcome"), OUTCOME_OF)
def test_outcomes(line, outcome):
    assert judge_outcome(line) == outcome


@pytest.fixture
def root(tmp_path):
    write_evaluation(
        tmp_path / "eval" / "sft",
        [answer(0, 0.2), answer(1, 0.9), answer(2, 0.3, False), answer(3, 0.7), null_answer(4, DRUM)],
    )
    write_evaluation(
        tmp_path / "eval" / "grpo",
        [
            answer(0, 0.9),
            answer(1, 0.1, False, completion="I hear a Trümpet. It is [SEG]."),
            answer(2, 0.4, cut=True),
            answer(3, 0.8),
            null_answer(4, NOTHING),
            answer(0, 0.1, swap="audio"),
        ],
    )
    return tmp_path


@pytest.fixture
def known(root):
    return load_evaluations(find_evaluations(root))


def ids(known, **wanted):
    table = select(known, Selection("grpo", "sft", **wanted))
    return [key[2].removeprefix("row_") for key in table.index]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "01234"),
        ({"swap": "any"}, "012340"),
        ({"swap": "audio"}, "0"),
        ({"split": "test_n"}, "4"),
        ({"kind": "hearing"}, "13"),
        ({"outcome": "right"}, "034"),
        ({"outcome": "wrong object"}, "1"),
        ({"class_named": "wrong"}, "1"),
        ({"cut": "cut"}, "2"),
        ({"change": "wrong to right"}, "04"),
        ({"change": "right to wrong"}, "1"),
        ({"change": "still wrong"}, "2"),
        ({"lowest_j": 0.4}, "023"),
        ({"highest_j": 0.4}, "12"),
        ({"text": "trümpet"}, "1"),
        ({"text": "NUMBER 3"}, "3"),
        ({"text": "(["}, ""),
        ({"order": "J, lowest first"}, "12304"),  # where nothing fits there is no J: last
        ({"order": "loss of J, largest first"}, "12304"),
        ({"order": "gain of J, largest first"}, "03214"),
        ({"order": "longest answers first"}, "43210"),
    ],
    ids=str,
)
def test_filters(known, wanted, expected):
    assert "".join(ids(known, **wanted)) == expected


def test_what_changed(known):
    counts = count_changes(known, "grpo", "sft")
    assert counts == {
        "test_s": {"wrong to right": 1, "right to wrong": 1, "still wrong": 1, "still right": 1},
        "test_n": {"wrong to right": 1, "right to wrong": 0, "still wrong": 0, "still right": 0},
    }
    assert "From sft to grpo" in changes_html(counts, "sft", "grpo")
    assert count_changes(known, "sft", "sft")["test_s"]["still wrong"] == 2


def test_menus_hold_what_there_is(known):
    assert choices(known, "split") == ["any", "test_s", "test_n"]
    assert choices(known, "swap") == ["any", "none", "audio"]
    assert choices(known, "kind") == ["any", "sight", "hearing"]
    assert choices(known, "cause") == ["any"]
    assert not known.causes


def test_phases_are_in_order_of_time_or_as_named(root):
    import os

    os.utime(root / "eval" / "grpo" / "answers.jsonl", (1, 1))
    assert list(find_evaluations(root)) == ["grpo", "sft"]
    assert list(find_evaluations(root, ["sft", "grpo"])) == ["sft", "grpo"]
    assert list(find_evaluations(root / "eval")) == ["grpo", "sft"]
    assert list(find_evaluations(root / "eval" / "sft")) == ["sft"]


def test_an_answer_is_read_again_from_its_place(known, root):
    for phase in known.phases:
        lines = (root / "eval" / phase / "answers.jsonl").read_text().splitlines()
        for key, line in zip(known.answers[phase].index, lines, strict=True):
            assert known.read_answer(phase, key) == json.loads(line)


def test_an_id_that_comes_twice(tmp_path):
    write_evaluation(tmp_path / "a", [answer(1, 0.1), answer(1, 0.9)])
    known = load_evaluations(find_evaluations(tmp_path / "a"))
    assert [key[2] for key in known.answers["a"].index] == ["row_1", "row_1 #2"]
    assert known.read_answer("a", ("test_s", "none", "row_1 #2"))["j"] == 0.9


def test_pages_hold_few_of_thousands(tmp_path):
    lines = [answer(number, (number % 100) / 100) for number in range(3000)]
    write_evaluation(tmp_path / "a", lines)
    known = load_evaluations(find_evaluations(tmp_path / "a"))
    table = select(known, Selection("a", "a", order="J, highest first"))
    page, number, pages = cut_page(table, 119)
    assert (number, pages) == (119, 120)
    assert len(page) == PAGE_ROWS
    assert page["j"].max() == 0.0
    assert cut_page(table, 500)[1] == 119
    assert cut_page(table.iloc[:0], 3)[1:] == (0, 1)
    shown = table_html(page, number * PAGE_ROWS, known, "a", 2980)
    assert shown.count("data-index") == PAGE_ROWS
    assert '<tr data-index="2980" class="chosen">' in shown
    assert "size" not in table.columns
    assert "masks" not in table.columns


def test_a_row_in_every_phase(known, tmp_path):
    shown = AnswerCards(known, None).html(("test_s", "none", "row_1"))
    assert shown.count("<section") == 2
    assert "J 0.90" in shown
    assert "J 0.10" in shown
    assert "wrong object" in shown
    assert "--data" in shown
    swapped = AnswerCards(known, None).html(("test_s", "audio", "row_0"))
    assert swapped.count("<section") == 1
    assert "answered with the audio of another clip" in swapped
    assert "class null" in AnswerCards(known, None).html(("test_n", "none", "row_4"))
    assert '<th colspan="3">test_s</th><th colspan="2">test_n</th>' in scores_html(known)


def test_nothing_of_a_dataset_is_markup(tmp_path):
    text = "<img src=x onerror=alert(1)>"
    write_evaluation(tmp_path / "a", [answer(1, reference=text, completion=text, class_name=text, id=text)])
    known = load_evaluations(find_evaluations(tmp_path / "a"))
    table = select(known, Selection("a", "a"))
    shown = table_html(table, 0, known, "a", None) + AnswerCards(known, None).html(table.index[0])
    assert "<img" not in shown


def test_a_world_knows_why_and_draws(world, tmp_path):
    from aurora_trl.data import load_refavs

    row = load_refavs(world, "test_s")[0]
    size = [48, 48]
    masks = [encode_rle(np.ones(size, np.uint8))] * len(row["frames"])
    other = "drum" if row["class_name"] != "drum" else "bell"
    wrong = f"I hear only the nothing. So the target is the {other}. It is [SEG]."
    line = answer(1, 0.1, False, id=row["id"], reference=row["reference"], class_name=row["class_name"])
    write_evaluation(tmp_path / "a", [{**line, "completion": wrong, "masks": masks}, answer(2)])
    known = load_evaluations(find_evaluations(tmp_path / "a"), None)
    cards = AnswerCards(known, RowSource(find_source(world)))
    shown = cards.html(("test_s", "none", row["id"]))
    assert "data:image/webp;base64," in shown
    assert f"{world}: it has no row &#x27;row_2&#x27;" in cards.html(("test_s", "none", "row_2"))
    (tmp_path / "b").mkdir()
    write_evaluation(tmp_path / "b" / "a", [{**line, "completion": wrong, "masks": masks}])
    causes = load_evaluations(find_evaluations(tmp_path / "b"), world)
    assert causes.answers["a"]["cause"].tolist()[0] in ("audio_perception", "visual_misidentification", "temporal")
    assert causes.causes


def test_where_nothing_fits_there_is_no_j(known):
    assert math.isnan(known.answers["grpo"].at[("test_n", "none", "row_4"), "j"])


BROKEN = {
    "no json": ('{"id": ', "answers.jsonl, line 2: no answer of an evaluation"),
    "no object": ("3", "answers.jsonl, line 2: the answer has no `object`"),
    "no masks": (json.dumps({**answer(1), "masks": None, "x": 1}).replace('"masks"', '"mask"'), "has no `masks`"),
    "no number": (json.dumps({**answer(1), "j": "high"}), "line 2: `j` is no number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(name, root):
    line, message = BROKEN[name]
    file = root / "eval" / "sft" / "answers.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=message):
        load_evaluations(find_evaluations(root))


def test_no_evaluation(tmp_path, root):
    with pytest.raises(DataError, match=r"no answers.jsonl in it, in its folders or in eval; `aurora"):
        find_evaluations(tmp_path / "none")
    with pytest.raises(DataError, match="no evaluation 'teacher'; there are"):
        find_evaluations(root, ["teacher"])
    (root / "eval" / "sft" / "answers.jsonl").write_text("")
    with pytest.raises(DataError, match="answers.jsonl: it holds no answer"):
        load_evaluations(find_evaluations(root))
