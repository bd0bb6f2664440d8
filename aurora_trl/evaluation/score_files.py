"""The files of an evaluation: the scores by each protocol, what each answer scores by itself, and the answers."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..disk import written_whole
from ..errors import DataError
from ..text_files import json_lines, parse_json
from .metrics import get_protocol
from .metrics.errors import standard_error

METRICS_FILE, ANSWERS_FILE = "metrics.json", "answers.jsonl"
# Name of the mean, and of what it is taken over.
_MEANS = {
    "class_accuracy": "class_correct",
    "format_accuracy": "format_correct",
    "null_accuracy": "null_correct",
    "seg_share": "has_seg",
    "reflective_share": "reflective",
    "mean_tokens": "num_tokens",
    "cut_share": "cut",
}
# And of answers that were chosen out of several.
_CHOICE_MEANS = {
    "mean_choice_score": "choice_score",
    "mean_answers": "num_answers",
    "mean_written_tokens": "written_tokens",
    "mean_checks": "num_checks",
}
_SCORE_KEYS = ("id", "clip", "split", "swap", "row")


def metrics_file(folder: Path, protocol: str) -> Path:
    """Where an evaluation's scores by a protocol are: that of its first one is `metrics.json`."""
    named = folder / f"metrics.{protocol}.json"
    return named if named.is_file() else folder / METRICS_FILE


def scores_file(folder: Path, protocol: str) -> Path:
    """Where what each answer scores by itself is, a line each."""
    return folder / f"scores.{protocol}.jsonl"


def read_lines(file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """
    The lines of `answers.jsonl` or of a file of scores.

    Args:
        file (`Path`): that an evaluation wrote.
        keys (`Sequence[str]`): what every line must hold.

    Raises:
        `DataError`: names the file, the line and what is wrong with it.
    """
    lines = []
    for number, text in json_lines(file):
        where, again = f"{file}, line {number}", "evaluate that checkpoint again"
        try:
            line = parse_json(text)
        except ValueError as error:
            raise DataError(f"{where}: not written by an evaluation ({error}); {again}") from None
        lacking = next((key for key in keys if not isinstance(line, dict) or key not in line), None)
        if lacking is not None:
            raise DataError(f"{where}: it has no `{lacking}`; {again}")
        lines.append(line)
    return lines


class ScoreFiles:
    """
    Collects the scores of an evaluation's runs over splits, and writes them.

    Args:
        protocols (`Sequence[str]`): by which the answers are scored.
        max_new_tokens (`int` or `None`): the longest answer, in tokens; None where an earlier version did not say.
        instruction (`str` or `None`): what was asked, with the place of the reference.
        data (`Mapping[str, str | None]`, *optional*): `path`, `format` and `subset` of the dataset.
        choosing (`Mapping[str, Any]`, *optional*): how answers were chosen out of several, see
            [`~aurora_trl.generation.choosing.Choosing`].
    """

    def __init__(
        self,
        protocols: Sequence[str],
        max_new_tokens: int | None,
        instruction: str | None,
        data: Mapping[str, str | None] | None = None,
        choosing: Mapping[str, Any] | None = None,
    ):
        self.metrics: dict[str, dict[str, Any]] = {}
        self.records: list[dict[str, Any]] = []
        for name in protocols:
            rules = get_protocol(name)
            self.metrics[name] = {
                "protocol": name,
                "description": rules.description,
                "scores": list(rules.scores),
                "splits": {},
                "swaps": {},
                "max_new_tokens": max_new_tokens,
                "instruction": instruction,
                "data": None if data is None else dict(data),
                **({"choosing": dict(choosing)} if choosing else {}),
            }

    def add(
        self,
        split: str,
        swap: str | None,
        scores: dict[str, dict[str, Any]],
        records: Sequence[dict[str, Any]],
        clips: Sequence[Hashable],
    ) -> None:
        """
        Add a run.

        Args:
            split (`str`), swap (`str` or `None`): which one.
            scores (`dict[str, dict]`): by protocol, of all answers together.
            records (`Sequence[dict]`): the answers in the split's order, with `scores` of each by protocol.
            clips (`Sequence[Hashable]`): the clip of each answer.
        """
        for name, metrics in self.metrics.items():
            summary = _summarize(records, clips, scores[name], name)
            if swap is None:
                metrics["splits"][split] = summary
            else:
                metrics["swaps"][swap] = {"split": split, **summary}
        self.records += records

    def write(self, folder: Path) -> None:
        """The answers first, each file whole or not at all: where there are scores, there are answers."""
        with written_whole(folder / ANSWERS_FILE) as file:
            for record in self.records:
                line = {key: value for key, value in record.items() if key != "scores"}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        first, *others = self.metrics
        for name in others:
            self.write_scores(folder, name, folder / f"metrics.{name}.json")
        self.write_scores(folder, first, folder / METRICS_FILE)

    def write_scores(self, folder: Path, protocol: str, file: Path) -> None:
        """Write the scores by one protocol."""
        lines: Iterable[dict[str, Any]] = (
            {**{key: record[key] for key in _SCORE_KEYS}, **record["scores"][protocol]} for record in self.records
        )
        with written_whole(scores_file(folder, protocol)) as opened:
            opened.writelines(json.dumps(line) + "\n" for line in lines)
        with written_whole(file) as opened:
            opened.write(json.dumps(self.metrics[protocol], indent=2) + "\n")


def _summarize(
    records: Sequence[dict[str, Any]], clips: Sequence[Hashable], scores: dict[str, Any], protocol: str
) -> dict[str, Any]:
    """The scores of one run with means over its answers, the standard errors of both, and J by kind of reference."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] is not None:
            by_kind[record["kind"]].append(record["scores"][protocol]["J"])
    means: dict[str, float | None] = {}
    errors: dict[str, float] = dict(scores["errors"])
    means_of = {**_MEANS, **(_CHOICE_MEANS if any("num_answers" in record for record in records) else {})}
    for name, key in means_of.items():
        known = [
            (float(record[key]), clip) for record, clip in zip(records, clips, strict=True) if record[key] is not None
        ]
        values, owners = [value for value, _ in known], [clip for _, clip in known]
        means[name] = sum(values) / len(values) if values else None
        error = standard_error(values, owners)
        if error is not None:
            errors[name] = error
    kinds = {kind: {"J": sum(values) / len(values), "rows": len(values)} for kind, values in sorted(by_kind.items())}
    return {**scores, "rows": len(records), **means, "errors": errors, "by_kind": kinds}
