"""Rows of several datasets in one, each with the share that it is to have of what is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset, concatenate_datasets

from ..errors import DataError

# Which dataset a row is from, and how often it is drawn compared with the others.
SOURCE_COLUMN, WEIGHT_COLUMN = "mixture_source", "mixture_weight"


@dataclass(frozen=True)
class Source:
    """
    A dataset of a mixture.

    Attributes:
        name (`str`): in logs and before the rows' ids.
        weight (`float`): how often its rows are drawn, compared with the others' weights.
        rows (`Dataset`): with the columns of `aurora_trl.data.schema`.
    """

    name: str
    weight: float
    rows: Dataset


def mix_datasets(sources: Sequence[Source]) -> Dataset:
    """
    The rows of several datasets, one after the other, which trainers draw by weight.

    Args:
        sources (`Sequence[Source]`): with names of their own.

    Returns:
        `Dataset`: with the columns that any of them has, the name of the source before each `id`, and two columns that
            say to a trainer's sampler where a row is from and what weight that has.

    Raises:
        `DataError`: where two have one name, or a column of one's own is of different kinds.
    """
    names = [source.name for source in sources]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"two datasets of the mixture are called {twice!r}; give each a `name` of its own")
    parts = []
    for source in sources:
        rows = prefix_ids(source.rows, source.name)
        rows = rows.add_column(SOURCE_COLUMN, [source.name] * len(rows))
        parts.append(rows.add_column(WEIGHT_COLUMN, [float(source.weight)] * len(rows)))
    _require_same_kinds(sources)
    return concatenate_datasets(parts)


def prefix_ids(rows: Dataset, name: str) -> Dataset:
    """The rows with the name of their source before each id: two datasets may number theirs alike."""
    ids = [f"{name}:{row_id}" for row_id in rows["id"]]
    return rows.remove_columns("id").add_column("id", ids).select_columns(rows.column_names)


def source_weights(rows: Dataset) -> dict[str, float]:
    """The sources of a mixture in order, with their weights; empty where rows are no mixture, as a stream is none."""
    if not isinstance(rows, Dataset) or WEIGHT_COLUMN not in rows.column_names:
        return {}
    return dict(zip(rows[SOURCE_COLUMN], rows[WEIGHT_COLUMN], strict=True))


def _require_same_kinds(sources: Sequence[Source]) -> None:
    known: dict[str, tuple[str, object]] = {}
    for source in sources:
        for column, kind in source.rows.features.items():
            if getattr(kind, "dtype", None) == "null":  # no row has a value there
                continue
            name, first = known.setdefault(column, (source.name, kind))
            if first != kind:
                raise DataError(
                    f"the column `{column}` is of one kind in {name!r} and of another in {source.name!r}; make them "
                    "alike, or leave it out of one"
                )
