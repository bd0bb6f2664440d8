"""The page that looks through evaluations: filters above, a page of answers, and the chosen row in every phase."""

from typing import Any

import gradio as gr

from .answer_views import AnswerCards, changes_html, scores_html, shown_cause, table_html
from .evaluations import OUTCOMES, PLAIN, Evaluations
from .scripts import CHOOSE_SCRIPT
from .selection import ANY, CHANGES, ORDERS, PAGE_ROWS, Selection, choices, count_changes, cut_page, select


class AnswersPage:
    """
    What the page's parts call.

    Args:
        evaluations (`Evaluations`): all phases.
        cards (`AnswerCards`): draws a row.
    """

    def __init__(self, evaluations: Evaluations, cards: AnswerCards):
        self.evaluations = evaluations
        self.cards = cards

    def show(self, wanted: Selection, page: int, chosen: int | None = None) -> tuple[str, str, str, int, int | None]:
        """
        A page of what is selected.

        Args:
            wanted (`Selection`): the filters and the order.
            page (`int`): its number from 0; where a line is chosen, the page that it is on is shown.
            chosen (`int`, *optional*): number of the line whose cards are shown; past an end it is the last one.

        Returns:
            `tuple`: the table, a line about it and the cards, all as HTML; the page's and the line's number.
        """
        table = select(self.evaluations, wanted)
        chosen = None if chosen is None or table.empty else min(max(0, chosen), len(table) - 1)
        lines, page, pages = cut_page(table, page if chosen is None else chosen // PAGE_ROWS)
        first = page * PAGE_ROWS
        text = f'<p class="verdict">{len(table)} answers, page {page + 1} of {pages}</p>'
        cards = "" if chosen is None else self.cards.html(table.index[chosen])
        return table_html(lines, first, self.evaluations, wanted.phase, chosen), text, cards, page, chosen

    def counts(self, phase: str, against: str) -> str:
        """What changed from one phase to another, as HTML."""
        return changes_html(count_changes(self.evaluations, phase, against), against, phase)


def build_answers_page(page: AnswersPage) -> None:
    """Lay the page out inside the current `gr.Blocks`, and connect it."""
    known = page.evaluations
    last, first = known.phases[-1], known.phases[0]
    with gr.Row(equal_height=False):
        gr.HTML(scores_html(known), elem_id="scores")
        changes = gr.HTML(page.counts(last, first), elem_id="changes")
    filters = _build_filters(known)
    number, chosen = gr.State(0), gr.State(None)
    table, text, cards, _, _ = page.show(Selection(last, first), 0)
    with gr.Row(elem_id="pages"):
        back = gr.Button("‹ page", size="sm")
        forth = gr.Button("page ›", size="sm")
        above = gr.Button("↑ row", size="sm", elem_id="above")
        below = gr.Button("↓ row", size="sm", elem_id="below")
        line = gr.HTML(text, elem_id="line")
    shown_cards = gr.HTML(cards, elem_id="cards")
    shown = gr.HTML(table, js_on_load=CHOOSE_SCRIPT, elem_id="table")
    outputs = [shown, line, shown_cards, number, chosen]
    inputs = list(filters.values())
    names = list(filters)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def wanted(values: tuple[Any, ...]) -> Selection:
        return Selection(**dict(zip(names, values, strict=True)))

    def turn(step: int) -> Any:
        def run(page_number: int, *values: Any) -> tuple[Any, ...]:
            return page.show(wanted(values), page_number + step)

        return run

    def move(step: int) -> Any:
        def run(place: int | None, *values: Any) -> tuple[Any, ...]:
            return page.show(wanted(values), 0, 0 if place is None else place + step)

        return run

    def choose(event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        return page.show(wanted(values), 0, int(event.index))

    def begin_anew(*values: Any) -> tuple[Any, ...]:
        return page.show(wanted(values), 0)

    for control in filters.values():
        change = control.release if isinstance(control, gr.Slider) else control.change
        change(begin_anew, inputs, outputs, trigger_mode="always_last", **quiet)
    for control in (filters["phase"], filters["against"]):
        control.change(page.counts, [filters["phase"], filters["against"]], changes, **quiet)
    back.click(turn(-1), [number, *inputs], outputs, **quiet)
    forth.click(turn(1), [number, *inputs], outputs, **quiet)
    above.click(move(-1), [chosen, *inputs], outputs, **quiet)
    below.click(move(1), [chosen, *inputs], outputs, **quiet)
    shown.click(choose, inputs, outputs, **quiet)


def _build_filters(known: Evaluations) -> dict[str, Any]:
    """The controls, by the field of [`Selection`] that each one sets."""

    def menu(field: str, label: str, options: Any, value: str = ANY, visible: bool = True) -> gr.Dropdown:
        return gr.Dropdown(
            options, value=value, label=label, min_width=140, visible=visible, elem_id=f"filter-{field}"
        )

    swaps, kinds = choices(known, "swap"), choices(known, "kind")
    causes = [(shown_cause(cause), cause) for cause in choices(known, "cause")]
    several = len(known.phases) > 1
    found: dict[str, Any] = {}
    with gr.Row():
        found["phase"] = menu("phase", "Answers of", known.phases, known.phases[-1])
        found["against"] = menu("against", "Compare with", known.phases, known.phases[0], several)
        found["change"] = menu("change", "Change", [ANY, *CHANGES], visible=several)
        found["split"] = menu("split", "Split", choices(known, "split"))
        found["swap"] = menu("swap", "Swapped", swaps, PLAIN, len(swaps) > 2)
        found["kind"] = menu("kind", "Kind of reference", kinds, visible=len(kinds) > 1)
    with gr.Row():
        found["outcome"] = menu("outcome", "Outcome", [ANY, *OUTCOMES])
        found["cause"] = menu("cause", "Kind of failure", causes, visible=known.causes)
        found["class_named"] = menu("class_named", "Class", [ANY, "right", "wrong"])
        found["cut"] = menu("cut", "Cut at the limit", [ANY, "cut", "whole"])
        found["lowest_j"] = gr.Slider(0, 1, 0, step=0.01, label="J from", min_width=120, elem_id="filter-lowest_j")
        found["highest_j"] = gr.Slider(0, 1, 1, step=0.01, label="J to", min_width=120, elem_id="filter-highest_j")
    with gr.Row():
        found["text"] = gr.Textbox(label="Words in reference or answer", elem_id="filter-text", scale=2)
        found["order"] = menu("order", "Order", list(ORDERS), next(iter(ORDERS)))
    return found
