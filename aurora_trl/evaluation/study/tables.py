"""`aurora report --tables`: the paper's tables with our numbers beside the published ones."""

from collections.abc import Sequence
from pathlib import Path

from ...disk import written_whole
from ..metrics import get_protocol
from ..tables import Table
from .failures import failure_parts
from .figures import figure_parts
from .measured import SCORES, Measured, difference, read_measured, show
from .published import LATER, PAPER, S4, SEEN, TABLES, UNSEEN, PublishedRow, PublishedTable, find_misprints, mix_of

TABLES_FILE = "tables.md"
_NAMES = {SEEN: "seen", UNSEEN: "unseen", S4: "S4"}


def write_tables(roots: Sequence[str | Path], protocol: str = "refavs") -> Path:
    """
    Write `tables.md` into the first of some folders of the study.

    Args:
        roots (`Sequence[str | Path]`): the study's output folders, one for each seed, with `eval/NAME` in them.
        protocol (`str`, *optional*, defaults to `"refavs"`): by which Ref-AVS is scored.

    Returns:
        `Path`: the file.

    Raises:
        `ValueError`: for an unknown protocol, or where no row of the study was evaluated.
    """
    rules = get_protocol(protocol)
    folders = [Path(root) for root in roots]
    measured = {table.number: _measured(table, folders, table.protocol or protocol) for table in TABLES}
    found = [one for rows in measured.values() for one in rows.values() if one is not None]
    if not found:
        wanted = sorted({str(row.evaluation) for table in TABLES for row in table.rows if row.evaluation})
        raise ValueError(
            f"{folders[0]}/eval: holds no row of the study that is scored by `{protocol}`; the rows are "
            f"{', '.join(wanted)}"
        )
    parts = [
        "# The paper's tables\n",
        f"In per cent, by the protocol `{rules.name}`: {rules.description}. Published: {PAPER}. Seeds of ours: "
        f"{max(len(one.seeds) for one in found)}. A difference has its standard errors over clips (rows of a clip "
        "count together; F is each answer's own) and over seeds. It is bold where it is larger than two of each. A "
        "published number has no known error.\n",
    ]
    for table in TABLES:
        parts += _table_parts(table, measured[table.number])
    parts += ["## Published since\n", _later_table(), *figure_parts(folders), *failure_parts(folders)]
    file = folders[0] / TABLES_FILE
    with written_whole(file) as opened:
        opened.write("\n".join(part.rstrip("\n") + "\n" for part in parts))
    return file


def _measured(table: PublishedTable, folders: Sequence[Path], protocol: str) -> dict[str | None, Measured | None]:
    """Our evaluations of a table's rows, by name."""
    names = [row.evaluation for row in table.rows if row.evaluation is not None]
    return {name: read_measured(folders, name, protocol) for name in names}


def _table_parts(table: PublishedTable, measured: dict[str | None, Measured | None]) -> list[str]:
    """A table, what its rows differ by, and what is misprinted in it."""
    title = f"## Table {table.number}: {table.title}\n"
    splits = list(table.rows[-1].scores)
    width = len(table.rows[-1].scores[splits[0]])
    has_mix = any(row.mix is not None for row in table.rows)
    header = ["row", "", *(f"{_NAMES[split]} {key}" for split in splits for key in SCORES[:width])]
    header += [f"Mix {key}" for key in SCORES] if has_mix else []
    lines: list[list[str]] = []
    for row in table.rows:
        lines += _row_lines(row, measured.get(row.evaluation) if row.evaluation else None, splits, width)
    parts = [title, Table(header, lines).markdown()]
    if has_mix:
        parts += [_misprints()]
    if table.baseline is not None:
        parts += [_compared(table, measured)]
    return parts


def _row_lines(row: PublishedRow, ours: Measured | None, splits: Sequence[str], width: int) -> list[list[str]]:
    """Ours, published, difference; of other people's systems what is published."""
    published = [value for split in splits for value in row.scores[split]] + list(row.mix or ())
    lines = [[row.label, "published", *(f"{value:.1f}" for value in published)]]
    if row.evaluation is None:
        return lines
    if ours is None or any(split not in seed for seed in ours.seeds.values() for split in splits):
        return [[row.label, "ours", "not run", *[""] * (len(published) - 1)], ["", *lines[0][1:]]]
    own = [value for split in splits for value in ours.mean(split)[:width]]
    differences = [
        show(difference(ours, None, (split,), place, row.scores[split][place]))
        for split in splits
        for place in range(width)
    ]
    if row.mix is not None:
        mix = mix_of(ours.mean(SEEN), ours.mean(UNSEEN))
        own += mix
        both = (SEEN, UNSEEN)
        differences += [show(difference(ours, None, both, place, row.mix[place])) for place in range(width)]
    return [
        [row.label, ours.label, *(f"{value:.1f}" for value in own)],
        ["", *lines[0][1:]],
        ["", "difference", *differences],
    ]


def _compared(table: PublishedTable, measured: dict[str | None, Measured | None]) -> str:
    """What each row is away from the one that the table is about, ours and published."""
    baseline = next(row for row in table.rows if row.evaluation == table.baseline)
    base, lines = measured.get(table.baseline), []
    splits = list(baseline.scores)
    for row in table.rows:
        if row is baseline:
            continue
        ours = measured.get(row.evaluation)
        cells = []
        for split in splits:
            known = [] if ours is None or base is None else [*ours.seeds.values(), *base.seeds.values()]
            run = ours is not None and bool(known) and all(split in seed for seed in known)
            cells += [show(difference(ours, base, (split,), 2)) if run and ours is not None else "not run"]
            cells += [f"{row.scores[split][2] - baseline.scores[split][2]:+.1f}"]
        lines.append([f"{row.label} - {baseline.label}", *cells])
    header = ["J&F", *(f"{_NAMES[split]}, {who}" for split in splits for who in ("ours", "published"))]
    return "Row by row, on the same clips and seeds:\n\n" + Table(header, lines).markdown()


def _misprints() -> str:
    """What of the printed Mix is not what the caption says."""
    lines = [
        f"* {row.label}, Mix {SCORES[place]}: {(row.mix or ())[place]:.1f} is printed; the mean of seen and unseen, "
        f"as the caption defines it, is {mean:.1f}."
        for row, place, mean in find_misprints()
    ]
    return "Misprints:\n\n" + "\n".join(lines) + "\n"


def _later_table() -> str:
    lines = [
        [system.name, system.scores, system.protocol, system.source, "yes" if system.checked else "no"]
        for system in LATER
    ]
    return (
        "As their authors report it. Numbers of two protocols can not be compared. What was not read at its source is "
        "hearsay.\n\n" + Table(["system", "per cent", "protocol", "source", "read there"], lines).markdown()
    )
