"""The report of a chain: what each phase brought, what the model listens to, curves and pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..disk import written_whole
from ..errors import DataError
from ..models.checkpoints.hub import RECIPE_FILE
from ..text_files import read_json, read_text
from .class_synonyms import TABLE_NAME
from .gallery import choose_answers, read_answers
from .metrics import get_protocol
from .score_files import ANSWERS_FILE, METRICS_FILE
from .tables import (
    ANSWER_SHARES,
    answer_table,
    describe_scores,
    duration_table,
    has_kinds,
    kind_table,
    phase_table,
    shown_scores,
    swap_table,
    usage_table,
)
from .visualize import Curves, draw_answer, draw_curves, phase_colors, read_curves, read_history

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
REPORT_FILE, PAGE_FILE = "report.md", "report.html"


def write_report(
    output_dir: str | Path,
    evaluations: Mapping[str, Path],
    trainings: Mapping[str, Path],
    rows: Mapping[str, dict[str, Any]],
    *,
    durations: Sequence[tuple[str, float]] = (),
    settings: Mapping[str, str] | None = None,
    price_per_hour: float | None = None,
    num_pictures: int = 3,
) -> Path:
    """
    Write `report.md` with its pictures, and `report.html`, one file that opens offline.

    Args:
        output_dir (`str` or `Path`): folder for the report.
        evaluations (`Mapping[str, Path]`): by phase in order, the folder that `aurora evaluate` wrote.
        trainings (`Mapping[str, Path]`): by phase in order, the folder that the trainer wrote.
        rows (`Mapping[str, dict]`): dataset rows by id, for the pictures.
        durations (`Sequence[tuple[str, float]]`, *optional*): name and seconds of each step.
        settings (`Mapping[str, str]`, *optional*): more YAML files to show, such as the chain's, by name; the recipe
            of each training is shown in any case.
        price_per_hour (`float`, *optional*): of the machine, to say what each step cost.
        num_pictures (`int`, *optional*, defaults to 3): of good, of typical and of bad answers each.

    Returns:
        `Path`: `report.html`.

    Raises:
        `ValueError`: where the evaluations follow different protocols or are of different rows, or a file is not what
            a command wrote.
    """
    from .page.render import render_page

    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    metrics = _comparable_metrics(evaluations)
    last = list(metrics)[-1]
    answers = {phase: read_answers(folder / ANSWERS_FILE) for phase, folder in evaluations.items()}
    _require_same_references(answers, evaluations)
    chosen = choose_answers(answers[last], rows, num_pictures)
    curves = _read_curves(trainings, phase_colors([*dict.fromkeys([*evaluations, *trainings])]))
    parts = [
        "# Report\n",
        f"{describe_scores(metrics[last]['protocol'])}\n",
        "## What each phase brought\n",
        phase_table(metrics).markdown(),
        "## What the answers look like\n",
        answer_table(metrics).markdown(),
    ]
    if has_kinds(metrics[last]):
        parts += ["## J by what it takes to resolve the reference\n", kind_table(metrics).markdown()]
    if metrics[last]["swaps"]:
        parts += ["## What the model listens to\n", swap_table(last, metrics[last]).markdown()]
    parts += ["## Training\n", *_curve_section(output_dir, curves), *_synonym_section(trainings)]
    parts += [f"## Answers of {last}\n", *_picture_section(output_dir, chosen, rows, answers[last][0]["split"])]
    if durations:
        parts += ["## Time\n", duration_table(durations, price_per_hour).markdown()]
    with written_whole(output_dir / REPORT_FILE) as file:
        file.write("\n".join(part.rstrip("\n") + "\n" for part in parts))
    recipes = {f"{name}: {RECIPE_FILE}": folder / RECIPE_FILE for name, folder in trainings.items()}
    shown = {name: read_text(path) for name, path in recipes.items() if path.is_file()}
    page = render_page(
        metrics,
        answers,
        chosen,
        rows,
        curves=curves,
        logs={name: read_history(folder / "trainer_state.json") for name, folder in trainings.items()},
        durations=durations,
        price_per_hour=price_per_hour,
        usage=usage_table(sorted(output_dir.glob("*.journal.jsonl"))),
        settings={**(settings or {}), **shown},
    )
    with written_whole(output_dir / PAGE_FILE) as file:
        file.write(page)
    return output_dir / PAGE_FILE


def _comparable_metrics(evaluations: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The scores of each evaluation; `ValueError` where they follow different protocols, or are of different rows."""
    metrics = {name: read_metrics(folder) for name, folder in evaluations.items()}
    last = list(metrics)[-1]
    protocol = metrics[last]["protocol"]
    other = next((name for name, content in metrics.items() if content["protocol"] != protocol), None)
    if other is not None:
        raise ValueError(
            f"{evaluations[other]} is scored by `{metrics[other]['protocol']}`, {evaluations[last]} by "
            f"`{protocol}`: they can not be compared; evaluate one of them again"
        )
    for name, content in metrics.items():
        apart = sorted(set(content["splits"]) ^ set(metrics[last]["splits"]))
        if apart:
            raise ValueError(
                f"{evaluations[name]} has scores of {', '.join(content['splits'])}, {evaluations[last]} of "
                f"{', '.join(metrics[last]['splits'])}: evaluate one of them again with the same `--splits`"
            )
        for split, scores in content["splits"].items():
            theirs = metrics[last]["splits"][split]["rows"]
            if scores["rows"] != theirs:
                raise ValueError(
                    f"{evaluations[name]} has the scores of {scores['rows']:,} rows of {split}, {evaluations[last]} "
                    f"of {theirs:,}: they can not be compared; evaluate one of them again with the same `--max-rows`"
                )
    return metrics


def _require_same_references(answers: Mapping[str, Sequence[dict[str, Any]]], evaluations: Mapping[str, Path]) -> None:
    """Raise `ValueError` where evaluations have as many rows of a split, and these are others."""
    asked = {
        phase: {(answer["split"], answer["id"]) for answer in records if answer["swap"] is None}
        for phase, records in answers.items()
    }
    last = list(asked)[-1]
    for phase, own in asked.items():
        strange = next(iter(sorted(own - asked[last])), None)
        if strange is not None:
            raise ValueError(
                f"{evaluations[phase]} answers {strange[1]!r} of {strange[0]}, {evaluations[last]} does not: they are "
                "of different rows and can not be compared; evaluate one of them again on the same data"
            )


def read_metrics(folder: Path, name: str = METRICS_FILE) -> dict[str, Any]:
    """
    What `aurora evaluate` found.

    Args:
        folder (`Path`): that it wrote.
        name (`str`, *optional*): of its file, for the scores by another protocol than the first.

    Raises:
        `DataError`: where there are no such scores, or the file was edited or cut short.
    """
    file = folder / name
    metrics = read_json(file)
    again = "evaluate that checkpoint again"
    if not isinstance(metrics.get("splits"), dict) or not metrics["splits"] or "swaps" not in metrics:
        raise DataError(f"{file}: it has no scores by split; {again}")
    try:
        rules = get_protocol(str(metrics.get("protocol")))
    except ValueError as error:
        raise DataError(f"{file}: {error}; {again}") from None
    for split, scores in metrics["splits"].items():
        shown = [name for name in shown_scores(rules.name, split) if name != "null_accuracy"]
        _check_scores(f"{file}: {split}", scores, (*rules.scores, *shown, "rows", "mean_tokens"))
        if not isinstance(scores.get("by_kind"), dict):
            raise DataError(f"{file}: {split} has no scores `by_kind`; {again}")
        for kind, by_kind in scores["by_kind"].items():
            _check_scores(f"{file}: {split}, {kind}", by_kind, ("rows", "J") if "J" in rules.scores else ("rows",))
        for name in ANSWER_SHARES:
            if scores.get(name) is not None:
                _check_scores(f"{file}: {split}", scores, (name,))
        errors = scores.get("errors", {})
        _check_scores(f"{file}: {split}, errors", errors, tuple(errors) if isinstance(errors, dict) else ("J",))
    if not isinstance(metrics.get("data"), dict | None):
        raise DataError(f"{file}: `data` is no mapping that names the dataset; {again}")
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


def _read_curves(trainings: Mapping[str, Path], colors: Mapping[str, str]) -> dict[str, Curves]:
    """What supervised phases and GRPO phases logged."""
    states = [(name, folder / "trainer_state.json") for name, folder in trainings.items()]
    grpo = [(name, state) for name, state in states if any("reward" in entry for entry in read_history(state))]
    sft = [item for item in states if item not in grpo]
    groups = (("Supervised", sft, SFT_CURVES), ("GRPO", grpo, GRPO_CURVES))
    return {title: curves for title, group, names in groups if (curves := read_curves(group, names, colors))}


def _synonym_section(trainings: Mapping[str, Path]) -> list[str]:
    """Names the table by which other names of a class were rewarded."""
    states = (folder / "trainer_state.json" for folder in trainings.values())
    if not any(_SYNONYM_REWARD in entry for state in states for entry in read_history(state)):
        return []
    return [f"Other names of a class were rewarded, too, by the table of synonyms `{TABLE_NAME}`.\n"]


def _curve_section(output_dir: Path, groups: Mapping[str, Curves]) -> list[str]:
    parts = []
    for title, curves in groups.items():
        picture = output_dir / "pictures" / f"curves_{title.lower()}.png"
        draw_curves(curves, picture)
        parts.append(f"{title} phases.\n\n![{title} curves](pictures/{picture.name})\n")
    return parts


def _picture_section(
    output_dir: Path, groups: Mapping[str, Sequence[dict[str, Any]]], rows: Mapping[str, dict[str, Any]], split: str
) -> list[str]:
    parts = [f"On {split}. Orange: the model's mask. White line: the true one.\n"]
    for title, group in groups.items():
        parts.append(f"### {title}\n")
        for number, answer in enumerate(group, 1):
            name = f"{title.lower()}_{number}.png"
            draw_answer(rows[answer["id"]], answer, output_dir / "pictures" / name)
            reference = " ".join(escape(answer["reference"], quote=False).split())
            # Of a text in several lines each stands behind its mark, or the rest would be no part of the answer.
            completion = escape(answer["completion"], quote=False).replace("\n", "\n> ")
            parts.append(f"**{reference}** ({answer['class_name']}), J {answer['j']:.2f}\n")
            parts.append(f"> {completion}\n")
            parts.append(f"![{reference}](pictures/{name})\n")
    return parts
