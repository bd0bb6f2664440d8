"""The tables of a report, for Markdown and for HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.formats.refavs import NULL_SPLIT
from ..errors import DataError
from ..text_files import json_lines, parse_json
from .metrics import get_protocol
from .metrics.errors import standard_error

ANSWER_SHARES = {
    "class_accuracy": "right class",
    "format_accuracy": "right format",
    "null_accuracy": "null or not",
    "seg_share": "with [SEG]",
    "reflective_share": "reflective",
    "cut_share": "cut",
}


@dataclass(frozen=True)
class Table:
    """
    Texts in rows.

    Attributes:
        header (`list[str]`): a name for each column; the first column names the rows.
        lines (`list[list[str]]`): one text per column.
        note (`str`): a sentence that stands above.
    """

    header: list[str]
    lines: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        rows = "\n".join("| " + " | ".join(cells) + " |" for cells in [self.header, rule, *self.lines]) + "\n"
        return f"{self.note}\n\n{rows}" if self.note else rows


def describe_scores(protocol: str) -> str:
    """What the scores of a report are, in a few sentences."""
    rules = get_protocol(protocol)
    return (
        f"Scores by the protocol `{rules.name}`: {rules.description}. {', '.join(rules.scores)}: higher is better. S, "
        "on references that match nothing: the root of the share of pixels that were drawn all the same, lower is "
        "better. null_accuracy, on the same: the share of answers that say that nothing fits."
    )


def has_kinds(content: Mapping[str, Any]) -> bool:
    """Whether an evaluation knows what it takes to resolve its references."""
    return any(scores["by_kind"] for scores in content["splits"].values())


def shown_scores(protocol: str, split: str) -> tuple[str, ...]:
    """The scores of a split that a report shows: where no reference matches anything, J and F say nothing."""
    rules = get_protocol(protocol)
    return ("S", "null_accuracy") if split == NULL_SPLIT and "J" in rules.scores else rules.scores


def _number(scores: Mapping[str, Any], name: str, errors: bool, digits: int = 3) -> str:
    """A score, with its standard error where that is wanted and known."""
    if scores.get(name) is None:
        return ""
    error = scores.get("errors", {}).get(name) if errors else None
    return f"{scores[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def phase_table(metrics: Mapping[str, dict[str, Any]], errors: bool = False) -> Table:
    """
    The scores of each phase on each split.

    Args:
        metrics (`Mapping[str, dict]`): what `metrics.json` holds, by phase.
        errors (`bool`, *optional*, defaults to `False`): with standard errors, where the evaluation has them.
    """
    content = next(iter(metrics.values()))
    columns = [(split, score) for split in content["splits"] for score in shown_scores(content["protocol"], split)]
    lines = [
        [phase, *(_number(content["splits"][split], score, errors) for split, score in columns)]
        for phase, content in metrics.items()
    ]
    return Table(["phase", *(f"{split} {score}" for split, score in columns)], lines)


def answer_table(metrics: Mapping[str, dict[str, Any]], errors: bool = False) -> Table:
    """What the answers of each phase look like; arguments as of `phase_table`."""
    lines = [
        [
            f"{phase}, {split}",
            str(scores["rows"]),
            *(_number(scores, name, errors, 2) for name in ANSWER_SHARES),
            f"{scores['mean_tokens']:.0f}",
        ]
        for phase, content in metrics.items()
        for split, scores in content["splits"].items()
    ]
    return Table(["phase, split", "rows", *ANSWER_SHARES.values(), "tokens"], lines)


def kind_table(metrics: Mapping[str, dict[str, Any]]) -> Table:
    """J by what it takes to resolve a reference, on the first split."""
    split = next(iter(next(iter(metrics.values()))["splits"]))
    kinds = metrics[list(metrics)[-1]]["splits"][split]["by_kind"]
    lines = [
        [phase, *(_number(content["splits"][split]["by_kind"].get(kind, {}), "J", False) for kind in kinds)]
        for phase, content in metrics.items()
    ]
    header = ["phase", *(f"{kind} ({content['rows']} rows)" for kind, content in kinds.items())]
    return Table(header, lines, f"On {split}.")


def swap_table(phase: str, content: Mapping[str, Any]) -> Table:
    """The headline score with one modality taken from another clip."""
    swaps = content["swaps"]
    split = next(iter(swaps.values()))["split"]
    score = get_protocol(content["protocol"]).headline
    plain = content["splits"][split][score]
    lines = [["nothing", f"{plain:.3f}", ""]]
    lines += [[name, f"{scores[score]:.3f}", f"{scores[score] - plain:+.3f}"] for name, scores in swaps.items()]
    note = f"{score} of {phase} on {split} with one modality taken from another clip."
    return Table(["swapped", score, "difference"], lines, note)


def change_table(
    answers: Mapping[str, Sequence[dict[str, Any]]], clips: Mapping[str, Any], split: str
) -> Table | None:
    """
    What each phase changed on the references that the phase before it answered, too.

    Args:
        answers (`Mapping[str, Sequence[dict]]`): lines of `answers.jsonl` by phase, in order.
        clips (`Mapping[str, Any]`): the clip of a row, by the row's id; one that is not known is a clip of its own.
        split (`str`): the split to compare on.

    Returns:
        `Table` or `None`: None where no two phases answered the same references.
    """
    by_phase = {
        phase: {a["id"]: a for a in records if a["swap"] is None and a["split"] == split}
        for phase, records in answers.items()
    }
    lines = []
    phases = list(by_phase)
    for before, after in zip(phases, phases[1:], strict=False):
        old, new = by_phase[before], by_phase[after]
        shared = [name for name in old if name in new]
        if not shared:
            continue
        gains = [new[name]["j"] - old[name]["j"] for name in shared]
        error = standard_error(gains, [clips.get(name, name) for name in shared])
        right = [(old[name].get("class_correct"), new[name].get("class_correct")) for name in shared]
        gain = f"{sum(gains) / len(gains):+.3f}" + ("" if error is None else f" ± {error:.3f}")
        lines.append(
            [
                f"{before} → {after}",
                str(len(shared)),
                gain,
                str(right.count((False, True))),
                str(right.count((True, False))),
            ]
        )
    if not lines:
        return None
    header = ["phases", "rows", "change of J", "class now right", "class now wrong"]
    return Table(header, lines, f"On {split}, each reference compared with itself.")


def duration_table(durations: Sequence[tuple[str, float]], price_per_hour: float | None = None) -> Table:
    """
    How long each step took.

    Args:
        durations (`Sequence[tuple[str, float]]`): name and seconds.
        price_per_hour (`float`, *optional*): of the machine; adds what each step cost.
    """
    lines = []
    for name, seconds in [*durations, ("all", sum(seconds for _, seconds in durations))]:
        cost = [] if price_per_hour is None else [f"{seconds / 3600 * price_per_hour:.2f}"]
        lines.append([name, f"{seconds / 60:.1f}", *cost])
    return Table(["step", "minutes", *(["cost"] * (price_per_hour is not None))], lines)


def usage_table(journals: Sequence[Path]) -> Table | None:
    """
    What was asked of annotators.

    Args:
        journals (`Sequence[Path]`): of runs of `aurora annotate` and `aurora correct`.

    Returns:
        `Table` or `None`: None where none of them counted tokens.
    """
    lines = []
    for path in journals:
        try:
            records = [parse_json(line) for _, line in json_lines(path)]
        except ValueError as error:
            raise DataError(f"{path}: no journal of an annotator's run ({error}); move it away") from None
        counts = [
            sum(int(record.get(name) or 0) for record in records if isinstance(record, dict))
            for name in ("input_tokens", "output_tokens")
        ]
        if any(counts):
            asked = sum("attempt" in record for record in records)
            lines.append([path.name.split(".")[0], str(asked), *(f"{count:,}" for count in counts)])
    return Table(["annotator's run", "requests", "tokens read", "tokens written"], lines) if lines else None
