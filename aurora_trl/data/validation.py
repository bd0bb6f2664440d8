"""Checks of a dataset before training starts: a missing or broken file shows itself here, not hours later."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..disk import written_whole
from ..errors import DataError
from .clip_checks import Clip, ClipChecker, Problem
from .formats.refavs import NULL_CLASS
from .media.checks import MIN_SOUND_SECONDS
from .media.loading import count_frames
from .schema import Row, annotated_frames, clip_key

_SHOWN_SKIPS = 20
# Clips that show whether files are waited for.
_TRIED_CLIPS = 64


def find_problems(
    rows: Sequence[Row],
    *,
    thorough: bool = True,
    workers: int | None = None,
    min_sound_seconds: float = MIN_SOUND_SECONDS,
    on_clip: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> list[Problem]:
    """
    Read a dataset as training would, and list every problem.

    Args:
        rows (`Sequence[dict]`): dataset rows.
        thorough (`bool`, *optional*, defaults to `True`): decode every file; otherwise headers and ends of files are
            read, and empty masks, silence and damage inside a file are not seen.
        workers (`int`, *optional*): threads that read; by default as many as there are cores, or one where headers
            are all that is read and they come from memory.
        min_sound_seconds (`float`, *optional*, defaults to 1.0): a shorter sound is a problem.
        on_clip (`Callable`, *optional*): called with the number of rows that a clip settles.
        limit (`int`, *optional*): stop after so many.

    Returns:
        `list[Problem]`: in the order of the rows.
    """
    problems: list[Problem] = []
    first: dict[str, int] = {}
    clips: dict[tuple[Any, ...], Clip] = {}
    for number, row in enumerate(rows):
        if row["id"] in first:
            text = f"row {row['id']!r}: its id occurs twice; give each row its own"
            problems.append(Problem("duplicate id", text, (number,)))
        first.setdefault(row["id"], number)
        key = clip_key(row)
        clips.setdefault(key, []).append((number, row))

    def check(clip: Clip) -> list[Problem]:
        return ClipChecker(thorough, min_sound_seconds).check(clip)

    for clip, found in zip(clips.values(), _check_clips(check, clips.values(), thorough, workers), strict=True):
        problems += found
        if on_clip is not None:
            on_clip(len(clip))
        if limit is not None and len(problems) >= limit:
            break
    problems.sort(key=lambda problem: problem.rows[0])
    return problems if limit is None else problems[:limit]


def _check_clips(
    check: Callable[[Clip], list[Problem]], clips: Iterable[Clip], thorough: bool, workers: int | None
) -> Iterator[list[Problem]]:
    """Each clip's problems, in order."""
    rest = iter(clips)
    if workers is None and not thorough:
        start, start_work = time.perf_counter(), time.thread_time()
        yield from [check(clip) for clip in islice(rest, _TRIED_CLIPS)]
        if time.thread_time() - start_work > 0.5 * (time.perf_counter() - start):
            # Headers in memory are Python's own work: threads would wait for its lock, and be slower than one.
            yield from map(check, rest)
            return
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        # Files are decoded and waited for without Python's lock: threads are enough, and no rows are copied.
        try:
            yield from pool.map(check, rest)
        finally:
            pool.shutdown(cancel_futures=True)


def check_dataset(rows: Sequence[Row], *, limit: int = 20) -> list[str]:
    """
    Look for what would stop a training run: files that are missing, cut short or of another size, empty references.

    Only headers and ends of files are read.

    Args:
        rows (`Sequence[dict]`): dataset rows.
        limit (`int`, *optional*, defaults to 20): stop after so many problems.

    Returns:
        `list[str]`: one line per problem, each names the file or the row and the way out; empty where all is well.
    """
    problems = find_problems(rows, thorough=False, min_sound_seconds=0, limit=limit)
    return [problem.text for problem in problems if problem.stops_training]


def require_valid(rows: Sequence[Row]) -> None:
    """
    Raise where `check_dataset` finds anything.

    Raises:
        `DataError`: the first problem, with the number of all that were found.
    """
    problems = check_dataset(rows)
    if problems:
        more = f" ({len(problems)} problems; `aurora check-data` lists them)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)


def find_bad_rows(rows: Sequence[Row]) -> dict[int, str]:
    """The first problem of each row that can not be used, by its number; every file is decoded."""
    reasons: dict[int, str] = {}
    for problem in find_problems(rows):
        for number in problem.rows if problem.stops_training else ():
            reasons.setdefault(number, problem.text)
    return reasons


def drop_bad_rows(rows: Dataset, bad: Mapping[int, str], record: str | Path | None = None) -> Dataset:
    """
    Leave out the rows that can not be read, and say which.

    Args:
        rows (`Dataset`): dataset rows.
        bad (`Mapping[int, str]`): from `find_bad_rows`.
        record (`str` or `Path`, *optional*): JSONL file for `id` and `problem` of each row that was left out; without
            it nothing is said.

    Returns:
        `Dataset`: the others.

    Raises:
        `DataError`: where no row is left.
    """
    if not bad:
        return rows
    ids = rows["id"]
    lines = [{"id": ids[number], "problem": text} for number, text in sorted(bad.items())]
    if len(lines) == len(rows):
        raise DataError(f"none of the {len(rows)} rows can be used; the first: {lines[0]['problem']}")
    if record is not None:
        sys.stderr.write(f"skipped {len(lines)} of {len(rows)} rows, all named in {record}:\n")
        sys.stderr.writelines(f"    {line['id']}: {line['problem']}\n" for line in lines[:_SHOWN_SKIPS])
        Path(record).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(record) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return rows.select([number for number in range(len(rows)) if number not in bad])


def check_classes(split: str, names: Sequence[str | None], known: Iterable[str]) -> list[Problem]:
    """
    Classes that a split should not have.

    Args:
        split (`str`): the split's name.
        names (`Sequence[str]`): the class of each of its rows.
        known (`Iterable[str]`): the classes that it may have.

    Returns:
        `list[Problem]`: one for each class.
    """
    allowed = {*known, NULL_CLASS, None}
    numbers: dict[str | None, list[int]] = {}
    for number, name in enumerate(names):
        if name not in allowed:
            numbers.setdefault(name, []).append(number)
    return [
        Problem("class", f"split {split}: {name!r} is not one of its classes ({len(found)} rows)", tuple(found))
        for name, found in numbers.items()
    ]


def summarize(rows: Dataset, problems: Sequence[Problem]) -> str:
    """One line about a split: what it holds, and how many problems of which kind."""
    frames, video, audio = (rows[name] for name in ("frames", "video", "audio"))
    clips = len({(tuple(f or ()), v, a) for f, v, a in zip(frames, video, audio, strict=True)})
    classes = {name for name in rows["class_name"] if name not in (None, NULL_CLASS)}
    kinds = Counter(problem.kind for problem in problems)
    wrong = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(rows)} rows, {clips} clips, {len(classes)} classes, {sum(rows['is_null'])} null rows: " + (
        f"{len(problems)} problems ({wrong})" if problems else "all is well"
    )


def describe_short_clips(rows: Iterable[Row], num_frames: int, *, max_videos: int | None = None) -> str | None:
    """
    What there is to know about clips that have fewer frames than a model takes.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        num_frames (`int`): frames that the model takes.
        max_videos (`int`, *optional*): count the frames of so many videos at most; of all by default.

    Returns:
        `str` or `None`: a line with the flag that mends it; None where every clip has enough.
    """
    counts: dict[tuple[Any, ...], int] = {}
    videos = 0
    for row in rows:
        key = (tuple(row.get("frames") or ()), row.get("video"))
        videos += not row.get("frames") and key not in counts
        if key in counts or (not row.get("frames") and max_videos is not None and videos > max_videos):
            continue
        with suppress(DataError):  # which the checks name
            counts[key] = count_frames(row)
    short = [count for count in counts.values() if count < num_frames]
    if not short:
        return None
    span = str(short[0]) if len(set(short)) == 1 else f"{min(short)} to {max(short)}"
    return (
        f"{len(short)} of {len(counts)} clips have {span} frames, and the model takes {num_frames}: black frames fill "
        f"them up, which cost time and teach nothing; with `num_frames: {max(short)}` in a phase's recipe, or "
        f"`aurora init --num-frames {max(short)}`, it takes no more than there are"
    )


def describe_few_annotated(rows: Iterable[Row], num_frames: int) -> str | None:
    """
    What there is to know about rows with fewer annotated frames than a model takes.

    Args:
        rows (`Iterable[dict]`): dataset rows.
        num_frames (`int`): frames that the model takes.

    Returns:
        `str` or `None`: a line; None where no row leaves frames without a mask that the model would take.
    """
    masked = (row for row in rows if not row.get("is_null"))
    counts = [len(frames) for row in masked if (frames := annotated_frames(row)) is not None]
    few = [count for count in counts if count < num_frames]
    if not few:
        return None
    span = str(few[0]) if len(set(few)) == 1 else f"{min(few)} to {max(few)}"
    return (
        f"{len(few)} rows have {span} annotated frames, and the model takes {num_frames}: it is shown these, and "
        "others between them, for which no mask is learnt or scored"
    )
