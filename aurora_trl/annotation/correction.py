"""Corrected paths for hard samples (AURORA, section 3.2)."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.schema import Row, count_objects, require_references, with_target
from ..disk import written_whole
from ..journal import beside
from ..prompts import NULL_ANSWER, answer_sentence, cot_target, strip_answer
from .annotators import Annotator
from .checks import find_problem
from .cot import as_annotation, ask_about
from .engine import Annotation
from .failures import kind_shares
from .limits import RunLimits
from .parsing import word_edit_distance
from .run_files import require_answers, require_classes, require_distinct_ids, rows_digest, write_failed

PAPER_CORRECTIONS = 1505  # rows that the paper corrects, section 3.2
Pair = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class CorrectionResult:
    """
    What came of the hard rows.

    Args:
        pairs (`list[tuple[dict, dict]]`): each hard row, and the same row with the corrected path as `target`.
        right (`int`): rows in whose text the annotator found nothing wrong; there is no path to build from them.
        failed (`int`): rows without a usable answer.
        failed_path (`Path` or `None`): the file that lists them.
        report (`dict`): counts, the share of each kind of failure (AURORA, section 7.1) and mean edit distances.
        report_path (`Path`): where the report is.
    """

    pairs: list[Pair]
    right: int
    failed: int
    failed_path: Path | None
    report: dict[str, Any]
    report_path: Path


def correct_rows(hard_rows: Iterable[Row], annotator: Any) -> Iterator[Pair]:
    """
    Let an annotator that is free correct what a model wrote; what can not be used is left out. `correct_file` is for
    all others.

    Args:
        hard_rows (`Iterable[dict]`): rows whose `target` is the wrong path, as `mine_rows` yields them.
        annotator ([`Annotator`] or `SyntheticAnnotator`): corrects them.

    Yields:
        `tuple[dict, dict]`: the hard row, and the same row with the corrected path as `target`.
    """
    for row in hard_rows:
        text = strip_answer(row["target"])
        annotation = as_annotation(annotator.correct(row, text))
        if not annotation.right and correction_problem(row, annotation) is None:
            yield row, _corrected(row, annotation.text)


def _corrected(row: Row, text: str, null_answers: bool = False) -> dict[str, Any]:
    answer = NULL_ANSWER if null_answers and row.get("is_null") else answer_sentence(count_objects(row))
    return with_target(row, cot_target(text, answer))


def correction_problem(row: Row, annotation: Annotation) -> str | None:
    """What is wrong with a correction, in words that the annotator can act on; None where it is fine."""
    if annotation.right:
        return None
    if annotation.text.split() == strip_answer(row["target"]).split():
        return "it calls the text wrong and changes nothing"
    return find_problem(row, annotation.text)


def correct_file(
    hard_rows: Sequence[Row],
    annotator: Annotator,
    output: str | Path,
    *,
    seed: int = 0,
    limits: RunLimits | None = None,
    only_estimate: bool = False,
    null_answers: bool = False,
) -> CorrectionResult | None:
    """
    Correct hard rows, each answer into a journal beside the output as it comes: cut short, the same call continues,
    and nothing is asked twice.

    Args:
        hard_rows (`Sequence[dict]`): rows whose `target` is the wrong path.
        annotator ([`Annotator`]): corrects them.
        output (`str` or `Path`): the file that the caller will make of the pairs; journal, report and list of
            failures stand beside it.
        seed (`int`, *optional*, defaults to 0): of the annotator's sampling.
        limits ([`RunLimits`], *optional*): speed, patience, caps.
        only_estimate (`bool`, *optional*, defaults to `False`): say what the run will take, and ask nothing.
        null_answers (`bool`, *optional*, defaults to `False`): end the paths of references that match nothing with
            `Nothing fits.`, as `annotate_file` does.

    Returns:
        [`CorrectionResult`], or `None` after an estimate.

    Raises:
        `DataError`: where the output is another run's, or no answer can be had. `CapReached`: at a cap.
    """
    rows, output, limits = [dict(row) for row in hard_rows], Path(output), limits or RunLimits()
    require_distinct_ids(rows)
    require_references(rows)
    require_classes(rows)
    settings = {**annotator.settings, "task": "correction", "seed": seed, "rows": rows_digest(rows)}

    def ask(row: Row, attempt: int, problem: str | None) -> Annotation:
        text = strip_answer(row["target"])
        return as_annotation(annotator.correct(row, text, seed=seed + attempt - 1, problem=problem))

    run = ask_about(rows, annotator, output, settings, ask, correction_problem, "correction", limits, only_estimate)
    if run is None:
        return None
    failed = [row for row in rows if row["id"] not in run.accepted]
    failed_path = write_failed(output, failed, run.problems)
    if not run.accepted:
        require_answers(failed_path, failed, run.problems)
    answers = [(row, run.accepted[row["id"]]) for row in rows if row["id"] in run.accepted]
    corrected = [(row, answer) for row, answer in answers if not answer.get("right")]
    report = _report(corrected, len(answers) - len(corrected), len(failed))
    report_path = beside(output, "report", ".json")
    with written_whole(report_path) as file:
        file.write(json.dumps(report, indent=2) + "\n")
    return CorrectionResult(
        pairs=[(row, _corrected(row, answer["text"], null_answers)) for row, answer in corrected],
        right=len(answers) - len(corrected),
        failed=len(failed),
        failed_path=failed_path,
        report=report,
        report_path=report_path,
    )


def _report(corrected: Sequence[tuple[dict[str, Any], dict[str, Any]]], right: int, failed: int) -> dict[str, Any]:
    """Counts, kinds, and how far corrections went, in words of the text that they started from."""
    rows = []
    for row, answer in corrected:
        before = strip_answer(row["target"])
        distance = word_edit_distance(before, answer["text"])
        longest = max(len(before.split()), len(answer["text"].split()))
        kind = answer.get("kind")
        rows.append({"id": row["id"], "kind": kind, "edited_words": distance, "edited_share": distance / longest})
    count = max(1, len(rows))
    return {
        "corrected": len(rows),
        "right": right,
        "failed": failed,
        "kinds": kind_shares(row["kind"] for row in rows),
        "mean_edited_words": sum(row["edited_words"] for row in rows) / count,
        "mean_edited_share": sum(row["edited_share"] for row in rows) / count,
        "rows": rows,
    }
