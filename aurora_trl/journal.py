"""What a long run has got so far, on disk before anything else happens with it."""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from .disk import naming
from .errors import DataError
from .locks import RunLock
from .text_files import parse_json

logger = logging.getLogger(__name__)


def beside(output: str | Path, what: str, suffix: str = ".jsonl") -> Path:
    """The file that stands beside an output: `cot.jsonl` and `failed` give `cot.failed.jsonl`."""
    output = Path(output)
    return output.with_name(f"{output.stem}.{what}{suffix}")


def is_beside(path: Path) -> bool:
    """Whether a JSONL file is a journal or a list of failures, which a run leaves beside its output: no rows."""
    stem, _, what = path.stem.rpartition(".")
    return what in ("journal", "failed") and path.with_name(f"{stem}.journal.jsonl").exists()


def require_own_output(output: str | Path) -> None:
    """Raise `DataError` where no run can write to a file, or something else has."""
    output = Path(output)
    if output.is_dir():
        raise DataError(f"{output}: a folder; name a file, such as {output / 'rows.jsonl'}")
    if any(parent.is_file() for parent in output.parents):
        raise DataError(f"{output}: one of its folders is a file; name another --output")
    if output.exists() and not beside(output, "journal").exists():
        raise DataError(f"{output}: exists already, and not from a run of this command; name another --output")


class Journal:
    """
    An append-only JSONL file: the run's settings in its first line, then one record per answer.

    Opening one that exists continues it where its settings are the same. A last line that was cut short by a crash is
    taken off. One process at a time may hold it.

    Args:
        output (`str` or `Path`): the run's output; the journal stands beside it, as `<stem>.journal.jsonl`.
        settings (`dict`): what decides the answers; JSON values, no secrets.
        fields (`Mapping[str, type]`, *optional*): what every record must hold; an edited file may not.
        sync_seconds (`float`, *optional*, defaults to 0.0): how long a record may wait for the disk. 0 where an answer
            costs money or minutes. A killed process loses nothing in any case, only a machine that fails.
        begin_anew (`bool`, *optional*, defaults to `False`): drop what was got with other settings, and say so, in
            place of an error: for answers that cost nothing but time.

    Raises:
        `DataError`: where the output belongs to no journal, the journal to other settings or lacks something, or
            another process holds it.
    """

    def __init__(
        self,
        output: str | Path,
        settings: dict[str, Any],
        *,
        fields: Mapping[str, Any] = MappingProxyType({}),
        sync_seconds: float = 0.0,
        begin_anew: bool = False,
    ):
        self.output, self.path = Path(output), beside(output, "journal")
        self._settings, self._sync_seconds = json.loads(json.dumps(settings)), sync_seconds
        self._fields, self._begin_anew = fields, begin_anew
        self._lock, self._synced = Lock(), time.monotonic()
        require_own_output(output)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._run_lock = RunLock(beside(self.output, "lock", ""), self.path)
        with naming(self.path):
            self._run_lock.acquire()
        try:
            # Unbuffered: what can not be written does not wait to be written once more.
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (it lives as long as the journal)
            try:
                self.records = self._open()
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._run_lock.release()
            raise

    def _open(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.readall()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        lines = whole.splitlines()
        if not lines:
            self._write({"settings": self._settings})
            return []
        if self._begin_anew and lines[0] != json.dumps({"settings": self._settings}, ensure_ascii=False).encode():
            logger.warning(f"{self.path}: {len(lines) - 1} answers of other settings; they are dropped")
            self._file.truncate(0)
            self._write({"settings": self._settings})
            return []
        records = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        self._check_settings(records[0].get("settings"))
        for number, record in enumerate(records[1:], 2):
            for name, kind in self._fields.items():
                if not isinstance(record.get(name), kind):
                    raise DataError(
                        f"{self.path}, line {number}: no record of this run, its `{name}` is {record.get(name)!r}; "
                        "restore the file, or take the line out"
                    )
        return records[1:]

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = parse_json(line)
        except ValueError as error:
            raise DataError(
                f"{self.path}, line {number}: not valid JSON: {error}; restore or remove the file"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{self.path}, line {number}: not a record of a run; restore or remove the file")
        return record

    def _check_settings(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise DataError(f"{self.path}: its first line holds no settings; name another --output")
        for key in [*self._settings, *(key for key in found if key not in self._settings)]:
            before, now = found.get(key), self._settings.get(key)
            if before != now:
                raise DataError(
                    f"{self.output}: belongs to a run with `{key}` {before!r}, now it is {now!r}; name another "
                    f"--output, or move {self.path.name} and what stands beside it away"
                )

    def append(self, record: dict[str, Any]) -> None:
        """Write a record; it is safe when this returns. May be called from any thread."""
        with self._lock:
            self._write(record)
            self.records.append(record)

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        with naming(self.path, "what it holds is whole: free some, and the same command continues"):
            try:
                left = memoryview(line)
                while left:
                    left = left[self._file.write(left) :]
                if time.monotonic() - self._synced >= self._sync_seconds:
                    os.fsync(self._file.fileno())
                    self._synced = time.monotonic()
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def close(self) -> None:
        """Bring everything to the disk and let others have the file."""
        try:
            with naming(self.path):
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            self._run_lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
