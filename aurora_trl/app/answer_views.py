"""How the answers of evaluations look: the table, the same row in every phase, the counts."""

import math
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from ..annotation.instructions import FAILURE_KINDS
from ..data.schema import Row
from ..errors import DataError
from ..evaluation.tables import shown_scores
from ..evaluation.visualize import load_answer
from ..generation.picture import draw_clip
from ..prompts import SEG_TOKEN, display_class
from .evaluations import OUTCOMES, PLAIN, Evaluations, RowSource
from .results import data_address
from .selection import CHANGES

_SHOWN_FRAMES, _PICTURE_WIDTH = 5, 900
_KEPT_PICTURES = 256


def table_html(page: pd.DataFrame, first: int, evaluations: Evaluations, phase: str, chosen: int | None) -> str:
    """
    A page of answers, a line for each.

    Args:
        page (`pd.DataFrame`): from [`~aurora_trl.app.selection.cut_page`].
        first (`int`): number of its first line among all that were selected.
        evaluations (`Evaluations`): all phases, whose J stand beside each other.
        phase (`str`): whose answers were selected.
        chosen (`int`, *optional*): number of the line that is shown below.
    """
    if page.empty:
        return '<p class="message">No answer is like that.</p>'
    # J of every phase, looked up for the whole page at once.
    scores = {name: table["j"].reindex(page.index).tolist() for name, table in evaluations.answers.items()}
    head = ["", "split", "reference", "class", *(f"J {name}" for name in scores), f"outcome of {phase}", "change"]
    lines = []
    for place, (key, answer) in enumerate(zip(page.index, page.to_dict("records"), strict=True)):
        split, swap, _ = key
        where = split if swap == PLAIN else f"{split}, {swap} swapped"
        cells = [str(first + place + 1), where, answer["reference"], display_class(answer["class_name"])]
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        shown += "".join(_score_cell(values[place], name == phase) for name, values in scores.items())
        mark = "right" if answer["outcome"] == "right" else "wrong"
        cause = f" <small>{escape(shown_cause(answer['cause']))}</small>" if answer["cause"] else ""
        shown += f'<td class="{mark}">{escape(answer["outcome"])}{cause}</td><td>{escape(answer["change"])}</td>'
        selected = ' class="chosen"' if first + place == chosen else ""
        lines.append(f'<tr data-index="{first + place}"{selected}>{shown}</tr>')
    header = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
    body = "".join(lines)
    return f'<table class="rows" data-shows="#cards"><thead>{header}</thead><tbody>{body}</tbody></table>'


def shown_cause(cause: str) -> str:
    """A kind of failure as it is read."""
    return cause.replace("_", " ")


def _score_cell(score: float, bold: bool) -> str:
    if score is None or math.isnan(score):
        return '<td class="score">–</td>'
    text = f"<b>{score:.2f}</b>" if bold else f"{score:.2f}"
    return f'<td class="score" style="--j:{100 * score:.0f}%">{text}</td>'


class AnswerCards:
    """
    Draws a row's answers of all phases beside each other. What was drawn lately is kept.

    Args:
        evaluations (`Evaluations`): all phases.
        rows (`RowSource`, *optional*): the dataset, for frames and truth; without it there is text alone.
    """

    def __init__(self, evaluations: Evaluations, rows: RowSource | None):
        self.evaluations = evaluations
        self.rows = rows
        self._picture = lru_cache(maxsize=_KEPT_PICTURES)(self._draw)

    def html(self, key: tuple[str, str, str]) -> str:
        """
        The cards of a row.

        Args:
            key (`tuple[str, str, str]`): split, swap and id.
        """
        split, swap, row_id = key
        known = {name: table for name, table in self.evaluations.answers.items() if key in table.index}
        answer = next(iter(known.values())).loc[key]
        wanted = display_class(answer["class_name"]) if answer["class_name"] else None
        facts = [f"class {wanted}" if wanted else "", answer["kind"], split, row_id]
        facts.append("" if swap == PLAIN else f"answered with the {swap} of another clip")
        title = f"<h3>“{escape(answer['reference'])}”</h3><p>{escape(', '.join(fact for fact in facts if fact))}</p>"
        cards = "".join(self._card(name, table.loc[key], key) for name, table in known.items())
        note = "" if self.rows else '<p class="message">Name the dataset with --data to see frames and masks.</p>'
        return f'<div class="row-head">{title}{note}</div><div class="cards">{cards}</div>'

    def _card(self, phase: str, answer: pd.Series, key: tuple[str, str, str]) -> str:
        score = "" if math.isnan(answer["j"]) else f"J {answer['j']:.2f}"
        words = [score, f"{answer['num_tokens']} tokens", "cut" if answer["cut"] else ""]
        text = escape(answer["completion"] or "(no text)")
        text = text.replace(escape(SEG_TOKEN), f'<b class="seg">{escape(SEG_TOKEN)}</b>')
        outcome = answer["outcome"] + (f", {shown_cause(answer['cause'])}" if answer["cause"] else "")
        hint = OUTCOMES[answer["outcome"]] + (f"; {FAILURE_KINDS[answer['cause']]}" if answer["cause"] else "")
        picture = self._picture(phase, key) if self.rows else ""
        mark = "right" if answer["outcome"] == "right" else "wrong"
        return (
            f'<section class="answer"><header><b>{escape(phase)}</b>'
            f'<span class="state {mark}" title="{escape(hint)}">{escape(outcome)}</span></header>'
            f'<p class="verdict">{escape(", ".join(word for word in words if word))}</p>{picture}'
            f'<p class="reasoning">{text}</p></section>'
        )

    def _draw(self, phase: str, key: tuple[str, str, str]) -> str:
        assert self.rows is not None
        try:
            answer = self.evaluations.read_answer(phase, key)
            row = self.rows.find(key[0], answer["id"])
            if row is None:
                raise DataError(
                    f"{self.rows.source.path}: it has no row {answer['id']!r}; name its dataset with --data"
                )
            picture = draw_clip(**_drawable(row, answer), max_frames=_SHOWN_FRAMES, width=_PICTURE_WIDTH)
        except (DataError, OSError) as error:
            return f'<p class="message error">{escape(" ".join(str(error).split()))}</p>'
        return f'<img class="strip" src="{data_address(picture)}" alt="frames, masks and truth">'


def _drawable(row: Row, answer: dict[str, Any]) -> dict[str, Any]:
    parts = load_answer(row, answer)
    if row.get("is_null"):  # there is no truth to draw
        parts["targets"] = np.zeros_like(parts["targets"])
    return parts


def changes_html(counts: Mapping[str, Mapping[str, int]], against: str, phase: str) -> str:
    """How many answers became right or wrong from one phase to another."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("split", *CHANGES))
    lines = "".join(
        f"<tr><td>{escape(split)}</td>" + "".join(f"<td>{count[name]}</td>" for name in CHANGES) + "</tr>"
        for split, count in counts.items()
    )
    title = f"From {escape(against)} to {escape(phase)}"
    return (
        f'<table class="counts"><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
    )


def scores_html(evaluations: Evaluations) -> str:
    """The scores of each phase, as in the report."""
    first = next(iter(evaluations.scores.values()))
    columns = [(split, score) for split in first["splits"] for score in shown_scores(first["protocol"], split)]
    splits = {split: [score for other, score in columns if other == split] for split, _ in columns}
    lines = []
    for phase, content in evaluations.scores.items():
        cells = "".join(f"<td>{_number(content['splits'].get(split, {}).get(score))}</td>" for split, score in columns)
        lines.append(f"<tr><td>{escape(phase)}</td>{cells}</tr>")
    above = "".join(f'<th colspan="{len(scores)}">{escape(split)}</th>' for split, scores in splits.items())
    head = "".join(f"<th>{escape(score)}</th>" for _, score in columns)
    return _counts_table(
        f"Scores by {first['protocol']}", f"<th></th>{above}</tr><tr><th>phase</th>{head}", "".join(lines)
    )


def _counts_table(title: str, head: str, lines: str) -> str:
    return (
        f'<table class="counts"><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"
