"""The report of a chain: what each phase brought, what the model listens to, curves and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.formats.refavs import NULL_SPLIT
from ..disk import written_whole
from ..errors import DataError
from ..text_files import parse_json, read_json, read_text
from .class_synonyms import TABLE_NAME
from .evaluate import ANSWERS_FILE, METRICS_FILE
from .metrics import get_protocol

SFT_CURVES = ("loss", "mean_token_accuracy", "mask_bce_loss", "mask_dice_loss", "iou", "distillation_loss")
GRPO_CURVES = (
    "reward",
    "rewards/format_reward/mean",
    "rewards/class_reward/mean",
    "rewards/iou_reward/mean",
    "reward_std_in_group",
    "completions/mean_length",
    "completions/clipped_ratio",
    "iou",
    "seg_share",
    "reflective_share",
    "loss",
)
_SYNONYM_REWARD = "rewards/synonym_class_reward/mean"
_ANSWER_SHARES = (
    "class_accuracy",
    "format_accuracy",
    "null_accuracy",
    "seg_share",
    "reflective_share",
    "cut_share",
)
REPORT_FILE = "report.md"
_ANSWER_KEYS = ("id", "split", "swap", "j", "reference", "class_name", "completion", "masks")


def write_report(
    output_dir: str | Path,
    evaluations: Mapping[str, Path],
    trainings: Mapping[str, Path],
    rows: Mapping[str, dict[str, Any]],
    *,
    durations: Sequence[tuple[str, float]] = (),
    num_pictures: int = 3,
) -> Path:
    """
    Write `report.md` with its pictures.

    Args:
        output_dir (`str` or `Path`): folder for the report.
        evaluations (`Mapping[str, Path]`): by phase in order, the folder that `aurora evaluate` wrote.
        trainings (`Mapping[str, Path]`): by phase in order, the folder that the trainer wrote.
        rows (`Mapping[str, dict]`): dataset rows by id, for the pictures.
        durations (`Sequence[tuple[str, float]]`, *optional*): name and seconds of each step.
        num_pictures (`int`, *optional*, defaults to 3): of good, of typical and of bad answers each.

    Returns:
        `Path`: the report.

    Raises:
        `ValueError`: where the evaluations follow different protocols, or a file is not what a command wrote.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    metrics = {name: read_metrics(folder) for name, folder in evaluations.items()}
    last = list(metrics)[-1]
    rules = get_protocol(metrics[last]["protocol"])
    other = next((name for name, content in metrics.items() if content["protocol"] != rules.name), None)
    if other is not None:
        raise ValueError(
            f"{evaluations[other]} is scored by `{metrics[other]['protocol']}`, {evaluations[last]} by "
            f"`{rules.name}`: they can not be compared; evaluate one of them again"
        )
    parts = [
        "# Report\n",
        f"Scores by the protocol `{rules.name}`: {rules.description}. {', '.join(rules.scores)}: higher is better. S, "
        "on references that match nothing: the root of the share of pixels that were drawn all the same, lower is "
        "better. null_accuracy, on the same: the share of answers that say that nothing fits.\n",
        "## What each phase brought\n",
        _phase_table(metrics),
        "## What the answers look like\n",
        _answer_table(metrics),
    ]
    if metrics[last]["splits"] and any(s["by_kind"] for s in metrics[last]["splits"].values()):
        parts += ["## J by what it takes to resolve the reference\n", _kind_table(metrics)]
    if metrics[last]["swaps"]:
        parts += ["## What the model listens to\n", _swap_section(last, metrics[last])]
    parts += ["## Training\n", *_curve_section(output_dir, trainings)]
    parts += [f"## Answers of {last}\n", *_picture_section(output_dir, evaluations[last], rows, num_pictures)]
    if durations:
        total = sum(seconds for _, seconds in durations)
        lines = [[name, f"{seconds / 60:.1f}"] for name, seconds in [*durations, ("all", total)]]
        parts += ["## Time\n", _table(["step", "minutes"], lines)]
    report = output_dir / REPORT_FILE
    with written_whole(report) as file:
        file.write("\n".join(part.rstrip("\n") + "\n" for part in parts))
    return report


def read_metrics(folder: Path) -> dict[str, Any]:
    """
    What `aurora evaluate` found.

    Args:
        folder (`Path`): that it wrote.

    Raises:
        `DataError`: where there are no such scores, or the file was edited or cut short.
    """
    file = folder / METRICS_FILE
    metrics = read_json(file)
    again = "evaluate that checkpoint again"
    if not isinstance(metrics.get("splits"), dict) or not metrics["splits"] or "swaps" not in metrics:
        raise DataError(f"{file}: it has no scores by split; {again}")
    try:
        rules = get_protocol(str(metrics.get("protocol")))
    except ValueError as error:
        raise DataError(f"{file}: {error}; {again}") from None
    for split, scores in metrics["splits"].items():
        _check_scores(f"{file}: {split}", scores, (*rules.scores, "rows", "mean_tokens"))
        if not isinstance(scores.get("by_kind"), dict):
            raise DataError(f"{file}: {split} has no scores `by_kind`; {again}")
        for kind, by_kind in scores["by_kind"].items():
            _check_scores(f"{file}: {split}, {kind}", by_kind, ("rows", "J") if "J" in rules.scores else ("rows",))
        for name in _ANSWER_SHARES:
            if scores.get(name) is not None:
                _check_scores(f"{file}: {split}", scores, (name,))
    if not isinstance(metrics["swaps"], dict):
        raise DataError(f"{file}: `swaps` is no mapping of modalities to scores; {again}")
    for name, scores in metrics["swaps"].items():
        _check_scores(f"{file}: swap of {name}", scores, (rules.headline,))
        if scores.get("split") not in metrics["splits"]:
            raise DataError(f"{file}: swap of {name} is on no split of the scores; {again}")
    return metrics


def _check_scores(where: str, scores: Any, wanted: Sequence[str]) -> None:
    """Raise `DataError` where a mapping of scores lacks a number that the report shows."""
    numbers = scores if isinstance(scores, dict) else {}
    wrong = next((name for name in wanted if not isinstance(numbers.get(name), (int, float))), None)
    if wrong is not None:
        raise DataError(f"{where} has no number `{wrong}`; evaluate that checkpoint again")


def shown_scores(protocol: str, split: str) -> tuple[str, ...]:
    """The scores of a split that a report shows: where no reference matches anything, J and F say nothing."""
    rules = get_protocol(protocol)
    return ("S", "null_accuracy") if split == NULL_SPLIT and "J" in rules.scores else rules.scores


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines]) + "\n"


def _phase_table(metrics: Mapping[str, dict[str, Any]]) -> str:
    splits = list(next(iter(metrics.values()))["splits"])
    protocol = next(iter(metrics.values()))["protocol"]
    columns = [(split, score) for split in splits for score in shown_scores(protocol, split)]
    lines = [
        [phase, *(f"{content['splits'][split][score]:.3f}" for split, score in columns)]
        for phase, content in metrics.items()
    ]
    return _table(["phase", *(f"{split} {score}" for split, score in columns)], lines)


def _answer_table(metrics: Mapping[str, dict[str, Any]]) -> str:
    lines = []
    for phase, content in metrics.items():
        for split, scores in content["splits"].items():
            shares = ["" if scores.get(name) is None else f"{scores[name]:.2f}" for name in _ANSWER_SHARES]
            lines.append([f"{phase}, {split}", str(scores["rows"]), *shares, f"{scores['mean_tokens']:.0f}"])
    return _table(
        [
            "phase, split",
            "rows",
            "right class",
            "right format",
            "null or not",
            "with [SEG]",
            "reflective",
            "cut",
            "tokens",
        ],
        lines,
    )


def _kind_table(metrics: Mapping[str, dict[str, Any]]) -> str:
    split = next(iter(next(iter(metrics.values()))["splits"]))
    kinds = metrics[list(metrics)[-1]]["splits"][split]["by_kind"]
    lines = [
        [phase, *(f"{content['splits'][split]['by_kind'].get(kind, {}).get('J', float('nan')):.3f}" for kind in kinds)]
        for phase, content in metrics.items()
    ]
    return f"On {split}.\n\n" + _table(
        ["phase", *(f"{kind} ({content['rows']} rows)" for kind, content in kinds.items())], lines
    )


def _swap_section(phase: str, content: dict[str, Any]) -> str:
    swaps = content["swaps"]
    split = next(iter(swaps.values()))["split"]
    score = get_protocol(content["protocol"]).headline
    plain = content["splits"][split][score]
    lines = [["nothing", f"{plain:.3f}", ""]]
    lines += [[name, f"{scores[score]:.3f}", f"{scores[score] - plain:+.3f}"] for name, scores in swaps.items()]
    text = f"{score} of {phase} on {split} with one modality taken from another clip.\n\n"
    return text + _table(["swapped", score, "difference"], lines)


def _curve_section(output_dir: Path, trainings: Mapping[str, Path]) -> list[str]:
    from .visualize import draw_curves, read_history

    states = [(name, folder / "trainer_state.json") for name, folder in trainings.items()]
    grpo = [(name, state) for name, state in states if any("reward" in entry for entry in read_history(state))]
    sft = [item for item in states if item not in grpo]
    parts = []
    for title, group, names in (("Supervised", sft, SFT_CURVES), ("GRPO", grpo, GRPO_CURVES)):
        picture = output_dir / "pictures" / f"curves_{title.lower()}.png"
        if group and draw_curves(group, names, picture) is not None:
            parts.append(f"{title} phases.\n\n![{title} curves](pictures/{picture.name})\n")
    if any(_SYNONYM_REWARD in entry for _, state in grpo for entry in read_history(state)):
        parts.append(f"Other names of a class were rewarded, too, by the table of synonyms `{TABLE_NAME}`.\n")
    return parts


def _picture_section(
    output_dir: Path, evaluation: Path, rows: Mapping[str, dict[str, Any]], num_pictures: int
) -> list[str]:
    from .visualize import draw_answer

    answers = _read_answers(evaluation / ANSWERS_FILE)
    first = answers[0]["split"]
    ranked = [a for a in answers if a["swap"] is None and a["split"] == first and a["id"] in rows]
    ranked.sort(key=lambda answer: -answer["j"])
    middle = len(ranked) // 2
    outwards = [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: abs(i - middle))]
    groups = {
        "Good": of_distinct_classes(ranked, num_pictures),
        "Typical": of_distinct_classes(outwards, num_pictures),
        "Bad": of_distinct_classes(ranked[::-1], num_pictures),
    }
    parts = [f"On {first}. Orange: the model's mask. Green outline: the true one.\n"]
    for title, group in groups.items():
        parts.append(f"### {title}\n")
        for number, answer in enumerate(group, 1):
            name = f"{title.lower()}_{number}.png"
            draw_answer(rows[answer["id"]], answer, output_dir / "pictures" / name)
            parts.append(f"**{answer['reference']}** ({answer['class_name']}), J {answer['j']:.2f}\n")
            parts.append(f"> {answer['completion']}\n")
            parts.append(f"![{answer['reference']}](pictures/{name})\n")
    return parts


def _read_answers(file: Path) -> list[dict[str, Any]]:
    lines = read_text(file).splitlines() if file.is_file() else []
    if not lines:
        raise DataError(f"{file}: no such file, or it holds no answer; evaluate that checkpoint again")
    return [_read_answer(f"{file}, line {number}", line) for number, line in enumerate(lines, 1)]


def _read_answer(where: str, line: str) -> dict[str, Any]:
    again = "evaluate that checkpoint again"
    try:
        answer = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: no answer of an evaluation ({error}); {again}") from None
    if not isinstance(answer, dict):
        raise DataError(f"{where}: no answer of an evaluation, but a {type(answer).__name__}; {again}")
    lacking = next((name for name in _ANSWER_KEYS if name not in answer), None)
    if lacking is not None:
        raise DataError(f"{where}: the answer has no `{lacking}`; {again}")
    if answer["swap"] is None and not isinstance(answer["j"], (int, float)):
        raise DataError(f"{where}: `j` is no number; {again}")
    return answer


def of_distinct_classes(answers: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first answers about another class each, then whatever comes first: the easiest class is not all there is."""
    first_of_class: dict[str, dict[str, Any]] = {}
    for answer in answers:
        first_of_class.setdefault(answer["class_name"], answer)
    chosen = list(first_of_class.values())[:count]
    return [*chosen, *(answer for answer in answers if answer not in chosen)][:count]
