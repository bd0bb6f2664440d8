"""The answers of evaluations as a table: read once, without their masks, which are read again where they are drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..annotation.failures import world_failure_kind
from ..data.formats.registry import Source
from ..data.schema import Row
from ..data.synthetic import SyntheticAnnotator
from ..errors import DataError
from ..evaluation.report import read_metrics
from ..evaluation.score_files import ANSWERS_FILE
from ..prompts import NULL_CLASS, says_nothing_fits
from ..text_files import parse_json

# From this J on a mask is right, as in Precision@0.5 of referring segmentation.
RIGHT_J = 0.5
# What can be said of an answer to any dataset; the first is no failure.
OUTCOMES = {
    "right": "the class is right and J is at least 0.5; or nothing fits, and it says so",
    "cut": "it ended at the limit",
    "false alarm": "nothing fits, and it names something all the same",
    "says nothing fits": "something fits",
    "no mask": "it ends without [SEG]",
    "wrong object": "class and mask are wrong",
    "wrong class": "the mask is right, the class is not",
    "poor mask": "the class is right, J is below 0.5",
}
KEY = ["split", "swap", "id"]
PLAIN = "none"  # of `swap`: nothing is taken from another clip
_NEEDED = ("id", "split", "swap", "j", "reference", "class_name", "completion", "masks")
_AGAIN = "evaluate that checkpoint again"


@dataclass(frozen=True, eq=False)
class Evaluations:
    """
    Evaluations of one or more checkpoints.

    Attributes:
        folders (`Mapping[str, Path]`): by phase, in order.
        scores (`Mapping[str, dict]`): what `metrics.json` holds, by phase.
        answers (`Mapping[str, pd.DataFrame]`): by phase, a line per answer with the index `KEY`: `reference`,
            `class_name`, `completion`, `kind`, `j` (NaN where nothing fits), `class_correct`, `cut`, `num_tokens`,
            `outcome`, `cause`, and the `place` of its line in the file, in bytes. A text that is missing is empty.
        causes (`bool`): whether the kinds of failure of the paper's section 7.1 are known, as in a synthetic world.
    """

    folders: Mapping[str, Path]
    scores: Mapping[str, dict[str, Any]]
    answers: Mapping[str, pd.DataFrame]
    causes: bool

    @property
    def phases(self) -> list[str]:
        return list(self.folders)

    def read_answer(self, phase: str, key: tuple[str, ...]) -> dict[str, Any]:
        """An answer with its masks, as `answers.jsonl` holds it."""
        place = int(self.answers[phase].at[key, "place"])
        with open(self.folders[phase] / ANSWERS_FILE, "rb") as file:
            file.seek(place)
            return dict(parse_json(file.readline()))


def find_evaluations(root: str | Path, phases: Sequence[str] = ()) -> dict[str, Path]:
    """
    The folders that `aurora evaluate` wrote: the root itself, or those in it or in its `eval`, oldest first.

    Args:
        root (`str` or `Path`): an evaluation, a folder of them, or the output of a chain.
        phases (`Sequence[str]`, *optional*): take these, in this order.

    Raises:
        `DataError`: where there is none, or none of a name that was asked for.
    """
    root = Path(root)
    if (root / ANSWERS_FILE).is_file():
        found = {root.resolve().name: root}
    else:
        files = [*root.glob(f"eval/*/{ANSWERS_FILE}")] or [*root.glob(f"*/{ANSWERS_FILE}")]
        files.sort(key=lambda file: (file.stat().st_mtime, file))
        found = {file.parent.name: file.parent for file in files}
    if not found:
        raise DataError(f"{root}: no {ANSWERS_FILE} in it, in its folders or in eval; `aurora evaluate` writes it")
    missing = next((phase for phase in phases if phase not in found), None)
    if missing is not None:
        raise DataError(f"{root}: no evaluation {missing!r}; there are {', '.join(found)}")
    return {phase: found[phase] for phase in phases or found}


def load_evaluations(folders: Mapping[str, Path], world: str | Path | None = None) -> Evaluations:
    """
    Read evaluations.

    Args:
        folders (`Mapping[str, Path]`): by phase, in order; from `find_evaluations`.
        world (`str` or `Path`, *optional*): the synthetic world that they are about: it knows why an answer is wrong.

    Raises:
        `DataError`: names the file and line that is no answer, or the scores that are missing.
    """
    annotator = None if world is None else SyntheticAnnotator(world)
    scores = {phase: read_metrics(folder) for phase, folder in folders.items()}
    answers = {}
    for phase, folder in folders.items():
        table = pd.DataFrame.from_records(list(_read_lines(folder / ANSWERS_FILE, annotator)))
        # An id may come twice in a dataset; the second is another row.
        again = table.groupby(KEY).cumcount()
        table.loc[again > 0, "id"] += " #" + (again[again > 0] + 1).astype(str)
        answers[phase] = table.set_index(KEY)
    return Evaluations(dict(folders), scores, answers, annotator is not None)


def _read_lines(file: Path, annotator: SyntheticAnnotator | None) -> Iterator[dict[str, Any]]:
    place, count = 0, 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            answer = _parse(f"{file}, line {number}", line)
            yield {**_describe(answer, annotator), "place": place}
            place += len(line)
            count = number
    if not count:
        raise DataError(f"{file}: it holds no answer; {_AGAIN}")


def _parse(where: str, line: bytes) -> dict[str, Any]:
    try:
        answer = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: no answer of an evaluation ({error}); {_AGAIN}") from None
    lacking = "object" if not isinstance(answer, dict) else next((key for key in _NEEDED if key not in answer), None)
    if lacking is not None:
        raise DataError(f"{where}: the answer has no `{lacking}`; {_AGAIN}")
    if not isinstance(answer["j"], (int, float)):
        raise DataError(f"{where}: `j` is no number; {_AGAIN}")
    return dict(answer)


def _describe(answer: dict[str, Any], annotator: SyntheticAnnotator | None) -> dict[str, Any]:
    outcome = judge_outcome(answer)
    cause = None
    if annotator is not None and outcome not in ("right", "cut") and answer["swap"] is None:
        cause = _find_cause(annotator, answer)
    return {
        "id": answer["id"],
        "split": answer["split"],
        "swap": answer["swap"] or PLAIN,
        "reference": answer["reference"],
        "class_name": answer["class_name"] or "",
        "completion": answer["completion"] or "",
        "kind": answer.get("kind") or "",
        # Of a reference to nothing, J says nothing.
        "j": float("nan") if is_null(answer) else float(answer["j"]),
        "class_correct": answer.get("class_correct"),
        "cut": bool(answer.get("cut")),
        "num_tokens": answer.get("num_tokens"),
        "outcome": outcome,
        "cause": cause or "",
    }


def _find_cause(annotator: SyntheticAnnotator, answer: dict[str, Any]) -> str | None:
    row: Row = {"id": answer["id"]}
    judgement = annotator.judge(row, answer["completion"])
    if judgement.class_correct:
        return None  # nothing is wrong with the reasoning's end: the mask alone is poor
    return world_failure_kind(annotator.facts(row), judgement, answer["completion"])


def judge_outcome(answer: Mapping[str, Any]) -> str:
    """
    What came of an answer: a key of `OUTCOMES`.

    Args:
        answer (`Mapping[str, Any]`): a line of `answers.jsonl`.
    """
    says_nothing = says_nothing_fits(answer["completion"])
    if is_null(answer):
        return "right" if says_nothing else "cut" if answer.get("cut") else "false alarm"
    wrong_class = answer.get("class_correct") is False  # None where the dataset names no class
    wrong_mask = answer["j"] < RIGHT_J
    if not wrong_class and not wrong_mask:
        return "right"
    if answer.get("cut"):
        return "cut"
    if says_nothing:
        return "says nothing fits"
    if answer.get("has_seg") is False:
        return "no mask"
    return ("wrong object" if wrong_mask else "wrong class") if wrong_class else "poor mask"


def is_null(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is to a reference that matches nothing: it says whether it was right about that."""
    if answer.get("null_correct") is None:
        return bool(answer["class_name"] == NULL_CLASS)
    return says_nothing_fits(answer["completion"]) == answer["null_correct"]


class RowSource:
    """
    Rows of the dataset that was evaluated on, by split and id. A split is read when a row of it is first asked for.

    Args:
        source (`Source`): the dataset.
    """

    def __init__(self, source: Source):
        self.source = source
        self._splits: dict[str, dict[str, Row]] = {}

    def find(self, split: str, row_id: str) -> Row | None:
        """A row, or None where the dataset has none of this id."""
        if split not in self._splits:
            self._splits[split] = {row["id"]: row for row in self.source.load(split)}
        return self._splits[split].get(row_id)
