"""The files of a run: its journal, its output, the rows that got no usable answer."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.formats.jsonl import save_json
from ..data.schema import Row
from ..disk import written_whole
from ..errors import DataError
from ..journal import beside

_DECIDING = ("id", "reference", "class_name", "is_null", "target")


@dataclass(frozen=True)
class RunSummary:
    """
    What a run left.

    Args:
        output (`Path`): the file of rows.
        written (`int`): rows in it.
        failed (`int`): rows without a usable answer.
        failed_path (`Path` or `None`): the file that lists them.
    """

    output: Path
    written: int
    failed: int
    failed_path: Path | None


def rows_digest(rows: Iterable[Row]) -> str:
    """Changes with what a run is asked about: ids, references, classes and targets, in order. Media may move."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.get(key) for key in _DECIDING], ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def require_distinct_ids(rows: Iterable[Row]) -> None:
    """Answers are kept by id. Raises `DataError` where two rows share one."""
    twice = [id_ for id_, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"row {twice[0]!r}: the id occurs more than once ({len(twice)} such ids); make ids distinct")


def targets_digest(rows: Iterable[Row]) -> str:
    """Changes with the masks that answers are compared with: those in the rows, and names of files, which may move."""
    digest = hashlib.sha256()
    for row in rows:
        inside = [mask if mask is None or mask[:1] in "{[" else mask.rsplit("/", 1)[-1] for mask in row["masks"] or ()]
        digest.update(json.dumps([row.get("mask_value"), inside]).encode())
    return digest.hexdigest()[:16]


def require_classes(rows: Iterable[Row], what: str = "which the annotator's text must arrive at") -> None:
    """Raise `DataError` where a row that matches something does not say what; `what` its class is needed for."""
    row = next((row for row in rows if not row.get("class_name") and not row.get("is_null")), None)
    if row is not None:
        raise DataError(f"row {row['id']!r}: it has no `class_name`, {what}")


def write_failed(output: Path, rows: Sequence[Row], problems: dict[str, list[dict[str, Any]]]) -> Path | None:
    """
    List the rows without a usable answer beside an output, each with every answer and what was wrong with it; an
    earlier list is taken away where there are none any more.
    """
    path = beside(output, "failed")
    if not rows:
        path.unlink(missing_ok=True)
        return None
    with written_whole(path) as file:
        for row in rows:
            attempts = [
                {"problem": record["problem"], "answer": record.get("raw") or record.get("text") or ""}
                for record in problems[row["id"]]
            ]
            kept = {key: row[key] for key in ("id", "reference", "class_name")}
            file.write(json.dumps({**kept, "attempts": attempts}, ensure_ascii=False) + "\n")
    return path


def require_answers(
    failed_path: Path | None, rows: Sequence[dict[str, Any]], problems: dict[str, list[dict[str, Any]]]
) -> None:
    """Raise `DataError` for a run of which no row got a usable answer, with what was wrong with the last."""
    if failed_path is not None:
        last = problems[rows[-1]["id"]][-1]["problem"]
        raise DataError(f"{failed_path}: none of {len(rows)} rows got a usable answer; the last: {last}")


def save_keeping_previous(rows: Iterable[Row], path: str | Path) -> None:
    """Write rows to a file. Another content that it had is kept as `<name>.previous`, and a line on stderr says so."""
    path = Path(path)
    if not path.exists():
        save_json(rows, path)
        return
    fresh = path.with_name(f".{path.name}.new")
    save_json(rows, fresh)
    if fresh.read_bytes() == path.read_bytes():
        fresh.unlink()
        return
    keep_previous(path)
    fresh.replace(path)


def keep_previous(path: Path) -> None:
    """Call a file `<name>.previous`, and say so on stderr."""
    previous = path.with_name(f"{path.name}.previous")
    path.replace(previous)
    sys.stderr.write(f"{previous}: what {path.name} held before\n")
