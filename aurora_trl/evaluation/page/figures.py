"""Figures of a page as SVG: curves with the numbers to hover over, and scores with their errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..metrics import get_protocol
from ..tables import shown_scores
from ..visualize import Curve, Curves, phase_colors, smooth

# Units of the drawing; the page scales it.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 190, 48, 8, 8, 24
_MOST_POINTS = 300  # of a curve: more are not seen, and would make the file large
_ROW, _LABEL = 24, 110


@dataclass(frozen=True)
class Axis:
    """
    Numbers along one side of a figure.

    Attributes:
        low, high (`float`): of the numbers.
        start, end (`float`): where they lie, in units of the drawing.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a number lies."""
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Places of round numbers, and the numbers."""
        values = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [(self.place(value), f"{value:g}") for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Line:
    """A curve: its phase, its colour, what was logged and what that is smoothed, as points of an SVG polyline."""

    title: str
    color: str
    logged: str
    smoothed: str


@dataclass(frozen=True)
class Panel:
    """
    One logged value.

    Attributes:
        name (`str`): the value.
        lines (`list[Line]`): one per phase.
        x, y (`Axis`): steps and values.
        data (`dict`): what the script needs to show numbers under the pointer.
    """

    name: str
    lines: list[Line]
    x: Axis
    y: Axis
    data: dict[str, Any] = field(default_factory=dict)


def _thin(curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, values and smoothed values of a curve, at most so many, the last among them."""
    steps, values = np.array(curve.steps), np.array(curve.values, dtype=float)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(_MOST_POINTS, len(steps))).round().astype(int))
    return steps[chosen], values[chosen], smooth(curve.values)[chosen]


def curve_panels(curves: Curves) -> list[Panel]:
    """A panel for each logged value; numbers that are none (NaN) are left out."""
    panels = []
    for name, phases in curves.items():
        thinned = [(curve, *_thin(curve)) for curve in phases]
        values = np.concatenate([value for _, _, value, _ in thinned])
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        last = max(int(steps[-1]) for _, steps, _, _ in thinned)
        x = Axis(0, max(last, 1), LEFT, WIDTH - RIGHT)
        low, high = float(finite.min()), float(finite.max())
        pad = 0.04 * (high - low) or 0.5
        y = Axis(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
        lines = [
            Line(curve.title, curve.color, _points(x, y, steps, logged), _points(x, y, steps, smoothed))
            for curve, steps, logged, smoothed in thinned
        ]
        data = {
            "axis": [x.low, x.high, x.start, x.end],
            "lines": [
                {"title": curve.title, "color": curve.color, "x": steps.tolist(), "y": [_short(v) for v in smoothed]}
                for curve, steps, _, smoothed in thinned
            ],
        }
        panels.append(Panel(name, lines, x, y, data))
    return panels


def _points(x: Axis, y: Axis, steps: np.ndarray, values: np.ndarray) -> str:
    pairs = zip(steps, values, strict=True)
    return " ".join(f"{x.place(float(a))},{y.place(float(b))}" for a, b in pairs if np.isfinite(b))


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


@dataclass(frozen=True)
class ScoreBar:
    """A phase's score on a split: where its point and the ends of its error lie."""

    phase: str
    color: str
    y: float
    x: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class ScoreFigure:
    """The headline score of each phase on a split, on one axis."""

    title: str
    bars: list[ScoreBar]
    axis: Axis
    height: float


def score_figures(metrics: Mapping[str, dict[str, Any]]) -> list[ScoreFigure]:
    """A figure for each split: points with their standard errors, where the evaluation has them."""
    content = next(iter(metrics.values()))
    figures, colors = [], phase_colors([*metrics])
    for split in content["splits"]:
        headline = get_protocol(content["protocol"]).headline
        name = headline if headline in shown_scores(content["protocol"], split) else "S"
        scores = {phase: content["splits"][split] for phase, content in metrics.items()}
        values = {phase: (s[name], s.get("errors", {}).get(name, 0.0)) for phase, s in scores.items()}
        low = min(value - error for value, error in values.values())
        high = max(value + error for value, error in values.values())
        pad = max(0.02, 0.1 * (high - low))
        axis = Axis(max(0.0, low - pad), high + pad, _LABEL, 2 * WIDTH - 90)
        bars = [
            ScoreBar(
                phase,
                colors[phase],
                _ROW * (place + 0.5),
                axis.place(value),
                axis.place(max(axis.low, value - error)),
                axis.place(value + error),
                f"{value:.3f}" + (f" ± {error:.3f}" if error else ""),
            )
            for place, (phase, (value, error)) in enumerate(values.items())
        ]
        title = f"{name} on {split}" + (", lower is better" if name == "S" else "")
        figures.append(ScoreFigure(title, bars, axis, _ROW * len(bars)))
    return figures
