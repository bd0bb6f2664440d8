"""Pictures of an evaluation: answers over their clips, and training curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ..data.masks import NO_TARGET, decode_rle, load_masks, mask_indices
from ..data.media.loading import NO_FRAME, frame_seconds, load_audio, load_frames, taken_frames
from ..data.schema import Row
from ..disk import written_whole
from ..errors import DataError
from ..generation.picture import draw_clip
from ..text_files import read_json

SOUND_RATE = 16_000
# Okabe and Ito's, which people with any kind of colour blindness tell apart.
PHASE_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_VERDICTS = {True: ", right class", False: ", wrong class, it is {class_name}", None: ""}


@dataclass(frozen=True)
class Curve:
    """
    What a phase logged of one value.

    Attributes:
        title (`str`): the phase.
        color (`str`): its colour in all panels, as `#rrggbb`.
        steps (`list[int]`), values (`list[float]`): where it was logged, and what.
    """

    title: str
    color: str
    steps: list[int]
    values: list[float]


Curves = dict[str, list[Curve]]


def phase_colors(phases: Sequence[str]) -> dict[str, str]:
    """A colour for each phase, in order."""
    return {phase: PHASE_COLORS[place % len(PHASE_COLORS)] for place, phase in enumerate(phases)}


def draw_answer(row: Row, answer: dict[str, Any], path: str | Path, *, text: str | None = None) -> Path:
    """
    Draw an answer of an evaluation, see [`~aurora_trl.generation.picture.draw_clip`].

    Args:
        row (`dict`): the dataset row.
        answer (`dict`): a line of `answers.jsonl`.
        path (`str` or `Path`): PNG file.
        text (`str`, *optional*): stands below, such as what the model wrote.

    Returns:
        `Path`: the file.
    """
    title = f"“{answer['reference']}”  J {answer['j']:.2f}{_VERDICTS[answer.get('class_correct')].format(**answer)}"
    picture = draw_clip(**load_answer(row, answer), title=title, text=text)
    with written_whole(path, "wb") as file:
        picture.save(file, "PNG", optimize=True)
    return Path(path)


def load_answer(row: Row, answer: dict[str, Any]) -> dict[str, Any]:
    """
    What a picture shows of an answer: the arguments of `draw_clip`.

    Args:
        row (`dict`): the dataset row.
        answer (`dict`): a line of `answers.jsonl`.

    Returns:
        `dict`: `frames`, `masks` and `targets` of all frames that the model took, with their `seconds` and `numbers`,
            and the `waveform`; no `targets` where the row has no masks.
    """
    num_frames = len(answer["masks"])
    taken, indices = taken_frames(row, num_frames), mask_indices(row, num_frames)
    targets = None
    if row.get("masks") or row.get("is_null"):
        targets = load_masks(row, indices=indices)
        targets[np.array(indices) == NO_FRAME] = NO_TARGET
    waveform = load_audio(row, sampling_rate=SOUND_RATE)
    sound_seconds = None if waveform is None else len(waveform) / SOUND_RATE
    return {
        "frames": load_frames(row, num_frames=num_frames, pad=False),
        "masks": np.stack([decode_rle(mask) for mask in answer["masks"]]),
        "targets": targets,
        "seconds": frame_seconds(row, taken, sound_seconds=sound_seconds),
        "numbers": taken,
        "waveform": waveform,
        "sampling_rate": SOUND_RATE,
    }


def smooth(values: Sequence[float]) -> np.ndarray:
    """
    Means over windows of a tenth of the curve, cut off at its ends; of the numbers in it, NaN where it holds none.

    Args:
        values (`Sequence[float]`): one per logged step.
    """
    numbers = np.array(values, dtype=float)
    finite = np.isfinite(numbers)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, numbers, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index, half = np.arange(len(values)), len(values) // 20
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    held = counts[end] - counts[start]
    return np.where(held > 0, (sums[end] - sums[start]) / np.maximum(held, 1), np.nan)


def read_history(state: Path) -> list[dict[str, Any]]:
    """What a trainer logged, from its `trainer_state.json`; `DataError` where that is no such file."""
    history = read_json(state).get("log_history")
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in history
    ):
        raise DataError(f"{state}: it has no `log_history` with steps; restore the file that the trainer wrote")
    return history


def read_curves(
    states: Sequence[tuple[str, Path]], names: Sequence[str], colors: Mapping[str, str] | None = None
) -> Curves:
    """
    What trainers logged, by the name of the value.

    Args:
        states (`Sequence[tuple[str, Path]]`): title and `trainer_state.json` of each phase.
        names (`Sequence[str]`): keys of the log; one that no phase logged is left out.
        colors (`Mapping[str, str]`, *optional*): by the phase's title; in order by default.

    Raises:
        `DataError`: where a logged value is no number.
    """
    curves: Curves = {}
    colors = colors or phase_colors([title for title, _ in states])
    for title, state in states:
        history = read_history(state)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            wrong = next((value for _, value in points if not isinstance(value, (int, float))), None)
            if wrong is not None:
                raise DataError(f"{state}: it logs {wrong!r} as `{name}`; restore the file that the trainer wrote")
            if points:
                steps, values = zip(*points, strict=True)
                curves.setdefault(name, []).append(Curve(title, colors[title], list(steps), list(values)))
    return {name: curves[name] for name in names if name in curves}


def draw_curves(curves: Curves, path: str | Path) -> Path:
    """
    Draw logged values against the step, one panel per value: as logged faintly, and smoothed. A phase has one colour.

    Args:
        curves (`dict[str, list[Curve]]`): from `read_curves`; at least one.
        path (`str` or `Path`): PNG file.

    Returns:
        `Path`: the file.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, (name, phases) in zip(axes.flat, curves.items(), strict=False):
        for curve in phases:
            axis.plot(curve.steps, curve.values, linewidth=0.8, alpha=0.35, color=curve.color)
            axis.plot(curve.steps, smooth(curve.values), linewidth=1.4, label=curve.title, color=curve.color)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=7)
        if len(phases) > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    path = Path(path)
    with written_whole(path, "wb") as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
    return path
