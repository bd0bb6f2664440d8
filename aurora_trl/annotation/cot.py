"""Chain-of-thought targets for supervised fine-tuning (AURORA, section 3.1)."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.schema import Row, count_objects, require_references, require_text_references, view_key, with_target
from ..errors import DataError
from ..evaluation.evaluate import process_state
from ..journal import beside
from ..progress import Progress
from ..prompts import NULL_ANSWER, answer_sentence, cot_target
from .annotators import Annotator, ChatAnnotator
from .checks import find_problem
from .clients.base import Usage
from .engine import RECORD_FIELDS, Annotation, AnnotationRun
from .limits import RunLimits, describe_estimate
from .run_files import (
    RunSummary,
    require_answers,
    require_classes,
    require_distinct_ids,
    rows_digest,
    save_keeping_previous,
    write_failed,
)
from .shared_journal import collect_records, open_shared_journal

# A free annotator writes thousands of rows a second: they wait for the disk together.
_FREE_SYNC_SECONDS = 1.0


def annotate_rows(
    rows: Iterable[Row], annotator: Any, *, style: str = "flexible", seed: int = 0
) -> Iterator[dict[str, Any]]:
    """
    Rows with a chain of thought as `target`, from an annotator that is free and always right; `annotate_file` is for
    all others.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        annotator ([`Annotator`] or `SyntheticAnnotator`): writes the reasoning.
        style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"` (AURORA, table 8).
        seed (`int`, *optional*, defaults to 0): of order and wording.

    Yields:
        `dict`: new rows.
    """
    for row in rows:
        annotation = as_annotation(annotator.reasoning(row, style=style, seed=seed))
        yield with_target(row, cot_target(annotation.text, answer_sentence(count_objects(row))))


def annotate_file(
    rows: Sequence[Row],
    annotator: Annotator,
    output: str | Path,
    *,
    style: str = "flexible",
    seed: int = 0,
    null_answers: bool = False,
    limits: RunLimits | None = None,
    only_estimate: bool = False,
) -> RunSummary | None:
    """
    Write rows with a chain of thought as `target` to a file. Each answer goes to a journal beside it as it comes: cut
    short, the same call continues, and nothing is asked twice.

    Args:
        rows (`Sequence[dict]`): dataset rows with distinct ids.
        annotator ([`Annotator`]): writes the reasoning.
        output (`str` or `Path`): JSONL file; rows stand in it in their own order. What could not be had in
            `limits.max_attempts` answers is listed in `<stem>.failed.jsonl`.
        style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"` (AURORA, table 8).
        seed (`int`, *optional*, defaults to 0): of order and wording.
        null_answers (`bool`, *optional*, defaults to `False`): where the reference matches nothing, end with `Nothing
            fits.` and no `[SEG]`. The paper's model draws an empty mask there instead.
        limits ([`RunLimits`], *optional*): speed, patience, caps.
        only_estimate (`bool`, *optional*, defaults to `False`): say what the run will take, and ask nothing.

    Returns:
        [`RunSummary`], or `None` after an estimate.

    Raises:
        `DataError`: where the output is another run's, or no answer can be had. `CapReached`: at a cap.
    """
    rows, output, limits = [dict(row) for row in rows], Path(output), limits or RunLimits()
    require_distinct_ids(rows)
    require_text_references(rows, "an annotator")
    require_references(rows)
    require_classes(rows)
    settings = {**annotator.settings, "task": "reasoning", "style": style, "seed": seed, "rows": rows_digest(rows)}

    def ask(row: Row, attempt: int, problem: str | None) -> Annotation:
        # Another attempt is another draw, or it would be the same answer again.
        return as_annotation(annotator.reasoning(row, style=style, seed=seed + attempt - 1, problem=problem))

    def check(row: Row, annotation: Annotation) -> str | None:
        return find_problem(row, annotation.text)

    run = ask_about(rows, annotator, output, settings, ask, check, "reasoning", limits, only_estimate)
    if run is None:
        return None

    def answer(row: Row) -> str:
        return NULL_ANSWER if null_answers and row.get("is_null") else answer_sentence(count_objects(row))

    written = [
        with_target(row, cot_target(run.accepted[row["id"]]["text"], answer(row)))
        for row in rows
        if row["id"] in run.accepted
    ]
    failed = [row for row in rows if row["id"] not in run.accepted]
    failed_path = beside(output, "failed") if failed else None
    if process_state().is_main_process:
        write_failed(output, failed, run.problems)
        if not written:
            require_answers(failed_path, failed, run.problems)
        save_keeping_previous(written, output)
    return RunSummary(output, len(written), len(failed), failed_path)


def ask_about(
    rows: Sequence[Row],
    annotator: Annotator,
    output: Path,
    settings: dict[str, Any],
    ask: Any,
    check: Any,
    task: str,
    limits: RunLimits,
    only_estimate: bool = False,
) -> AnnotationRun | None:
    """
    Open the journal, say what is left to do and do it; the run holds every answer, or is None after an estimate.
    Several processes share the rows, clip by clip, and each has every answer in the end.
    """
    state = process_state()
    _require_sharable(annotator, limits, state.num_processes)
    worst = _worst_usage(annotator, rows, task)
    sync_seconds = 0.0 if annotator.metered else _FREE_SYNC_SECONDS
    with open_shared_journal(output, settings, fields=RECORD_FIELDS, sync_seconds=sync_seconds) as journal:
        progress: list[Progress] = []
        run = AnnotationRun(
            journal, ask, check, limits, worst=worst, on_step=lambda line: progress[0].step(line) if progress else None
        )
        todo = run.open_rows(rows)
        if len(todo) < len(rows) and state.is_main_process:
            sys.stderr.write(f"{journal.path}: continued, {len(rows) - len(todo)} of {len(rows)} rows are through\n")
        todo = _own_share(todo, state.process_index, state.num_processes)
        if isinstance(annotator, ChatAnnotator) and todo and state.is_main_process:
            own = "" if state.num_processes == 1 else f"each of {state.num_processes} processes: "
            sys.stderr.write(own + _estimate(annotator, todo, task, limits) + "\n")
        elif only_estimate and state.is_main_process:
            sys.stderr.write(f"{len(todo)} rows, which take no request to a model\n")
        if only_estimate:
            return None
        progress.append(Progress(len(todo), quiet=not state.is_main_process))
        run.run(todo)
        journal.records = collect_records(journal)
    return run if state.num_processes == 1 else AnnotationRun(journal, ask, check, limits)


def _own_share(rows: Sequence[dict[str, Any]], process: int, processes: int) -> list[dict[str, Any]]:
    """What a process asks about: all references to a clip, whose media are then at hand, then those to the next."""
    clips: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        clips.setdefault(view_key(row), []).append(row)
    return [row for about in list(clips.values())[process::processes] for row in about]


def _require_sharable(annotator: Annotator, limits: RunLimits, processes: int) -> None:
    """Raise `DataError` where several processes would do by halves what one does."""
    if processes == 1:
        return
    if not getattr(annotator, "local", False):
        name = annotator.settings.get("annotator", type(annotator).__name__)
        raise DataError(
            f"{name}: {processes} processes share the work of a model that each of them holds (`qwen-omni:`); start "
            "one process, whose --concurrency asks more at a time"
        )
    if limits.max_requests is not None or limits.max_cost is not None:
        raise DataError(f"`max_requests` and `max_cost` are of a whole run, which {processes} processes do not see")


def _worst_usage(annotator: Annotator, rows: Sequence[Row], task: str) -> Usage:
    """The largest request, with the longest answer that is allowed."""
    if not isinstance(annotator, ChatAnnotator):
        return Usage()
    largest = max((annotator.estimate(row, task).input_tokens for row in rows), default=0)
    return Usage(largest, annotator.client.max_output_tokens)


def _estimate(annotator: ChatAnnotator, rows: Sequence[Row], task: str, limits: RunLimits) -> str:
    usage = sum((annotator.estimate(row, task) for row in rows), Usage())
    longest = Usage(usage.input_tokens, annotator.client.max_output_tokens * len(rows))
    return describe_estimate(len(rows), usage, longest, annotator.client.seconds_per_request, limits)


def as_annotation(answer: Annotation | str) -> Annotation:
    """What an annotator returned: text alone is an annotation with nothing else to say."""
    return Annotation(answer) if isinstance(answer, str) else answer
