"""Pictures of an evaluation: answers over their clips, and training curves."""

from collections.abc import Sequence
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
_VERDICTS = {True: ", right class", False: ", wrong class, it is {class_name}", None: ""}


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
    title = f"“{answer['reference']}”  J {answer['j']:.2f}{_VERDICTS[answer['class_correct']].format(**answer)}"
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
            and the `waveform`.
    """
    num_frames = len(answer["masks"])
    taken, indices = taken_frames(row, num_frames), mask_indices(row, num_frames)
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
    Means over windows of a tenth of the curve, cut off at its ends.

    Args:
        values (`Sequence[float]`): one per logged step.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index, half = np.arange(len(values)), len(values) // 20
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def read_history(state: Path) -> list[dict[str, Any]]:
    """What a trainer logged, from its `trainer_state.json`; `DataError` where that is no such file."""
    history = read_json(state).get("log_history")
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in history
    ):
        raise DataError(f"{state}: it has no `log_history` with steps; restore the file that the trainer wrote")
    return history


def draw_curves(states: Sequence[tuple[str, Path]], names: Sequence[str], path: str | Path) -> Path | None:
    """
    Draw logged values against the step, one panel per value: as logged faintly, and smoothed. A phase has one colour.

    Args:
        states (`Sequence[tuple[str, Path]]`): title and `trainer_state.json` of each phase.
        names (`Sequence[str]`): keys of the log; one that no phase logged gets no panel.
        path (`str` or `Path`): PNG file.

    Returns:
        `Path` or `None`: the file; None where nothing was logged.
    """
    series: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    for title, state in states:
        history = read_history(state)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            wrong = next((value for _, value in points if not isinstance(value, (int, float))), None)
            if wrong is not None:
                raise DataError(f"{state}: it logs {wrong!r} as `{name}`; restore the file that the trainer wrote")
            if points:
                steps, values = zip(*points, strict=True)
                series.setdefault(name, []).append((title, list(steps), list(values)))
    if not series:
        return None
    colors = {title: f"C{position}" for position, (title, _) in enumerate(states)}
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(series) :]:
        axis.axis("off")
    for axis, (name, curves) in zip(axes.flat, series.items(), strict=False):
        for title, x, y in curves:
            axis.plot(x, y, linewidth=0.8, alpha=0.35, color=colors[title])
            axis.plot(x, smooth(y), linewidth=1.4, label=title, color=colors[title])
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=7)
        if len(states) > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
