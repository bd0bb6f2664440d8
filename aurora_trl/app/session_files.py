"""The files of those who have the page open: uploads and results, which go when they are no longer used."""

import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

IDLE_SECONDS = 3600.0


@dataclass
class _Session:
    uploads: set[Path] = field(default_factory=set)
    folders: dict[str, Path] = field(default_factory=dict)
    last_used: float = 0.0


class SessionFiles:
    """
    Keeps files for as long as a session uses them.

    Args:
        root (`str` or `Path`): folder of all files, which exists. The server puts an upload to `root/DIGEST/NAME`,
            where the same content is one file for all.
        idle_seconds (`float`, *optional*, defaults to 3600): a session that asked for nothing for so long has ended.
    """

    def __init__(self, root: str | Path, idle_seconds: float = IDLE_SECONDS):
        self.root = Path(root).resolve()
        self.idle_seconds = idle_seconds
        self._sessions: dict[str, _Session] = {}
        self._lock = Lock()

    def hold(self, session: str, uploads: Iterable[str | Path]) -> None:
        """
        Keep these uploads for a session, and no others: what it used before goes, if no other session uses it.

        Args:
            session (`str`): its id.
            uploads (`Iterable[str]`): all files that it still shows.
        """
        with self._lock:
            known = self._touch(session)
            dropped = known.uploads - (wanted := {Path(path).resolve() for path in uploads})
            known.uploads = wanted
            self._remove_unused(dropped)
        self._sweep()

    def new_folder(self, session: str, name: str) -> Path:
        """
        An empty folder in place of the one that the session had under this name. Nobody can guess its path.

        Args:
            session (`str`): its id.
            name (`str`): what the folder is for.
        """
        folder = self.root / uuid.uuid4().hex
        folder.mkdir()
        with self._lock:
            known = self._touch(session)
            replaced = known.folders.get(name)
            known.folders[name] = folder
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        return folder

    def close(self, session: str) -> None:
        """Take away all that a session has."""
        self._end(session)
        self._sweep()

    def _end(self, session: str) -> None:
        with self._lock:
            known = self._sessions.pop(session, _Session())
            self._remove_unused(known.uploads)
        for folder in known.folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def _touch(self, session: str) -> _Session:
        known = self._sessions.setdefault(session, _Session())
        known.last_used = time.monotonic()
        return known

    def _remove_unused(self, uploads: Iterable[Path]) -> None:
        used = {path for session in self._sessions.values() for path in session.uploads}
        for path in set(uploads) - used:
            # A path comes from the page: nothing outside is touched, and no folder of another session.
            if path.parent.parent == self.root:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # another name for the same content is still there
                    path.parent.rmdir()

    def _sweep(self) -> None:
        """End sessions that are idle; remove what no session has, and empty files that Gradio 6 leaves behind."""
        now = time.monotonic()
        for session, known in list(self._sessions.items()):
            if now - known.last_used > self.idle_seconds:
                self._end(session)
        with self._lock:
            used = {path.parent for known in self._sessions.values() for path in known.uploads}
            used |= {path for known in self._sessions.values() for path in known.folders.values()}
        oldest = time.time() - self.idle_seconds
        for folder in self.root.iterdir():
            # An upload that was broken off, or that the page never showed.
            if folder.is_dir() and folder not in used and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        for path in self.root.glob("tmp*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size == 0:
                    path.unlink()
