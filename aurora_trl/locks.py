"""One run at a time writes to a folder. A lock says whose it is, and does not outlive the run that was killed."""

import atexit
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from .errors import DataError

# The Hub gets nothing whose name begins so.
LOCK_FILE = "_lock"
# Set by a chain for what it starts: its lock's id. What a killed chain left running is found by it.
CHAIN_VARIABLE = "AURORA_CHAIN"
_BEAT_SECONDS = 10.0
# A run on another machine that shows no sign of life for so long is dead.
_SILENCE_SECONDS = 60.0
_POLL_SECONDS = 1.0


class RunLock:
    """
    A file that exists while a run writes to what it stands for.

    Whether another's run still lives is seen from its process where that is on this machine. Where it is not, the run
    touches the file now and then, and is watched for a minute before its lock is taken: no two clocks are compared.

    Args:
        path (`Path`): the lock's file.
        locked (`Path`): what is locked, for the message.
    """

    def __init__(self, path: Path, locked: Path):
        self.path, self.locked = path, locked
        self.record: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "command": shlex.join(Path(word).name if n == 0 else word for n, word in enumerate(sys.argv))[:200],
            "machine": _machine(),
            "start": _start_of(os.getpid()),
            "id": uuid.uuid4().hex,
        }
        self._released = threading.Event()
        self._made_folder = False

    def acquire(self) -> dict[str, Any] | None:
        """
        Take the lock.

        Returns:
            `dict` or `None`: the record of a dead run whose lock it was.

        Raises:
            `DataError`: where another run has it; names host, process and since when.
        """
        self._made_folder = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _LIVE.add(self.record["id"])
        try:
            dead = self._take()
        except BaseException:
            _LIVE.discard(self.record["id"])
            raise
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return dead

    def _take(self) -> dict[str, Any] | None:
        dead = None
        while not self._create():
            found = _read(self.path)
            if found is None:
                continue  # released just now
            if self._is_alive(found):
                raise DataError(
                    f"{self.locked}: another run is writing it: process {found.get('process')} on {found.get('host')} "
                    f"since {found.get('since')} ({found.get('command')}); wait for it or end it"
                )
            dead = found
            self._take_away(found)
        return dead

    def release(self) -> None:
        """Let others have it; a folder that was made for the lock alone goes, too."""
        self._released.set()
        _LIVE.discard(self.record["id"])
        # A child that was forked has a copy of this object, and another's lock may stand there now.
        if os.getpid() == self.record["process"] and self.is_held():
            self.path.unlink(missing_ok=True)
            if self._made_folder:
                with suppress(OSError):  # it holds what the run has written
                    self.path.parent.rmdir()

    def is_held(self) -> bool:
        """Whether the file is still this run's."""
        return (_read(self.path) or {}).get("id") == self.record["id"]

    def _create(self) -> bool:
        """Make the file, whole and at once; False where there is one."""
        temporary = self.path.with_name(f"{self.path.name}.{self.record['id']}")
        temporary.write_text(json.dumps(self.record), encoding="utf-8")
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        except OSError:  # no links here
            try:
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(json.dumps(self.record))
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _take_away(self, judged: dict[str, Any]) -> None:
        """Remove a dead run's file, and not that of a run which has done so just before and is alive."""
        with suppress(FileNotFoundError), open(self.path, "rb") as file:
            with suppress(OSError):  # a file system that knows no such locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)) and _read(self.path) == judged:
                self.path.unlink()

    def _is_alive(self, record: dict[str, Any]) -> bool:
        if record.get("machine") == self.record["machine"] and isinstance(record.get("process"), int):
            if record["process"] == os.getpid() and record.get("start") == self.record["start"]:
                return record.get("id") in _LIVE
            return _start_of(record["process"]) == record.get("start")
        return self._shows_life(record)

    def _shows_life(self, record: dict[str, Any]) -> bool:
        """Watch a lock of another machine."""
        seen = _changed(self.path)
        waited = min(self._age(seen), _SILENCE_SECONDS)
        if waited < _SILENCE_SECONDS:
            sys.stderr.write(
                f"{self.locked}: a run of {record.get('host')} may be writing it; watching it for "
                f"{_SILENCE_SECONDS - waited:.0f} s\n"
            )
        started = time.monotonic()
        while waited + time.monotonic() - started < _SILENCE_SECONDS:
            time.sleep(_POLL_SECONDS)
            if _changed(self.path) != seen:
                return True
        return False

    def _age(self, changed: float | None) -> float:
        """Seconds since the lock was touched, both by the clock of the disk that it is on."""
        if changed is None:
            return 0.0
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            temporary.touch()
            return max(0.0, temporary.stat().st_mtime - changed)
        finally:
            temporary.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_SECONDS):
            with suppress(OSError):
                if self.is_held():
                    os.utime(self.path)


# Ids of this process' own locks; and those of `hold`, by their file.
_LIVE: set[str] = set()
_HELD: dict[Path, RunLock] = {}


def hold(path: str | Path, locked: str | Path | None = None) -> dict[str, Any] | None:
    """
    Lock a file or folder until `release`, or the end of the process. Once more in the same process is allowed.

    Args:
        path (`str` or `Path`): the lock's file.
        locked (`str` or `Path`, *optional*): what it stands for; its folder by default.

    Returns:
        `dict` or `None`: the record of a dead run, such as one that was killed, whose lock it was.

    Raises:
        `DataError`: where another run has it; names host, process and since when.
    """
    path = Path(path)
    key = path.absolute()
    if key in _HELD and _HELD[key].record["process"] == os.getpid() and _HELD[key].is_held():
        return None
    lock = RunLock(path, path.parent if locked is None else Path(locked))
    dead = lock.acquire()
    _HELD[key] = lock
    return dead


def release(path: str | Path) -> None:
    """Let others have what `hold` has locked."""
    lock = _HELD.pop(Path(path).absolute(), None)
    if lock is not None:
        lock.release()


def require_held(path: str | Path) -> None:
    """Raise `DataError` where a lock of this process was taken by another run, while this machine slept."""
    lock = _HELD.get(Path(path).absolute())
    if lock is not None and not lock.is_held():
        raise DataError(
            f"{lock.locked}: another run has taken it over ({(_read(lock.path) or {}).get('host')}), since this one "
            "showed no sign of life; nothing more is written"
        )


def lock_id(path: str | Path) -> str:
    """The id of a lock that is held; for `CHAIN_VARIABLE`."""
    return str(_HELD[Path(path).absolute()].record["id"])


@atexit.register
def release_all() -> None:
    """Let others have all that this process has locked."""
    for path in list(_HELD):
        with suppress(OSError):
            release(path)


def end_leftovers(chain: str) -> list[int]:
    """
    End the processes that a killed chain has started, and that still write where it wrote.

    Args:
        chain (`str`): the id of its lock.

    Returns:
        `list[int]`: the processes that were ended.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(CHAIN_VARIABLE) == chain:
                found.append(process)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=30)
    return [process.pid for process in found]


def _read(path: Path) -> dict[str, Any] | None:
    """A lock's record; empty where it can not be read, None where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _changed(path: Path) -> float | None:
    try:
        with open(
            path, "rb"
        ) as file:  # which a network file system answers anew, where it may answer `stat` from memory
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _machine() -> str:
    """This boot of this machine, and the space that its process numbers are from: containers have one of their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_of(process: int) -> str | None:
    """When a process started, so that another of the same number is told apart; None where it is gone."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]  # ticks since the machine started; no clock can be set back
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        return None
    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.2f}"
    except psutil.Error:
        return None
