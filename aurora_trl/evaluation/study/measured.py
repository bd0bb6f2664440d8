"""Our own scores of one row of the study, over seeds, with their standard errors."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..metrics import get_protocol
from ..metrics.errors import standard_error
from ..score_files import metrics_file, read_lines, scores_file

SCORES = ("J", "F", "J&F")


@dataclass
class Measured:
    """
    The scores of an evaluation, in per cent.

    Attributes:
        seeds (`dict[int, dict[str, tuple]]`): by the number of the seed's folder, J, F and J&F by split.
        rows (`dict[int, dict[str, dict]]`): likewise, by split and by the row's number: its clip, J, F and J&F by
            itself; empty where the evaluation has not kept them.
        name (`str`): of the evaluation.
        sizes (`dict[int, dict[str, int]]`): likewise, how many rows of a split were scored.
        num_folders (`int`): of seeds, in which it was looked for.
    """

    seeds: dict[int, dict[str, tuple[float, ...]]]
    rows: dict[int, dict[str, dict[int, tuple[str, tuple[float, ...]]]]] = field(default_factory=dict)
    name: str = ""
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    num_folders: int = 0

    @property
    def label(self) -> str:
        """Ours, and of how many seeds where others have more: worlds differ, and such means do not compare."""
        complete = len(self.seeds) >= self.num_folders
        return "ours" if complete else f"ours, {len(self.seeds)} of {self.num_folders} seeds"

    def mean(self, split: str) -> tuple[float, ...]:
        """J, F and J&F of a split over all seeds."""
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


def read_measured(roots: Sequence[Path], name: str, protocol: str) -> Measured | None:
    """
    Read what `aurora evaluate` found.

    Args:
        roots (`Sequence[Path]`): the study's output folders, one for each seed.
        name (`str`): of the evaluation, `eval/NAME`.
        protocol (`str`): by which.

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
        if metrics["protocol"] != protocol or not set(SCORES) <= set(get_protocol(protocol).scores):
            continue
        found.seeds[number] = {
            split: tuple(100 * scores[key] for key in SCORES) for split, scores in metrics["splits"].items()
        }
        found.sizes[number] = {split: scores["rows"] for split, scores in metrics["splits"].items()}
        found.rows[number] = _read_rows(scores_file(folder, protocol))
    return found if found.seeds else None


def _read_rows(file: Path) -> dict[str, dict[int, tuple[str, tuple[float, ...]]]]:
    rows: dict[str, dict[int, tuple[str, tuple[float, ...]]]] = defaultdict(dict)
    for entry in read_lines(file, ("clip", "split", "swap", "row", "J")) if file.is_file() else ():
        if entry["swap"] is None and "F" in entry:
            j, f = (_percent(file, entry, name) for name in ("J", "F"))
            rows[entry["split"]][entry["row"]] = (str(entry["clip"]), (j, f, (j + f) / 2))
    return rows


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
        place (`int`): which score: J, F or J&F.
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
        unlike = any(clips[1][row][0] != clip for row, (clip, _) in clips[0].items() if row in clips[1])
        if unlike or (None not in sizes and sizes[0] != sizes[1]):
            told = "other clips of" if unlike else f"{sizes[0]:,} and {sizes[1]:,} rows of"
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
