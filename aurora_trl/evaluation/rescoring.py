"""Scores of answers by another protocol, without the model that gave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.schema import clip_key
from ..errors import DataError
from ..text_files import read_json
from .kept_logits import AnswerReader
from .metrics import get_protocol
from .score_files import ANSWERS_FILE, METRICS_FILE, ScoreFiles, read_lines
from .scoring import Scorers, require_scorable

_KEYS = ("id", "clip", "row", "split", "swap", "kind", "completion", "num_tokens", "cut", "has_seg")


def score_again(
    folder: str | Path, splits: Mapping[str, Sequence[dict[str, Any]]], protocols: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """
    Score the answers of an evaluation by other protocols; the same to the bit as if they had been asked for then.

    Args:
        folder (`str` or `Path`): that `evaluate_model` wrote, with the logits.
        splits (`Mapping[str, Sequence[dict]]`): the rows that were evaluated on, by the split's name.
        protocols (`Sequence[str]`): of `PROTOCOLS`; each gets its `metrics.NAME.json` and `scores.NAME.jsonl`.

    Returns:
        `dict[str, dict]`: by protocol, what its `metrics.NAME.json` holds.

    Raises:
        `DataError`: where the answers, their logits or rows of theirs are not there, or a protocol's scores are.
    """
    folder = Path(folder)
    for name in protocols:
        get_protocol(name)
        if (folder / f"metrics.{name}.json").exists() or read_json(folder / METRICS_FILE).get("protocol") == name:
            raise DataError(f"{folder}: scored by `{name}` already")
    reader = AnswerReader(folder)
    runs: dict[tuple[str, str | None], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for record in read_lines(folder / ANSWERS_FILE, _KEYS):
        runs.setdefault((record["split"], record["swap"]), []).append((record, _row_of(record, splits, folder)))
    for name in protocols:
        for rows in splits.values():
            require_scorable(rows, get_protocol(name))
    first = read_json(folder / METRICS_FILE)
    files = ScoreFiles(
        protocols, first.get("max_new_tokens"), first.get("instruction"), first.get("data"), first.get("choosing")
    )
    for (split, swap), answers in runs.items():
        scorers = Scorers(protocols)
        for record, row in answers:
            record["scores"] = scorers.add(reader.read(record, row), record["row"], reader.num_frames)
        clips = {record["row"]: clip_key(row) for record, row in answers}
        records = [record for record, _ in answers]
        files.add(split, swap, scorers.compute(clips), records, [clips[record["row"]] for record in records])
    for name in protocols:
        files.write_scores(folder, name, folder / f"metrics.{name}.json")
    return files.metrics


def _row_of(record: dict[str, Any], splits: Mapping[str, Sequence[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """The dataset row that an answer is about."""
    number, split = record["row"], record["split"]
    if split not in splits:
        raise DataError(f"{folder}: its answers are about the split {split}, which the dataset does not have")
    rows = splits[split]
    row = dict(rows[number]) if isinstance(number, int) and 0 <= number < len(rows) else {}
    told = {name: record.get(name, row.get(name)) for name in ("id", "reference", "class_name")}
    if any(row.get(name) != value for name, value in told.items()):
        raise DataError(
            f"{folder}: the answer to row {record['id']!r} of {split} is about another row than the dataset's; name "
            "the one that was evaluated on with --data"
        )
    return row
