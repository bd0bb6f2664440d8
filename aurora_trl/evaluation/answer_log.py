"""The answers of an evaluation as they come, and what they score: one that was cut continues from them."""

import base64
import glob
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from ..data.schema import Row
from ..journal import Journal, beside
from ..models.checkpoints.digest import checkpoint_digest

_FIELDS = {"run": int, "row": int, "record": dict, "score": str, "files": str}
_SYNC_SECONDS = 1.0


class AnswerLog(Journal):
    """
    A file beside the folder of an evaluation, one for each process; it goes when the scores are written.

    Args:
        output_dir (`Path`): the evaluation's folder.
        process (`int`): which of the processes this is.
        settings (`dict`): what decides the answers and their scores. Answers of other settings are dropped: they cost
            nothing but time.

    Raises:
        `DataError`: where another process holds the file, or somebody has edited it.
    """

    def __init__(self, output_dir: Path, process: int, settings: dict[str, Any]):
        output = _output(output_dir, str(process))
        super().__init__(output, settings, fields=_FIELDS, sync_seconds=_SYNC_SECONDS, begin_anew=True)
        self._kept = {(record["run"], record["row"]): record for record in self.records}
        self.records.clear()  # the file has them
        if self._kept:
            sys.stderr.write(f"{self.path}: {len(self._kept)} answers of a run that was cut; continuing\n")

    def take_over(
        self, run: int, share: Sequence[int], batch_size: int, digest: Callable[[int], str]
    ) -> dict[int, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
        """
        The answers of whole batches: a batch with a row missing is answered again, as it was put together. So is one
        of which a file has changed.

        Args:
            run (`int`): which of the evaluation's runs over a split.
            share (`Sequence[int]`): the numbers of the rows that this process answers, batch by batch.
            batch_size (`int`): rows per batch.
            digest (`Callable`): by the row's number, what tells its files from others, see `files_digest`.

        Returns:
            `dict`: by row, the answer's record and what the metrics kept of it.
        """
        batches = (share[start : start + batch_size] for start in range(0, len(share), batch_size))
        whole = [batch for batch in batches if all((run, row) in self._kept for row in batch)]
        true = [batch for batch in whole if all(self._kept[run, row]["files"] == digest(row) for row in batch)]
        if len(true) < len(whole):
            sys.stderr.write(
                f"{self.path}: {sum(map(len, whole)) - sum(map(len, true))} answers are about files that have changed "
                "since, or stand beside such in a batch; these rows are asked about again\n"
            )
        found = {row: self._kept[run, row] for batch in true for row in batch}
        return {row: (kept["record"], _unpack(kept["score"])) for row, kept in found.items()}

    def add(self, run: int, row: int, record: dict[str, Any], kept: Mapping[str, torch.Tensor], files: str) -> None:
        """Write an answer; it is safe when this returns."""
        self._write({"run": run, "row": row, "record": record, "score": _pack(kept), "files": files})


def evaluation_settings(checkpoint: str | Path, splits: Mapping[str, Iterable[Row]], **others: Any) -> dict[str, Any]:
    """What decides the answers of an evaluation: the model, the rows, and others."""
    rows = {
        name: hashlib.sha256(json.dumps([dict(row) for row in rows], default=str).encode()).hexdigest()[:16]
        for name, rows in splits.items()
    }
    return {"task": "evaluation", "checkpoint": checkpoint_digest(checkpoint), "splits": rows, **others}


def remove_answer_logs(output_dir: Path) -> None:
    """Take away the files of all processes, those of an earlier run with more of them, too."""
    named = output_dir.with_name(glob.escape(output_dir.name))
    for path in output_dir.parent.glob(beside(_output(named, "*"), "journal").name):
        path.unlink(missing_ok=True)


def _output(output_dir: Path, process: str) -> Path:
    return output_dir.with_name(f"{output_dir.name}.answers-{process}.jsonl")


def _pack(tensors: Mapping[str, torch.Tensor]) -> str:
    return base64.b64encode(
        zlib.compress(save({name: value.contiguous() for name, value in tensors.items()}))
    ).decode()


def _unpack(text: str) -> dict[str, torch.Tensor]:
    return load(zlib.decompress(base64.b64decode(text)))
