"""One journal of a run that several processes share."""

import glob
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from ..evaluation.evaluate import process_state
from ..journal import Journal, beside


@contextmanager
def open_shared_journal(
    output: str | Path, settings: dict[str, Any], *, fields: Mapping[str, Any], sync_seconds: float
) -> Iterator[Journal]:
    """
    A [`Journal`] for all processes that a launcher started (`torchrun`, `accelerate launch`), or for the only one.

    Each writes what it gets to a file of its own, `<stem>.part-<process>.journal.jsonl` for all but the first, whose
    file is the run's. The next run, by any number of processes, takes up what one that was cut has left in them.

    Args:
        output, settings, fields, sync_seconds: see [`Journal`].

    Yields:
        `Journal`: its `records` are those of all processes when the block begins, and its own and those when it ends.
            `collect_records` brings them together.
    """
    state = process_state()
    with ExitStack() as files:
        if state.is_main_process:
            journal = files.enter_context(Journal(output, settings, fields=fields, sync_seconds=sync_seconds))
            _take_up_parts(journal, settings, fields)
        if state.num_processes > 1:
            known: list[Any] = [journal.records if state.is_main_process else None]
            broadcast_object_list(known)
        if not state.is_main_process:
            part = _part_of(output, str(state.process_index))
            journal = files.enter_context(Journal(part, settings, fields=fields, sync_seconds=sync_seconds))
            journal.records += known[0]
        yield journal


def collect_records(journal: Journal) -> list[dict[str, Any]]:
    """
    The records of all processes, on each of them; the run's file has them, and the parts are gone.

    Args:
        journal (`Journal`): from `open_shared_journal`, of which this process asks nothing more.
    """
    state = process_state()
    if state.num_processes == 1:
        return journal.records
    everything = gather_object(journal.records)
    if state.is_main_process:
        _add_new(journal, everything)
    state.wait_for_everyone()
    if not state.is_main_process:
        journal.path.unlink(missing_ok=True)
    return _distinct(everything)


def _take_up_parts(journal: Journal, settings: dict[str, Any], fields: Mapping[str, Any]) -> None:
    named = journal.output.with_name(glob.escape(journal.output.name))
    pattern = beside(_part_of(named, "*"), "journal").name
    for path in sorted(journal.path.parent.glob(pattern)):
        part = path.with_name(path.name.replace(".journal", ""))
        with Journal(part, settings, fields=fields) as left:
            _add_new(journal, left.records)
        path.unlink()


def _add_new(journal: Journal, records: list[dict[str, Any]]) -> None:
    known = {_key(record) for record in journal.records}
    for record in records:
        if _key(record) not in known:
            known.add(_key(record))
            journal.append(record)


def _distinct(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({_key(record): record for record in records}.values())


def _key(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


def _part_of(output: str | Path, process: str) -> Path:
    return beside(output, f"part-{process}")
