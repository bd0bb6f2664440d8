"""Section 7.1 of the paper: failures by kind, the classes that fail most, and what each phase mends."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ...errors import DataError
from ...text_files import read_json
from ..score_files import ANSWERS_FILE, read_lines
from .published import FAILURE_COUNTS

# What an evaluation is compared with: the one before it.
PHASES = ("sft", "reflective", "grpo")
_SHOWN_CLASSES = 10
_ANSWER_KEYS = ("split", "row", "swap", "class_correct", "kind", "reference")
_HEARING = re.compile(
    r"\b(sound\w*|hear\w*|loud\w*|quiet\w*|silen\w*|nois\w*|music|voice\w*|audi\w*|pitch\w*|rhythm\w*|volume|melod\w*|"
    r"sing\w*|ring\w*|bark\w*|speak\w*|duration|shortest|first to|last to)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b(left|right|middle|centre|center|top|bottom|behind|front|between|next to|beside|near\w*|above|below|under|"
    r"farthest|closest|foreground|background)\b",
    re.IGNORECASE,
)


def reference_kind(reference: str) -> str:
    """
    What a reference is about, by its words: `audio` where one of them is about sound, else `spatial` where one is
    about a place, else `image`.

    Args:
        reference (`str`): the sentence.
    """
    if _HEARING.search(reference):
        return "audio"
    return "spatial" if _PLACE.search(reference) else "image"


def failure_parts(roots: Sequence[Path]) -> list[str]:
    """
    The sections on failures, as far as their files are there.

    Args:
        roots (`Sequence[Path]`): the study's output folders, one for each seed.

    Returns:
        `list[str]`: parts of the report.
    """
    return [*_taxonomy(roots), *_moves(roots)]


def _taxonomy(roots: Sequence[Path]) -> list[str]:
    """Counts of the kinds that `aurora correct` found, beside the paper's, with a chart."""
    reports = [root / "reflective.report.json" for root in roots]
    kinds: Counter[str] = Counter()
    for report in reports:
        for kind, entry in (read_json(report).get("kinds") or {} if report.is_file() else {}).items():
            if not isinstance(entry, dict) or not isinstance(entry.get("count"), int):
                raise DataError(f"{report}: `{kind}` has no `count`; run `aurora correct` again")
            kinds[kind] += entry["count"]
    if not kinds.total():
        return []
    ours, theirs = kinds.total(), sum(FAILURE_COUNTS.values())
    lines = [
        f"| {kind.replace('_', ' ')} | {kinds[kind]} | {kinds[kind] / ours:.0%} | {count} | {count / theirs:.0%} |"
        for kind, count in FAILURE_COUNTS.items()
    ]
    picture = _draw(kinds, roots[0] / "pictures" / "failures.png")
    classes = _failing_classes(roots)
    return [
        "## Section 7.1: failures by kind\n",
        "Ours are the mined mistakes that were corrected; the paper's are of an analysis of Qwen-Omni's texts.\n",
        "| kind | ours | share | paper | share |\n| --- | ---: | ---: | ---: | ---: |\n" + "\n".join(lines) + "\n",
        f"![failures by kind](pictures/{picture.name})\n",
        f"Classes that fail most: {classes}.\n" if classes else "",
    ]


def _draw(kinds: Counter[str], path: Path) -> Path:
    """Shares of the kinds as bars, ours beside the paper's."""
    names = list(FAILURE_COUNTS)
    figure, axis = plt.subplots(figsize=(7, 3.2))
    for offset, label, counts in ((0.2, "ours", kinds), (-0.2, "paper", Counter(FAILURE_COUNTS))):
        shares = [counts[name] / counts.total() for name in names]
        axis.barh([place + offset for place in range(len(names))], shares, height=0.38, label=label)
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("share of all failures", fontsize=8)
    axis.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _failing_classes(roots: Sequence[Path]) -> str:
    """The classes of the mined rows, the most frequent first, each with its number."""
    counts: Counter[str] = Counter()
    for file in (root / "hard.jsonl" for root in roots):
        for row in read_lines(file, ("class_name",)) if file.is_file() else ():
            counts[str(row["class_name"])] += 1
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(_SHOWN_CLASSES))


def _moves(roots: Sequence[Path]) -> list[str]:
    """Row by row, how many answers each phase turns from wrong to right and back, by kind of reference."""
    lines = []
    for before, after in zip(PHASES, PHASES[1:], strict=False):
        moved: dict[str, Counter[str]] = {}
        for root in roots:
            first, second = (_read_answers(root / "eval" / phase / ANSWERS_FILE) for phase in (before, after))
            for key in first.keys() & second.keys():
                kind = first[key]["kind"] or reference_kind(first[key]["reference"])
                right = bool(first[key]["class_correct"]), bool(second[key]["class_correct"])
                moved.setdefault(kind, Counter())[f"{right[0]}{right[1]}"] += 1
        for kind, counts in sorted(moved.items()):
            mended, broken = counts["FalseTrue"], counts["TrueFalse"]
            lines.append(
                f"| {before} to {after} | {kind} | {counts.total()} | {mended} | {broken} | {_net(mended, broken)} |"
            )
    if not lines:
        return []
    return [
        "## What each phase mends\n",
        "Answers about rows that match something, of the seen and the unseen split, that name the right class after a "
        "phase and did not before, and the other way round. The error is that of as many coin tosses (McNemar, 1947); "
        "bold where the difference is larger than two of them.\n",
        "| phases | reference | rows | wrong to right | right to wrong | net |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n" + "\n".join(lines) + "\n",
    ]


def _net(mended: int, broken: int) -> str:
    error = math.sqrt(mended + broken)
    text = f"{mended - broken:+d}"
    return (f"**{text}**" if abs(mended - broken) > 2 * error else text) + f" (± {error:.1f})"


def _read_answers(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Answers whose class can be right or wrong, by split and row."""
    return {
        (answer["split"], answer["row"]): answer
        for answer in (read_lines(file, _ANSWER_KEYS) if file.is_file() else ())
        if answer["swap"] is None and answer["split"] in ("test_s", "test_u") and answer["class_correct"] is not None
    }
