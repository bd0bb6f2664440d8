"""The paper's tables: right on published numbers, and errors by hand."""

import json
import math

import pytest

from aurora_trl.cli import main
from aurora_trl.data import DataError
from aurora_trl.evaluation.metrics import get_protocol
from aurora_trl.evaluation.study.measured import Difference, Measured, difference
from aurora_trl.evaluation.study.published import TABLES, find_misprints
from aurora_trl.evaluation.study.tables import write_tables


def write_evaluation(root, name, scores, protocol="refavs", rows=None):
    """What `aurora evaluate` writes, with scores in per cent by split."""
    folder = root / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, values in scores.items():
        values = values if len(values) == 3 else (*values, sum(values) / 2)
        numbers = dict(zip(("J", "F", "J&F"), (value / 100 for value in values), strict=True))
        splits[split] = {**numbers, "rows": 4, "mean_tokens": 9.0, "by_kind": {}}
    content = {"protocol": protocol, "scores": list(get_protocol(protocol).scores), "splits": splits, "swaps": {}}
    (folder / "metrics.json").write_text(json.dumps(content))
    lines = [
        {"id": str(number), "clip": clip, "split": split, "swap": None, "row": number, "J": j / 100, "F": j / 100}
        for split, values in (rows or {}).items()
        for number, (clip, j) in enumerate(values)
    ]
    if lines:
        (folder / f"scores.{protocol}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def published_as_ours(tmp_path):
    """The paper's own scores, as if an evaluation had found them."""
    for table in TABLES:
        for row in table.rows:
            if row.evaluation is not None:
                write_evaluation(tmp_path, row.evaluation, row.scores, table.protocol or "refavs")
    return tmp_path


def differences(text):
    lines = [line.split("|")[3:-1] for line in text.splitlines() if line.startswith("|  | difference |")]
    return [[cell.strip() for cell in cells] for cells in lines]


def test_the_papers_scores_differ_from_the_published_ones_in_the_misprint_alone(published_as_ours):
    text = write_tables([published_as_ours]).read_text()
    found = differences(text)
    assert len(found) == sum(row.evaluation is not None for table in TABLES for row in table.rows) == 18
    assert [cell for cells in found for cell in cells if cell != "0.0"] == ["+0.4"]
    assert found[0] == ["0.0"] * 8 + ["+0.4"]  # AURORA's Mix J&F
    assert "AURORA, Mix J&F: 70.1 is printed; the mean of seen and unseen, as the caption defines it, is 70.5" in text
    assert "Crab, Mix J&F: 46.2 is printed; the mean of seen and unseen, as the caption defines it, is 51.8" in text
    assert "not run" not in text


def test_no_other_mean_is_misprinted():
    assert [(row.label, place) for row, place, _ in find_misprints()] == [("Crab", 2), ("AURORA", 2)]
    for table in TABLES:
        for row in table.rows:
            for scores in row.scores.values():
                if len(scores) == 3:
                    assert sum(scores[:2]) / 2 == pytest.approx(scores[2], abs=0.051)


def test_between_rows_the_published_differences_are_those_of_the_paper(published_as_ours):
    text = write_tables([published_as_ours]).read_text()
    assert "| without chains of thought - chains of thought | -6.9 | -6.9 | -2.2 | -2.2 |" in text
    assert "| SFT+GRPO - SFT+CRT+GRPO | -1.2 | -1.2 | -0.4 | -0.4 |" in text


def test_errors_by_hand(tmp_path):
    """Two clips of two rows each: the rows of a clip count together."""
    paired = {"test_s": [("a", 60), ("a", 62), ("b", 70), ("b", 72)]}
    other = {"test_s": [("a", 58), ("a", 60), ("b", 64), ("b", 66)]}
    ours, base = (
        Measured(
            {0: {"test_s": (j, j, j)}},
            {0: {"test_s": {i: (clip, (v, v, v)) for i, (clip, v) in enumerate(rows["test_s"])}}},
        )
        for rows, j in ((paired, 66.0), (other, 62.0))
    )
    found = difference(ours, base, ("test_s",), 0)
    # Row differences 2, 2, 6, 6 about 4: sums by clip -4 and 4; sqrt(2 * 32) / 4.
    assert found.value == 4.0
    assert found.over_clips == pytest.approx(math.sqrt(2 * 32) / 4)
    assert found.over_seeds is None
    assert not found.is_one  # 4 is no more than twice 2
    # Against a number: row values about 66, sums by clip -10 and 10.
    assert difference(ours, None, ("test_s",), 0, 60.0).over_clips == pytest.approx(math.sqrt(2 * 200) / 4)
    # Three seeds: differences 1, 2, 3.
    seeds = Measured({number: {"test_s": (61.0 + number,)} for number in range(3)})
    found = difference(seeds, None, ("test_s",), 0, 60.0)
    assert (found.value, found.over_seeds) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert found.is_one
    # Against one that has the last two seeds, and one that has none of them.
    others = Measured({number: {"test_s": (60.0 - number,)} for number in (1, 2, 3)})
    found = difference(seeds, others, ("test_s",), 0)
    assert (found.value, found.over_seeds) == (4.0, pytest.approx(1.0))  # 62 - 59 and 63 - 58
    assert difference(seeds, Measured({7: {"test_s": (60.0,)}}), ("test_s",), 0) is None


@pytest.mark.parametrize(
    ("sizes", "clips", "message"),
    [
        ((600, 1200), "aa", "eval/x and eval/y are scores of 600 and 1,200 rows of test_s: they can not be compared"),
        ((600, 600), "ab", "eval/x and eval/y are scores of other rows of test_s: they can not be compared"),
    ],
    ids=["rows", "clips"],
)
def test_other_rows_are_not_compared(sizes, clips, message):
    ours, other = (
        Measured({0: {"test_s": (60.0,)}}, {0: {"test_s": {0: (clip, (60.0,))}}}, name, {0: {"test_s": size}})
        for name, clip, size in zip("xy", clips, sizes, strict=True)
    )
    with pytest.raises(DataError, match=message):
        difference(ours, other, ("test_s",), 0)


def test_rows_of_another_dataset_are_not_compared(tmp_path, capsys):
    """Their clips have the same names, which are places in a split; their ids are others."""
    rows = {"test_s": [("test_s/0", 60), ("test_s/1", 70)]}
    for name in ("a", "b"):
        write_evaluation(tmp_path, name, {"test_s": (65, 65, 65)}, rows=rows)
    file = tmp_path / "eval" / "b" / "scores.refavs.jsonl"
    file.write_text(file.read_text().replace('"id": "1"', '"id": "7"'))
    assert main(["report", str(tmp_path), "--compare", "a", "b"]) == 1
    assert "eval/b and eval/a are scores of other rows of test_s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Difference(3.0, 1.0), True),
        (Difference(2.0, 1.0), False),
        (Difference(-3.0, 1.0, 1.6), False),
        (Difference(9.0), False),
    ],
)
def test_a_difference_within_two_errors_or_without_any_is_none(found, expected):
    assert found.is_one is expected


def test_by_the_command_with_two_seeds(tmp_path, capsys):
    rows = {"test_s": [("a", 60), ("b", 70), ("c", 65)], "test_u": [("d", 60), ("e", 61), ("f", 62)]}
    for seed, j in ((1, 65.0), (2, 66.0)):
        scores = {"test_s": (j, j, j), "test_u": (j, j, j)}
        write_evaluation(tmp_path / str(seed), "sft", scores, rows=rows)
        write_evaluation(tmp_path / str(seed), "sft-no-cot", dict.fromkeys(scores, (50, 50, 50)), rows=rows)
    folders = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert main(["report", *folders, "--tables"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "1" / "tables.md")
    text = (tmp_path / "1" / "tables.md").read_text()
    assert "Seeds of ours: 2" in text
    assert "| without chains of thought - chains of thought | **-15.5** (± 0.0 clips, 0.5 seeds) | -6.9 |" in text
    assert "| without the language model | ours | not run |" in text
    # A row of one seed alone says so: its mean does not compare with that of both.
    write_evaluation(tmp_path / "2", "sft-no-distillation", dict.fromkeys(scores, (70, 70, 70)), rows=rows)
    assert main(["report", *folders, "--tables"]) == 0
    text = (tmp_path / "1" / "tables.md").read_text()
    assert "| without distillation | ours, 1 of 2 seeds | 70.0 |" in text
    assert "| with distillation | ours | 65.5 |" in text
    assert "| without distillation - with distillation | **+4.0** (± 0.0 clips) | -0.8 |" in text
    assert main(["report", *folders, "--tables", "--protocol", "davis"]) == 1
    assert "holds no row of the study that is scored by `davis`" in capsys.readouterr().err
    assert main(["report", folders[0]]) == 1
    assert "needs --phases and --data" in capsys.readouterr().err


def write_null_split(folder, shares):
    """Give an evaluation the split in which nothing matches: S of each row, and of the split."""
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text())
    scores = {"S": sum(shares) / len(shares), "rows": len(shares), "J": 1, "F": 1, "J&F": 1}
    metrics["splits"]["test_n"] = {**metrics["splits"]["test_s"], **scores}
    file.write_text(json.dumps(metrics))
    with (folder / "scores.refavs.jsonl").open("a") as lines:
        for row, share in enumerate(shares):
            entry = {"id": f"n{row}", "clip": f"n{row}", "split": "test_n", "swap": None, "row": row, "J": 1, "F": 1}
            lines.write(json.dumps({**entry, "S": share}) + "\n")


def test_variants_of_ones_own_beside_the_first(tmp_path, capsys):
    """Row differences of 4 and 6 in one seed and 8 and 10 in the other: by clip 6 and 8, about 7."""
    for seed, by in ((1, 4), (2, 8)):
        base = {"test_s": [("a", 60), ("b", 70)]}
        other = {"test_s": [("a", 60 + by), ("b", 72 + by)]}
        for name, rows in (("sft", base), ("sft-wide", other)):
            j = sum(value for _, value in rows["test_s"]) / 2
            write_evaluation(tmp_path / str(seed), name, {"test_s": (j, j, j)}, rows=rows)
    for name, shares in (("sft", (0.5, 0.3)), ("sft-wide", (0.2, 0.2))):
        write_null_split(tmp_path / "1" / "eval" / name, shares)
        write_null_split(tmp_path / "2" / "eval" / name, shares)
    folders = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert main(["report", *folders, "--compare", "sft", "sft-wide"]) == 0
    file = tmp_path / "1" / "comparison.md"
    assert capsys.readouterr().out.strip() == str(file)
    lines = file.read_text().splitlines()
    assert lines[2] == "| evaluation | seeds | test_s J&F | difference | test_n S | difference |"
    assert lines[4] == "| sft | 2 | 65.0 |  | 40.0 |  |"
    # S: -30 and -10 about -20, over seeds the same.
    assert (
        lines[5]
        == "| sft-wide | 2 | 72.0 | **+7.0** (± 1.0 clips, 2.0 seeds) | 20.0 | -20.0 (± 10.0 clips, 0.0 seeds) |"
    )
    write_evaluation(tmp_path / "2", "new", {"test_s": (60, 60, 60)}, rows={"test_s": [("a", 60), ("b", 60)]})
    assert main(["report", *folders, "--compare", "sft", "new"]) == 0
    assert file.read_text().splitlines()[5] == "| new | 1 | 60.0 | -5.0 (± 5.0 clips) | not run |  |"
    assert main(["report", *folders, "--compare", "sft", "old"]) == 1
    assert "eval/old: no evaluation that is scored by `refavs`" in capsys.readouterr().err
