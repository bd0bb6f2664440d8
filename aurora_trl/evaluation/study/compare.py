"""`aurora report --compare`: evaluations beside the first of them, on the same rows and seeds."""

from collections.abc import Sequence
from pathlib import Path

from ...data.formats.refavs import NULL_SPLIT
from ...disk import written_whole
from ..metrics import get_protocol
from ..tables import Table
from .measured import Measured, difference, read_measured, show

COMPARISON_FILE = "comparison.md"


def write_comparison(roots: Sequence[str | Path], names: Sequence[str], protocol: str = "refavs") -> Path:
    """
    Write `comparison.md` into the first of some folders: the headline of each split, S where nothing matches.

    Args:
        roots (`Sequence[str | Path]`): output folders of one chain, one for each seed, with `eval/NAME` in them.
        names (`Sequence[str]`): of the evaluations; the others are compared with the first.
        protocol (`str`, *optional*, defaults to `"refavs"`): by which they were scored.

    Returns:
        `Path`: the file.

    Raises:
        `ValueError`: for an unknown protocol, or a name that no folder has an evaluation of.
        `DataError`: where two were scored on different rows.
    """
    rules = get_protocol(protocol)
    folders = [Path(root) for root in roots]
    scores = (rules.headline, "S")
    read = {name: {score: read_measured(folders, name, protocol, (score,)) for score in scores} for name in names}
    for name, found in read.items():
        if not any(found.values()):
            raise ValueError(
                f"{folders[0]}/eval/{name}: no evaluation that is scored by `{protocol}`; run `aurora evaluate ... "
                f"--protocol {protocol} --output {folders[0]}/eval/{name}`, or rescore its answers with `aurora score`"
            )
    columns = _columns([one for found in read.values() for one in found.values() if one], rules.headline)
    header = [
        "evaluation",
        "seeds",
        *(text for split, score in columns for text in (f"{split} {score}", "difference")),
    ]
    lines = []
    for name, found in read.items():
        line = [name, str(max(len(one.seeds) for one in found.values() if one))]
        for split, score in columns:
            own, first = found[score], read[names[0]][score]
            line += [_mean(own, split), "" if name == names[0] else _difference(own, first, split)]
        lines.append(line)
    note = (
        f"In per cent, by the protocol `{rules.name}`: {rules.description}. S is lower where it is better. A "
        f"difference is to {names[0]}, on the same rows of the same seeds, with its standard errors over clips (rows "
        "of a clip count together) and over seeds; it is bold where it is larger than two of each."
    )
    file = folders[0] / COMPARISON_FILE
    with written_whole(file) as opened:
        opened.write(Table(header, lines, note).markdown())
    return file


def _columns(found: Sequence[Measured], headline: str) -> list[tuple[str, str]]:
    """Each split that was scored, and the score that says something about it."""
    splits = dict.fromkeys(split for one in found for seed in one.seeds.values() for split in seed)
    return [(split, "S" if split == NULL_SPLIT else headline) for split in splits]


def _mean(found: Measured | None, split: str) -> str:
    known = found is not None and all(split in seed for seed in found.seeds.values())
    return f"{found.mean(split)[0]:.1f}" if found is not None and known else "not run"


def _difference(own: Measured | None, first: Measured | None, split: str) -> str:
    if own is None or first is None or "not run" in (_mean(own, split), _mean(first, split)):
        return ""
    return show(difference(own, first, (split,), 0))
