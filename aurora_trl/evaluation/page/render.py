"""Filling the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...data.schema import Row, clip_key
from ...environment import installed_versions
from ...generation.picture import draw_clip
from ...prompts import INSTRUCTION, build_prompt
from ..gallery import render_clip
from ..tables import (
    Table,
    answer_table,
    change_table,
    describe_scores,
    duration_table,
    has_kinds,
    kind_table,
    phase_table,
    swap_table,
)
from ..visualize import Curves, load_answer
from . import figures

_FOLDER = Path(__file__).parent


def render_page(
    metrics: Mapping[str, dict[str, Any]],
    answers: Mapping[str, Sequence[dict[str, Any]]],
    chosen: Mapping[str, Sequence[dict[str, Any]]],
    rows: Mapping[str, Row],
    *,
    curves: Mapping[str, Curves],
    logs: Mapping[str, Sequence[dict[str, Any]]],
    durations: Sequence[tuple[str, float]],
    price_per_hour: float | None,
    usage: Table | None,
    settings: Mapping[str, str],
) -> str:
    """
    The report as HTML: style, script, pictures and clips are inside, and what comes from data is escaped.

    Args:
        metrics (`Mapping[str, dict]`): what `metrics.json` holds, by phase in order.
        answers (`Mapping[str, Sequence[dict]]`): lines of `answers.jsonl` by phase.
        chosen (`Mapping[str, Sequence[dict]]`): the answers of the last phase to show, by group.
        rows (`Mapping[str, dict]`): dataset rows by id.
        curves (`Mapping[str, Curves]`): what was logged, by kind of phase.
        logs (`Mapping[str, Sequence[dict]]`): each trainer's whole log.
        durations (`Sequence[tuple[str, float]]`): name and seconds of each step.
        price_per_hour (`float`, *optional*): of the machine.
        usage (`Table`, *optional*): what was asked of annotators.
        settings (`Mapping[str, str]`): YAML files by name.

    Returns:
        `str`: the page.
    """
    last = list(metrics)[-1]
    split = answers[last][0]["split"]
    clips = {row_id: clip_key(row) for row_id, row in rows.items()}
    tables: list[tuple[str, Table | None]] = [
        ("What the answers look like", answer_table(metrics, errors=True)),
        ("What each phase changed", change_table(answers, clips, split)),
        ("J by what it takes to resolve the reference", kind_table(metrics) if has_kinds(metrics[last]) else None),
        ("What the model listens to", swap_table(last, metrics[last]) if metrics[last]["swaps"] else None),
    ]
    instruction = str(metrics[last].get("instruction", INSTRUCTION))
    groups = {
        title: [_card(rows[answer["id"]], answer, answers, instruction) for answer in group]
        for title, group in chosen.items()
        if group
    }
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=f"Report of {last}",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        scores=describe_scores(metrics[last]["protocol"]).replace("`", ""),
        phase_table=phase_table(metrics, errors=True),
        score_figures=figures.score_figures(metrics),
        tables=[(title, table) for title, table in tables if table is not None],
        panels={title: figures.curve_panels(group) for title, group in curves.items()},
        figures=figures,
        phases=lambda group: dict.fromkeys((line.title, line.color) for panel in group for line in panel.lines),
        last=last,
        split=split,
        groups=groups,
        training=_training_table(logs),
        durations=duration_table(durations, price_per_hour) if durations else None,
        longest=max((seconds for _, seconds in durations), default=0.0),
        seconds=list(durations),
        usage=usage,
        settings=settings,
        versions=installed_versions(),
    )


def _card(
    row: Row, answer: dict[str, Any], answers: Mapping[str, Sequence[dict[str, Any]]], instruction: str
) -> dict[str, Any]:
    """What the page shows of an answer."""
    clip = load_answer(row, answer)
    picture = io.BytesIO()
    draw_clip(**clip).save(picture, "WEBP", quality=80)
    parts = build_prompt(row, instruction)[0]["content"]
    others = [
        (phase, other)
        for phase, records in answers.items()
        for other in records
        if other["id"] == answer["id"] and other["swap"] is None and other is not answer
    ]
    return {
        "answer": answer,
        "verdict": _verdict(answer),
        "prompt": " ".join(part.get("text") or f"<{part['type']}>" for part in parts),
        "picture": _data_uri("image/webp", picture.getvalue()),
        "clip": _data_uri("video/mp4", render_clip(**clip)),
        "has_sound": clip["waveform"] is not None,
        "others": [(phase, other, _verdict(other)) for phase, other in others],
    }


def _verdict(answer: Mapping[str, Any]) -> str:
    right = answer.get("class_correct")
    return "" if right is None else "right class" if right else "wrong class"


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _training_table(logs: Mapping[str, Sequence[dict[str, Any]]]) -> Table | None:
    """What each training took, from the last line of its log."""
    lines = []
    for phase, history in logs.items():
        end = next((entry for entry in reversed(history) if "train_runtime" in entry), None)
        if end is not None:
            seconds, rate = float(end["train_runtime"]), float(end.get("train_samples_per_second", 0.0))
            operations = float(end.get("total_flos") or 0.0)
            shown = f"{operations:.3g}" if operations else ""
            lines.append([phase, str(end["step"]), f"{seconds / 60:.1f}", f"{rate:.2f}", shown])
    header = ["training", "steps", "minutes", "samples per second", "floating-point operations"]
    return Table(header, lines) if lines else None
