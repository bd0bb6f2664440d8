"""Figures 8 and 9 of the paper: GRPO with and without the reflective phase before it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..visualize import draw_curves, read_curves, read_history

# Our phases, with the paper's words for them.
PHASES = {"grpo": "with the reflective phase", "grpo-no-reflective": "without it"}
FIGURES = {
    8: ("reward", "rewards/class_reward/mean", "rewards/iou_reward/mean"),
    9: (
        "completions/mean_length",
        "reward_std_in_group",
        "equal_reward_share",
        "reflective_share",
        "completions/clipped_ratio",
    ),
}
WORDS = {
    "reward": "reward",
    "rewards/class_reward/mean": "class reward",
    "rewards/iou_reward/mean": "IoU reward",
    "completions/mean_length": "length of an answer, tokens",
    "reward_std_in_group": "deviation within a group",
    "equal_reward_share": "groups whose rewards are all equal",
    "reflective_share": "reflective answers",
    "completions/clipped_ratio": "cut answers",
}
_PART = 0.1  # of the steps, at either end


def figure_parts(roots: Sequence[Path]) -> list[str]:
    """
    Draw both figures of the first seed, and put the ends of the curves into a table: of the seeds that have both
    phases, where some have.

    Args:
        roots (`Sequence[Path]`): the study's output folders, one for each seed.

    Returns:
        `list[str]`: parts of the report; none where no GRPO phase was trained.
    """
    states = {phase: [root / phase / "trainer_state.json" for root in roots] for phase in PHASES}
    # Seeds have worlds of their own: where some have both, these alone compare.
    both = [i for i in range(len(roots)) if all(files[i].is_file() for files in states.values())]
    kept = both or range(len(roots))
    states = {phase: [files[i] for i in kept if files[i].is_file()] for phase, files in states.items()}
    first = [(PHASES[phase], found[0]) for phase, found in states.items() if found]
    if not first:
        return []
    parts = ["## Figures 8 and 9: GRPO with and without the reflective phase\n"]
    for number, names in FIGURES.items():
        picture = roots[0] / "pictures" / f"figure_{number}.png"
        curves = read_curves(first, names)
        if curves:
            draw_curves(curves, picture)
            parts.append(f"![figure {number}](pictures/{picture.name})\n")
    ends = {phase: [_ends(file) for file in found] for phase, found in states.items() if found}
    header = ["mean over the first and the last tenth of the steps", *(PHASES[phase] for phase in ends)]
    lines = []
    for name in (name for names in FIGURES.values() for name in names):
        cells = [_cell([seed[name] for seed in seeds if name in seed]) for seeds in ends.values()]
        if any(cells):
            lines.append([WORDS[name], *cells])
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
    return [*parts, table + "\n"]


def _ends(state: Path) -> dict[str, tuple[float, float]]:
    """What was logged at either end of a phase, by name."""
    history = [entry for entry in read_history(state) if "reward" in entry]
    count = max(1, round(_PART * len(history)))
    names = {name for entry in history for name in entry if name in WORDS}
    return {
        name: (_mean(history[:count], name), _mean(history[-count:], name))
        for name in names
        if all(name in entry for entry in history)
    }


def _mean(entries: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([entry[name] for entry in entries]))


def _cell(seeds: Sequence[tuple[float, float]]) -> str:
    """From the first to the last, over seeds."""
    if not seeds:
        return ""
    begin, end = np.mean(seeds, axis=0)
    return f"{begin:.2f} to {end:.2f}"
