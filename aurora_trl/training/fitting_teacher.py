"""Whether a teacher is asked what it was taught, with what it was taught on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..models.checkpoints.hub import RECIPE_FILE
from ..models.processing_aurora import SETTINGS_FILE, AuroraProcessor
from ..prompts import TEACHER_TARGETS, teacher_target
from ..text_files import read_json, read_yaml

# What decides the prompt that leads to the state at `[SEG]`, and what the mask decoder is shown.
_SEEN = ("instruction", "policy_frames", "keep_aspect_ratio", "pixel_mean", "pixel_std")
# And how much of a clip the policy sees and hears, as far as its processor has such a setting.
_HEARD = ("audio_seconds", "audio_in_video", "seconds_per_frame", "video_max_pixels")


def require_fitting_teacher(
    teacher: Any, processor: AuroraProcessor, teacher_targets: str, datasets: Iterable[Any] = ()
) -> None:
    """
    Compare what a teacher's folder says of its training with what it will be shown.

    Its feature at `[SEG]` is taken after a text, and from frames, that the student's processor makes. Of others than
    it has learnt from it would be a feature of no meaning, and nothing else says so.

    Args:
        teacher (`AuroraModel`): loaded from a folder; of another nothing is known.
        processor (`AuroraProcessor`): the student's.
        teacher_targets (`str`): the text that the teacher will read.
        datasets (`Iterable`, *optional*): rows that it will be asked about; those of a stream when they come.

    Raises:
        `DataError`: names the first row about which there is no such text.
        `ValueError`: names the setting, and both values.
    """
    known = [rows for rows in datasets if isinstance(rows, Dataset)] if teacher_targets == "class" else []
    for rows in known:
        columns = [name for name in ("id", "class_name", "is_null") if name in rows.column_names]
        for row in rows.select_columns(columns):
            teacher_target(row, teacher_targets)
    folder = Path(str(getattr(teacher, "name_or_path", "") or ""))
    if not str(folder) or not folder.is_dir():
        return
    recipe, settings = folder / RECIPE_FILE, folder / SETTINGS_FILE
    taught = read_yaml(recipe).get("targets") if recipe.is_file() else None
    if taught in TEACHER_TARGETS and taught != teacher_targets:
        raise ValueError(
            f"the teacher {folder} was trained with `targets: {taught}`, and would be asked with `teacher_targets: "
            f"{teacher_targets}`: set `teacher_targets: {taught}`"
        )
    if not settings.is_file():
        return
    theirs, own = read_json(settings), processor.settings()
    for one, policy_processor in (
        (theirs, AuroraProcessor.from_pretrained(folder).policy_processor),
        (own, processor.policy_processor),
    ):
        one["policy_frames"] = one.get("policy_frames") or one.get("num_frames")
        one.update({name: getattr(policy_processor, name) for name in _HEARD if hasattr(policy_processor, name)})
    for name in (*_SEEN, *_HEARD):
        if name in theirs and theirs[name] not in (None, own.get(name)):
            raise ValueError(
                f"the teacher {folder} was trained with `{name}` {theirs[name]!r}, and the student has "
                f"{own.get(name)!r}: train both with the same"
            )
