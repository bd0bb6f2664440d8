"""Which answers to look at: filters, an order, pages, and what changed from one phase to another."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from .evaluations import PLAIN, Evaluations

ANY = "any"
PAGE_ROWS = 25
CHANGES = ("wrong to right", "right to wrong", "still wrong", "still right")
# Title -> column and whether the highest come first. "gain" is J above that of the phase to compare with.
ORDERS: dict[str, tuple[str, bool]] = {
    "as in the dataset": ("", False),
    "J, lowest first": ("j", False),
    "J, highest first": ("j", True),
    "loss of J, largest first": ("gain", False),
    "gain of J, largest first": ("gain", True),
    "longest answers first": ("num_tokens", True),
    "shortest answers first": ("num_tokens", False),
}


@dataclass(frozen=True)
class Selection:
    """
    What to look at; `any` leaves a filter out.

    Args:
        phase (`str`): whose answers.
        against (`str`): the phase to compare with.
        split, swap, kind, outcome, cause (`str`): values of the columns of [`Evaluations`].
        class_named (`str`): `right` or `wrong`.
        cut (`str`): `cut` or `whole`.
        change (`str`): one of `CHANGES`, from `against` to `phase`.
        lowest_j, highest_j (`float`): both ends included; where they leave J free, references to nothing stay.
        text (`str`): what reference or answer contains, in upper or lower case.
        order (`str`): a key of `ORDERS`.
    """

    phase: str
    against: str
    split: str = ANY
    swap: str = PLAIN
    kind: str = ANY
    outcome: str = ANY
    cause: str = ANY
    class_named: str = ANY
    cut: str = ANY
    change: str = ANY
    lowest_j: float = 0.0
    highest_j: float = 1.0
    text: str = ""
    order: str = "as in the dataset"


def select(evaluations: Evaluations, wanted: Selection) -> pd.DataFrame:
    """
    The answers that pass all filters, in order.

    Args:
        evaluations (`Evaluations`): all.
        wanted (`Selection`): which.

    Returns:
        `pd.DataFrame`: lines of `evaluations.answers[wanted.phase]` with `gain` and `change`.
    """
    table = with_changes(evaluations, wanted.phase, wanted.against)
    keep = pd.Series(True, index=table.index)
    for level in ("split", "swap"):
        if getattr(wanted, level) != ANY:
            keep &= table.index.get_level_values(level) == getattr(wanted, level)
    for column in ("kind", "outcome", "cause", "change"):
        if getattr(wanted, column) != ANY:
            keep &= table[column] == getattr(wanted, column)
    if wanted.class_named != ANY:
        keep &= table["class_correct"] == (wanted.class_named == "right")
    if wanted.cut != ANY:
        keep &= table["cut"] == (wanted.cut == "cut")
    if wanted.lowest_j > 0 or wanted.highest_j < 1:
        keep &= table["j"].between(wanted.lowest_j, wanted.highest_j)
    if wanted.text.strip():
        words = wanted.text.strip()
        found = [table[name].str.contains(words, case=False, regex=False) for name in ("reference", "completion")]
        keep &= found[0] | found[1]
    column, highest_first = ORDERS[wanted.order]
    chosen = table[keep]
    return chosen.sort_values(column, ascending=not highest_first, kind="stable") if column else chosen


@lru_cache(maxsize=16)
def with_changes(evaluations: Evaluations, phase: str, against: str) -> pd.DataFrame:
    """
    A phase's answers with `gain` of J and `change` since another one, NaN and empty where that has no answer. They are
    kept: make a copy to change them.
    """
    table = evaluations.answers[phase].copy()
    before = evaluations.answers[against].reindex(table.index)
    table["gain"] = table["j"] - before["j"]
    was, now = before["outcome"] == "right", table["outcome"] == "right"
    table["change"] = ""
    for name, held in zip(CHANGES, (~was & now, was & ~now, ~was & ~now, was & now), strict=True):
        table.loc[held & before["outcome"].notna(), "change"] = name
    return table


def count_changes(evaluations: Evaluations, phase: str, against: str) -> dict[str, dict[str, int]]:
    """By split, how many answers of the plain runs each of `CHANGES` has."""
    table = with_changes(evaluations, phase, against)
    plain = table[table.index.get_level_values("swap") == PLAIN]
    counts = plain.groupby(level="split", sort=False)["change"].value_counts()
    splits = list(dict.fromkeys(plain.index.get_level_values("split")))
    return {split: {name: int(counts.get((split, name), 0)) for name in CHANGES} for split in splits}


def choices(evaluations: Evaluations, column: str) -> list[str]:
    """The values that a filter can have, in order of appearance; `any` first."""
    values: dict[Any, None] = {}
    for table in evaluations.answers.values():
        found = table.index.get_level_values(column) if column in table.index.names else table[column]
        values.update(dict.fromkeys(found.unique()))
    return [ANY, *(str(value) for value in values if value != "")]


def cut_page(table: pd.DataFrame, page: int) -> tuple[pd.DataFrame, int, int]:
    """A page of a table, its number from 0, and how many there are; a number past the end is the last page."""
    pages = max(1, -(-len(table) // PAGE_ROWS))
    page = min(max(0, page), pages - 1)
    return table.iloc[page * PAGE_ROWS : (page + 1) * PAGE_ROWS], page, pages
