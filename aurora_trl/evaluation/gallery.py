"""The answers that a report shows: which ones, and what is to be seen of each."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.schema import Row
from ..errors import DataError
from ..generation.overlay import overlay_masks
from ..generation.video_writer import VideoWriter
from ..text_files import json_lines, parse_json

_ANSWER_KEYS = ("id", "split", "swap", "j", "reference", "class_name", "completion", "masks")
# Of a clip in the report: the height of its frames, the quality of its pictures and sound.
_CLIP_WIDTH = 1280  # at most: no encoder takes a strip as wide as some pictures are
_CLIP_HEIGHT, _CLIP_OPTIONS, _SOUND_BITS = 180, {"crf": "27", "preset": "slow"}, 32_000
_GAP = 6
_SECONDS_PER_IMAGE = 1.0


def read_answers(file: Path) -> list[dict[str, Any]]:
    """
    The lines of an evaluation's `answers.jsonl`.

    Raises:
        `DataError`: names the file, and the line that is none of an evaluation's.
    """
    lines = json_lines(file) if file.is_file() else []
    if not lines:
        raise DataError(f"{file}: no such file, or it holds no answer; evaluate that checkpoint again")
    return [_read_answer(f"{file}, line {number}", line) for number, line in lines]


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


def choose_answers(
    answers: Sequence[dict[str, Any]], rows: Mapping[str, Row], count: int
) -> dict[str, list[dict[str, Any]]]:
    """
    Good, typical and bad answers of the first split, of distinct classes where there are such.

    Args:
        answers (`Sequence[dict]`): lines of `answers.jsonl`.
        rows (`Mapping[str, dict]`): dataset rows by id; an answer about another row is left out.
        count (`int`): of each group.
    """
    first = answers[0]["split"]
    ranked = [a for a in answers if a["swap"] is None and a["split"] == first and a["id"] in rows]
    ranked.sort(key=lambda answer: -answer["j"])
    middle = len(ranked) // 2
    outwards = [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: abs(i - middle))]
    return {
        "Good": of_distinct_classes(ranked, count),
        "Typical": of_distinct_classes(outwards, count),
        "Bad": of_distinct_classes(ranked[::-1], count),
    }


def of_distinct_classes(answers: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first answers about another class each, then whatever comes first: the easiest class is not all there is."""
    first_of_class: dict[str, dict[str, Any]] = {}
    for answer in answers:
        first_of_class.setdefault(answer["class_name"], answer)
    chosen = list(first_of_class.values())[:count]
    return [*chosen, *(answer for answer in answers if answer not in chosen)][:count]


def render_clip(
    frames: np.ndarray,
    masks: np.ndarray,
    targets: np.ndarray,
    seconds: Sequence[float] | None,
    waveform: np.ndarray | None,
    sampling_rate: int,
    **_others: Any,
) -> bytes:
    """
    A small MP4 of a clip with its sound: on the left as it is, on the right with the masks.

    Args:
        frames, masks, targets, seconds, waveform, sampling_rate: as [`~aurora_trl.generation.picture.draw_clip`] takes
            them; frames without times are shown for a second each.

    Returns:
        `bytes`: the file.
    """
    height, width = frames.shape[1:3]
    scale = min(_CLIP_HEIGHT / height, _CLIP_WIDTH / width)
    size = (max(2, round(height * scale)), max(2, round(width * scale)))
    nothing, gap = np.zeros((1, height, width), np.uint8), np.full((size[0], _GAP, 3), 255, np.uint8)
    times = list(seconds) if seconds is not None else [i * _SECONDS_PER_IMAGE for i in range(len(frames))]
    step = times[-1] - times[-2] if len(times) > 1 else _SECONDS_PER_IMAGE
    duration = times[-1] + step if waveform is None else max(times[-1] + step, len(waveform) / sampling_rate)
    rate = None if waveform is None else sampling_rate
    file = io.BytesIO()
    with VideoWriter(
        file,
        (size[0], 2 * size[1] + _GAP),
        frame_rate=10,
        sampling_rate=rate,
        sound_bit_rate=_SOUND_BITS,
        options=_CLIP_OPTIONS,
    ) as writer:
        for i, moment in enumerate(times):
            seen = overlay_masks(frames[i], nothing, size=size)
            drawn = overlay_masks(frames[i], masks[i], targets[i], size=size)
            picture = np.concatenate([seen, gap, drawn], axis=1)
            writer.add(picture, 0.0 if i == 0 else moment)
        writer.add(picture, duration - 0.1)
        if waveform is not None:
            writer.add_sound(waveform)
    return file.getvalue()
