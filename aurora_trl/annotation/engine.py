"""The run that asks about many rows: at once, again where needed, and never twice for what it has."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from threading import Event, Lock
from types import NoneType
from typing import Any

from ..data.schema import Row
from ..errors import DataError
from ..journal import Journal
from .clients.base import Rejected, Transient, Unusable, Usage
from .limits import Budget, Pacer, RunLimits

_WORTH_SAYING_SECONDS = 5.0
# What a record in the journal holds in any case; the rest is an [`Annotation`]'s.
RECORD_FIELDS = {
    "id": str,
    "attempt": int,
    "problem": (str, NoneType),
    "text": str,
    "input_tokens": int,
    "output_tokens": int,
}


@dataclass(frozen=True)
class Annotation:
    """
    What an annotator says of a row.

    Args:
        text (`str`): the reasoning, or the corrected reasoning; empty where there is nothing to correct.
        kind (`str`, *optional*): of a correction: what had gone wrong, a key of `FAILURE_KINDS`.
        right (`bool`, *optional*, defaults to `False`): of a correction: there is nothing to correct.
        marked (`str`, *optional*): of a correction: the wrong text with the annotator's marks.
        raw (`str`, *optional*): what the annotator wrote, where it is not `text`.
        usage (`Usage`, *optional*): what it took.
    """

    text: str
    kind: str | None = None
    right: bool = False
    marked: str | None = None
    raw: str | None = None
    usage: Usage = field(default_factory=Usage)


# (row, attempt counted from 1, what was wrong with the last answer) -> annotation
Ask = Callable[[dict[str, Any], int, str | None], Annotation]
# (row, annotation) -> what is wrong with it, or None
Check = Callable[[dict[str, Any], Annotation], str | None]


class AnnotationRun:
    """
    Asks an annotator about rows, each answer into the journal as it comes. Nothing that the journal holds is asked
    again.

    Args:
        journal (`Journal`): of this run.
        ask (`Callable`): asks once; raises as a [`Client`] does.
        check (`Callable`): says what is wrong with an answer.
        limits (`RunLimits`): speed, patience, caps.
        worst (`Usage`, *optional*): what one request takes at most, by estimate.
        on_step (`Callable`, *optional*): called with a line about the run when a row is through.
    """

    def __init__(
        self,
        journal: Journal,
        ask: Ask,
        check: Check,
        limits: RunLimits,
        *,
        worst: Usage | None = None,
        on_step: Callable[[str], None] = lambda _line: None,
    ):
        self._journal, self._ask, self._check, self._limits = journal, ask, check, limits
        self._on_step = on_step
        self._pacer, self._stop, self._lock = Pacer(limits.requests_per_minute), Event(), Lock()
        self.budget = Budget(limits, worst or Usage())
        self.accepted: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, list[dict[str, Any]]] = {}
        self._failed_in_a_row = 0
        for record in journal.records:
            self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        self.budget.add(Usage(record["input_tokens"], record["output_tokens"]))
        if record["problem"] is None:
            self.accepted[record["id"]] = record
        else:
            self.problems.setdefault(record["id"], []).append(record)

    def open_rows(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The rows that have no answer yet and may still be asked about."""
        most = self._limits.max_attempts
        return [row for row in rows if row["id"] not in self.accepted and len(self.problems.get(row["id"], ())) < most]

    def run(self, rows: Sequence[Row]) -> None:
        """
        Ask about all rows that are open.

        Args:
            rows (`Sequence[dict]`): dataset rows with distinct ids.

        Raises:
            `CapReached`: at a cap. `DataError`: where no answer can be had. In each case, and on an interrupt, answers
            under way are waited for and kept, and another run continues.
        """
        todo = self.open_rows(rows)
        with ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="annotate") as pool:
            futures = [pool.submit(self._finish_row, row) for row in todo]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt:
                sys.stderr.write("stopping: waiting for the answers under way\n")
                raise
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
            errors = [error for future in done if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _finish_row(self, row: Row) -> None:
        """Ask about one row until an answer is good, attempts run out or the run stops."""
        try:
            for attempt in range(len(self.problems.get(row["id"], ())) + 1, self._limits.max_attempts + 1):
                if self._stop.is_set():
                    return
                record = self._attempt(row, attempt)
                if record is None:
                    return
                if record["problem"] is None:
                    break
            self._count_row(row)
        except BaseException:
            self._stop.set()
            raise

    def _attempt(self, row: Row, attempt: int) -> dict[str, Any] | None:
        """One answer, recorded; None where the run stops before it comes."""
        earlier = self.problems.get(row["id"])
        self.budget.reserve()
        try:
            answer = self._judged_answer(row, attempt, earlier[-1]["problem"] if earlier else None)
            if answer is None:
                return None
            annotation, problem = answer
            content = asdict(annotation)
            usage = content.pop("usage")
            kept = {key: value for key, value in content.items() if value not in (None, False)}
            record = {"id": row["id"], "attempt": attempt, "problem": problem, **kept, **usage}
            self._journal.append(record)
            with self._lock:
                self._remember(record)
            if self._limits.max_cost is not None and problem is None and usage == asdict(Usage()):
                raise DataError(
                    "the annotator does not say how many tokens an answer took, so that `max_cost` can not be held; "
                    "leave it out, and name `max_requests` (--max-requests) in its place"
                )
            return record
        finally:
            self.budget.release()

    def _judged_answer(self, row: Row, attempt: int, last_problem: str | None) -> tuple[Annotation, str | None] | None:
        """An answer and what is wrong with it; None where the run stops before it comes."""
        try:
            annotation = self._ask_patiently(row, attempt, last_problem)
        except Unusable as error:
            return Annotation("", raw=error.raw or None, usage=error.usage), str(error)
        except Rejected as error:
            return Annotation(""), f"rejected: {error}"
        return None if annotation is None else (annotation, self._check(row, annotation))

    def _ask_patiently(self, row: Row, attempt: int, problem: str | None) -> Annotation | None:
        """Ask, and ask again after rate limits, timeouts and cut connections."""
        for retry in range(self._limits.max_retries + 1):
            self._pacer.wait(self._stop)
            if self._stop.is_set():
                return None
            try:
                return self._ask(row, attempt, problem)
            except Transient as error:
                if retry == self._limits.max_retries:
                    raise DataError(
                        f"no answer after {retry} retries: {error}; the same command continues when it answers again"
                    ) from None
                if error.retry_after_seconds:
                    self._pacer.hold(error.retry_after_seconds)
                seconds = self._limits.backoff_seconds(retry, error.retry_after_seconds)
                if seconds >= _WORTH_SAYING_SECONDS:
                    sys.stderr.write(f"waiting {seconds:.0f} s: {error}\n")
                self._stop.wait(seconds)
        raise AssertionError("the last retry returns or raises")

    def _count_row(self, row: Row) -> None:
        """Say how far the run is, and stop it where nothing comes of it."""
        with self._lock:
            failed = row["id"] not in self.accepted
            self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
            cost = self._limits.cost(self.budget.used)
            lost = sum(id_ not in self.accepted for id_ in self.problems)
            self._on_step(f"{lost} without a usable answer" + ("" if cost is None else f", cost {cost:.2f}"))
            if self._failed_in_a_row >= self._limits.max_failures:
                last = self.problems[row["id"]][-1]["problem"]
                raise DataError(
                    f"{self._failed_in_a_row} rows one after the other without a usable answer, so the run stops; the "
                    f"last: {last}"
                )
