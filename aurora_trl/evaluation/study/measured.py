"""Our own scores of one row of the study, over seeds, with their standard errors."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..metrics.errors import standard_error
from ..score_files import metrics_file, read_lines, scores_file

SCORES = ("J", "F", "J&F")
# What was printed is known to half of its last digit.
_HALF_DIGIT = 0.05 + 1e-9


@dataclass
class Measured:
    """
    The scores of an evaluation, in per cent.

    Attributes:
        seeds (`dict[int, dict[str, tuple]]`): by the number of the seed's folder, the scores by split.
        rows (`dict[int, dict[str, dict]]`): likewise, by split and by the row's number: its clip, and its scores by
            itself; empty where the evaluation has not kept them.
        ids (`dict[int, dict[str, dict]]`): likewise, the row's id.
        name (`str`): of the evaluation.
        sizes (`dict[int, dict[str, int]]`): likewise, how many rows of a split were scored.
        num_folders (`int`): of seeds, in which it was looked for.
    """

    seeds: dict[int, dict[str, tuple[float, ...]]]
    rows: dict[int, dict[str, dict[int, tuple[str, tuple[float, ...]]]]] = field(default_factory=dict)
    name: str = ""
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    num_folders: int = 0
    ids: dict[int, dict[str, dict[int, str]]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Ours, and of how many seeds where others have more: worlds differ, and such means do not compare."""
        complete = len(self.seeds) >= self.num_folders
        return "ours" if complete else f"ours, {len(self.seeds)} of {self.num_folders} seeds"

    def mean(self, split: str) -> tuple[float, ...]:
        """The scores of a split over all seeds."""
        return tuple(
            float(np.mean(values)) for values in zip(*(seed[split] for seed in self.seeds.values()), strict=True)
        )


@dataclass(frozen=True)
class Difference:
    """
    A difference, in points of per cent.

    Attributes:
        value (`float`): over all seeds.
        over_clips (`float` or `None`): its standard error over clips: rows of a clip count together.
        over_seeds (`float` or `None`): its standard error over seeds; None for one seed.
    """

    value: float
    over_clips: float | None = None
    over_seeds: float | None = None

    @property
    def is_one(self) -> bool:
        """Whether it is larger than twice each standard error that is known, and one is known."""
        errors = [error for error in (self.over_clips, self.over_seeds) if error is not None]
        return bool(errors) and abs(self.value) > 2 * max(errors)

    def __str__(self) -> str:
        """With its errors, bold where it is one; what is within the rounding of a printed number is 0."""
        value = 0.0 if abs(self.value) <= _HALF_DIGIT else self.value
        errors = [
            f"{error:.1f} {what}"
            for error, what in ((self.over_clips, "clips"), (self.over_seeds, "seeds"))
            if error is not None
        ]
        text = f"{value:+.1f}" if value else "0.0"
        text = f"**{text}**" if self.is_one and value else text
        return text + (f" (± {', '.join(errors)})" if errors else "")


def show(found: Difference | None) -> str:
    """A difference as a table has it; None is that of two that share no seed."""
    return "no seed in common" if found is None else str(found)


def read_measured(roots: Sequence[Path], name: str, protocol: str, scores: Sequence[str] = SCORES) -> Measured | None:
    """
    Read what `aurora evaluate` found.

    Args:
        roots (`Sequence[Path]`): the study's output folders, one for each seed.
        name (`str`): of the evaluation, `eval/NAME`.
        protocol (`str`): by which.
        scores (`Sequence[str]`, *optional*, defaults to J, F and J&F): which; a split that lacks one is left out.

    Returns:
        `Measured` or `None`: None where it was not run in any of the folders, or not scored by the protocol.
    """
    from ..report import read_metrics  # what it checks, the tables need

    found = Measured({}, name=name, num_folders=len(roots))
    for number, root in enumerate(roots):
        folder = root / "eval" / name
        file = metrics_file(folder, protocol)
        if not file.is_file():
            continue
        metrics = read_metrics(folder, file.name)
        splits = {
            split: values
            for split, values in metrics["splits"].items()
            if all(values.get(key) is not None for key in scores)
        }
        if metrics["protocol"] != protocol or not splits:
            continue
        found.seeds[number] = {split: tuple(100 * values[key] for key in scores) for split, values in splits.items()}
        found.sizes[number] = {split: values["rows"] for split, values in splits.items()}
        found.rows[number], found.ids[number] = _read_rows(scores_file(folder, protocol), scores)
    return found if found.seeds else None


def _read_rows(
    file: Path, scores: Sequence[str]
) -> tuple[dict[str, dict[int, tuple[str, tuple[float, ...]]]], dict[str, dict[int, str]]]:
    """What each answer scores by itself, where it has all the scores, and its row's id; J&F is the mean of the two."""
    ids: dict[str, dict[int, str]] = defaultdict(dict)
    rows: dict[str, dict[int, tuple[str, tuple[float, ...]]]] = defaultdict(dict)
    parts = sorted({part for score in scores for part in score.split("&")})
    for entry in read_lines(file, ("id", "clip", "split", "swap", "row", "J")) if file.is_file() else ():
        if entry["swap"] is None and all(part in entry for part in parts):
            known = {part: _percent(file, entry, part) for part in parts}
            values = tuple(float(np.mean([known[part] for part in score.split("&")])) for score in scores)
            rows[entry["split"]][entry["row"]] = (str(entry["clip"]), values)
            ids[entry["split"]][entry["row"]] = str(entry["id"])
    return rows, ids


def _percent(file: Path, entry: dict[str, Any], name: str) -> float:
    if not isinstance(entry[name], int | float):
        raise DataError(f"{file}: `{name}` of row {entry['row']!r} is no number; evaluate that checkpoint again")
    return 100.0 * entry[name]


def difference(
    ours: Measured, other: Measured | None, splits: Sequence[str], place: int, published: float = 0.0
) -> Difference | None:
    """
    A score of ours without another of ours, row by row and seed by seed, or without a published number.

    Args:
        ours (`Measured`): in per cent.
        other (`Measured` or `None`): on the same rows; None: `published`, whose own error is not known.
        splits (`Sequence[str]`): one, or several whose mean counts.
        place (`int`): which of the scores that were read.
        published (`float`, *optional*, defaults to 0.0): in per cent.

    Returns:
        `Difference` or `None`: None where the two share no seed.

    Raises:
        `DataError`: where the two were scored on different rows.
    """
    # A seed that one of the two lacks has no partner.
    shared = [number for number in ours.seeds if other is None or number in other.seeds]
    if not shared:
        return None
    by_seed = []
    for number in shared:
        _require_same_rows(ours, other, number, splits)
        own = [ours.seeds[number][split][place] for split in splits]
        theirs = [published if other is None else other.seeds[number][split][place] for split in splits]
        by_seed.append(float(np.mean(own) - np.mean(theirs)))
    errors = [_error_over_clips(ours, other, shared, split, place) for split in splits]
    known = [error for error in errors if error is not None]
    return Difference(
        float(np.mean(by_seed)),
        math.hypot(*known) / len(known) if len(known) == len(splits) else None,  # splits share no clip
        None if len(shared) < 2 else float(np.std(by_seed, ddof=1)) / math.sqrt(len(shared)),
    )


def _require_same_rows(ours: Measured, other: Measured | None, seed: int, splits: Sequence[str]) -> None:
    """Raise `DataError` where two evaluations of a seed have other rows, or one is of more."""
    for split in () if other is None else splits:
        assert other is not None
        sizes = [one.sizes.get(seed, {}).get(split) for one in (ours, other)]
        clips = [one.rows.get(seed, {}).get(split, {}) for one in (ours, other)]
        ids = [one.ids.get(seed, {}).get(split, {}) for one in (ours, other)]
        # Clips are called by their place in a split, which those of another dataset have, too.
        unlike = any(clips[1][row][0] != clip for row, (clip, _) in clips[0].items() if row in clips[1])
        unlike = unlike or any(ids[1].get(row, name) != name for row, name in ids[0].items())
        if unlike or (None not in sizes and sizes[0] != sizes[1]):
            told = "other rows of" if unlike else f"{sizes[0]:,} and {sizes[1]:,} rows of"
            raise DataError(
                f"eval/{ours.name} and eval/{other.name} are scores of {told} {split}: they can not be compared; "
                "evaluate one of them again on the same data, with the same `--max-rows`"
            )


def _error_over_clips(
    ours: Measured, other: Measured | None, seeds: Sequence[int], split: str, place: int
) -> float | None:
    """The standard error of a mean over rows that come in clips."""
    rows: dict[tuple[int, str], list[float]] = defaultdict(list)  # over seeds, which may have worlds of their own
    for seed in seeds:
        theirs = {} if other is None else other.rows.get(seed, {}).get(split, {})
        for row, (clip, scores) in ours.rows.get(seed, {}).get(split, {}).items():
            if other is None or row in theirs:
                rows[row, clip].append(scores[place] - (theirs[row][1][place] if other is not None else 0.0))
    return standard_error([float(np.mean(values)) for values in rows.values()], [clip for _, clip in rows])
