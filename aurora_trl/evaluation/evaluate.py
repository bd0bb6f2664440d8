"""Scores of a checkpoint on the splits of a dataset, with all its answers on disk."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.schema import Row, clip_key
from ..disk import written_whole
from ..errors import DataError
from ..generation.answers import Answer, answer_rows, swap_modality, warn_of_cut_answers
from ..generation.read_ahead import ReadAheadLoader
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..overlap import in_order
from ..progress import Progress
from .answer_log import AnswerLog, evaluation_settings, remove_answer_logs
from .metrics import get_protocol
from .metrics.errors import standard_error
from .scoring import ClassScorer, MaskScorer, describe_answer, require_scorable

_LONGEST_WAIT = timedelta(days=1)
METRICS_FILE, ANSWERS_FILE = "metrics.json", "answers.jsonl"
# Name of the mean, and of what it is taken over.
_MEANS = {
    "class_accuracy": "class_correct",
    "format_accuracy": "format_correct",
    "null_accuracy": "null_correct",
    "seg_share": "has_seg",
    "reflective_share": "reflective",
    "mean_tokens": "num_tokens",
    "cut_share": "cut",
}


def evaluate_model(
    model: AuroraModel,
    processor: AuroraProcessor,
    splits: Mapping[str, Sequence[dict[str, Any]]],
    output_dir: str | Path,
    *,
    swaps: Sequence[str] = (),
    protocol: str = "refavs",
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    kind_of: Callable[[dict[str, Any]], str] | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, Any]:
    """
    Score a model and write `metrics.json` and `answers.jsonl`.

    Several processes (`torchrun`, `accelerate launch`) share the batches; the scores are those of one process.

    Args:
        model, processor: from [`~aurora_trl.generation.answers.load`].
        splits (`Mapping[str, Sequence[dict]]`): rows with masks, by the split's name.
        output_dir (`str` or `Path`): folder for the two files.
        swaps (`Sequence[str]`, *optional*): modalities (`audio`, `video`, `reference`) to take from another clip in
            turn, on the first split: what the model does not use, it does not miss.
        protocol (`str`, *optional*, defaults to `"refavs"`): one of `PROTOCOLS`.
        batch_size (`int`, *optional*, defaults to 16): rows per forward; the scores do not depend on it.
        max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
        kind_of (`Callable`, *optional*): what it takes to resolve a row's reference, for a breakdown of J; by default
            its `reference_kind`.
        checkpoint (`str` or `Path`, *optional*): where the model is from. With it every answer goes to a file beside
            the folder as it comes; the same call, by as many processes, continues where one was cut, to the same bit.

    Returns:
        `dict`: what `metrics.json` holds; on every process.

    Raises:
        `DataError`: before anything is answered, for a row that has no mask in any frame and is no null row, or that
            the protocol can not score.
    """
    rules = get_protocol(protocol)
    for rows in splits.values():
        require_scorable(rows, rules)
    output_dir = Path(output_dir)
    state = process_state()
    runs: list[tuple[str, str | None]] = [(split, None) for split in splits]
    runs += [(next(iter(splits)), swap) for swap in swaps]
    shares = [process_share(len(splits[split]), batch_size) for split, _ in runs]
    progress = Progress(sum(map(len, shares)), quiet=not state.is_main_process)
    metrics: dict[str, Any] = {
        "protocol": protocol,
        "description": rules.description,
        "scores": list(rules.scores),
        "splits": {},
        "swaps": {},
    }
    everything: list[dict[str, Any]] = []
    log = None
    if checkpoint is not None:
        settings = {"protocol": protocol, "swaps": list(swaps), "batch_size": batch_size}
        settings |= {"max_new_tokens": processor.answer_limit(max_new_tokens), "processes": state.num_processes}
        settings |= {"num_frames": processor.num_frames}
        log = AnswerLog(output_dir, state.process_index, evaluation_settings(checkpoint, splits, **settings))
    with log or nullcontext():
        for run, ((split, swap), share) in enumerate(zip(runs, shares, strict=True)):
            rows = [dict(row) for row in splits[split]]
            asked = rows if swap is None else swap_modality(rows, swap)
            scorer = ClassScorer(rules) if rules.by_class else MaskScorer(rules)
            records: list[tuple[int, dict[str, Any]]] = []
            what = split if swap is None else f"{split}, {swap} swapped"
            before = log.take_over(run, share, batch_size) if log else {}
            for number, (record, kept) in before.items():
                scorer.restore(rows[number], number, kept)
                records.append((number, record))
                progress.step(what)
            todo = [number for number in share if number not in before]
            todo_rows = [asked[number] for number in todo]
            # In a thread, while the model is at the next answers; `scorer` and `log` are that thread's meanwhile.
            score = partial(_score, processor, run, split, swap, scorer, log, kind_of)
            with ReadAheadLoader(processor, todo_rows, ahead=batch_size, cache_clips=2 * batch_size) as loader:
                answers = answer_rows(
                    model, processor, todo_rows, batch_size=batch_size, max_new_tokens=max_new_tokens, loader=loader
                )
                answered = ((number, rows[number], answer) for number, answer in zip(todo, answers, strict=True))
                for scored in in_order(score, answered, most_waiting=2 * batch_size):
                    records.append(scored)
                    progress.step(what)
            ordered = [record for _, record in sorted(gather_object(records), key=lambda pair: pair[0])]
            clips = [clip_key(row) for row in rows]
            summary = _summarize(ordered, clips, scorer.compute(dict(enumerate(clips))))
            if swap is None:
                metrics["splits"][split] = summary
            else:
                metrics["swaps"][swap] = {"split": split, **summary}
            everything += ordered
    metrics["max_new_tokens"] = processor.answer_limit(max_new_tokens)
    metrics["instruction"] = processor.instruction
    if state.is_main_process:
        warn_of_cut_answers([record["cut"] for record in everything], ", and scored as they stood")
        _write(output_dir, metrics, everything)
        if checkpoint is not None:
            remove_answer_logs(output_dir)
    state.wait_for_everyone()
    return metrics


def _score(
    processor: AuroraProcessor,
    run: int,
    split: str,
    swap: str | None,
    scorer: MaskScorer | ClassScorer,
    log: AnswerLog | None,
    kind_of: Callable[[Row], str] | None,
    answered: tuple[int, Row, Answer],
) -> tuple[int, dict[str, Any]]:
    """The record of an answer, counted and written down."""
    number, row, answer = answered
    answer.row = row
    record = describe_answer(answer, processor.num_frames, processor.max_objects)
    record["j"] = scorer.add(answer, number, processor.num_frames)
    record.update(split=split, swap=swap, kind=kind_of(row) if kind_of else row.get("reference_kind"))
    if log:
        log.add(run, number, record, scorer.metrics.kept(number))
    return number, record


def process_state() -> PartialState:
    """
    This process among those that a launcher started; without a launcher it is the only one.

    Raises:
        `DataError`: where more were started on this machine than it has GPUs.
    """
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus > 0:
        raise DataError(f"{here} processes were started on this machine, which has {gpus} GPUs; start {gpus} or fewer")
    # Where there is no accelerator, several processes are recognised only if the CPU is asked for (accelerate 1.15).
    # One that is through waits for those that are not; where one fails, the launcher ends them all.
    several = {"timeout": _LONGEST_WAIT} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
    return PartialState(cpu=not torch.accelerator.is_available(), **several)


def process_share(num_rows: int, batch_size: int) -> list[int]:
    """The numbers of the rows that this process answers: whole batches, the same ones that a single process makes."""
    state = process_state()
    starts = range(state.process_index * batch_size, num_rows, state.num_processes * batch_size)
    return [number for start in starts for number in range(start, min(start + batch_size, num_rows))]


def _write(output_dir: Path, metrics: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """The answers first, whole or not at all: where there are scores, there are answers."""
    with written_whole(output_dir / ANSWERS_FILE) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with written_whole(output_dir / METRICS_FILE) as file:
        file.write(json.dumps(metrics, indent=2) + "\n")


def _summarize(records: Sequence[dict[str, Any]], clips: Sequence[Hashable], scores: dict[str, Any]) -> dict[str, Any]:
    """The scores of one run with means over its answers, the standard errors of both, and J by kind of reference."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] is not None:
            by_kind[record["kind"]].append(record["j"])
    means: dict[str, float | None] = {}
    errors: dict[str, float] = dict(scores["errors"])
    for name, key in _MEANS.items():
        known = [
            (float(record[key]), clip) for record, clip in zip(records, clips, strict=True) if record[key] is not None
        ]
        values, owners = [value for value, _ in known], [clip for _, clip in known]
        means[name] = sum(values) / len(values) if values else None
        error = standard_error(values, owners)
        if error is not None:
            errors[name] = error
    kinds = {kind: {"J": sum(values) / len(values), "rows": len(values)} for kind, values in sorted(by_kind.items())}
    return {**scores, "rows": len(records), **means, "errors": errors, "by_kind": kinds}
