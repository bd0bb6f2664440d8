"""Scores of a checkpoint on the splits of a dataset, with all its answers on disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.row_files import files_digest
from ..data.schema import Row, clip_key
from ..errors import DataError
from ..generation.answer import Answer
from ..generation.answers import answer_rows, warn_of_cut_answers
from ..generation.choosing import Choosing
from ..generation.read_ahead import ReadAheadLoader
from ..generation.swaps import swap_modality
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..models.reference_places import require_taken
from ..overlap import in_order
from ..progress import Progress
from .answer_log import AnswerLog, evaluation_settings, remove_answer_logs
from .kept_logits import KeptLogits
from .metrics import get_protocol
from .score_files import ScoreFiles
from .scoring import Scorers, describe_answer, name_clips, require_scorable

_LONGEST_WAIT = timedelta(days=1)


def evaluate_model(
    model: AuroraModel,
    processor: AuroraProcessor,
    splits: Mapping[str, Sequence[dict[str, Any]]],
    output_dir: str | Path,
    *,
    swaps: Sequence[str] = (),
    protocol: str | Sequence[str] = "refavs",
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    kind_of: Callable[[dict[str, Any]], str] | None = None,
    checkpoint: str | Path | None = None,
    keep_logits: bool = True,
    data: Mapping[str, str | None] | None = None,
    choosing: Choosing | None = None,
) -> dict[str, Any]:
    """
    Score a model and write `metrics.json`, `answers.jsonl` and each answer's own scores.

    Several processes (`torchrun`, `accelerate launch`) share the batches; the scores are those of one process.

    Args:
        model, processor: from [`~aurora_trl.generation.answers.load`].
        splits (`Mapping[str, Sequence[dict]]`): rows with masks, by the split's name.
        output_dir (`str` or `Path`): folder for the files.
        swaps (`Sequence[str]`, *optional*): modalities (`audio`, `video`, `reference`) to take from another clip in
            turn, on the first split: what the model does not use, it does not miss.
        protocol (`str` or `Sequence[str]`, *optional*, defaults to `"refavs"`): of `PROTOCOLS`. Of several the first
            has `metrics.json`, any other one `metrics.NAME.json`.
        batch_size (`int`, *optional*, defaults to 16): rows per forward; the scores do not depend on it.
        max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
        kind_of (`Callable`, *optional*): what it takes to resolve a row's reference, for a breakdown of J; by default
            its `reference_kind`.
        checkpoint (`str` or `Path`, *optional*): where the model is from. With it every answer goes to a file beside
            the folder as it comes; the same call, by as many processes, continues where one was cut, to the same bit.
        keep_logits (`bool`, *optional*, defaults to `True`): keep the answers' logits beside them, so that
            `score_again` can score them by another protocol; see [`KeptLogits`] for what they take.
        data (`Mapping[str, str | None]`, *optional*): `path`, `format` and `subset` of the dataset, to be found again.
        choosing (`Choosing`, *optional*): how an answer is chosen out of several; there is one by default. The scores
            then say so, and what the answers took.

    Returns:
        `dict`: what `metrics.json` holds; on every process.

    Raises:
        `DataError`: before anything is answered, for a row that has no mask in any frame and is no null row, or that
            the protocol can not score.
        `ValueError`: likewise, for a modality that can not be swapped.
    """
    protocols = [protocol] if isinstance(protocol, str) else list(dict.fromkeys(protocol))
    for rules in map(get_protocol, protocols):
        for rows in splits.values():
            require_scorable(rows, rules)
    for rows in splits.values():
        require_taken(rows, processor)
    output_dir, swaps = Path(output_dir), list(dict.fromkeys(swaps))
    if output_dir.name in ("", ".."):  # what stands beside it has its name
        output_dir = output_dir.resolve()
    state = process_state()
    all_rows = {split: [dict(row) for row in rows] for split, rows in splits.items()}
    clip_names = name_clips(all_rows)
    runs: list[tuple[str, str | None]] = [(split, None) for split in splits]
    runs += [(next(iter(splits)), swap) for swap in swaps]
    if "audio" in swaps and processor.policy_processor.sampling_rate is None:
        raise ValueError("audio can not be swapped: the policy does not hear; leave `audio` out of `--swaps`")
    asked_rows = [all_rows[split] if swap is None else swap_modality(all_rows[split], swap) for split, swap in runs]
    shares = [process_share(len(splits[split]), batch_size) for split, _ in runs]
    progress = Progress(sum(map(len, shares)), quiet=not state.is_main_process)
    chosen_by = None
    if choosing is not None and choosing.is_on:
        choosing.require_possible(model, processor, {})
        chosen_by = choosing.settings()
        if choosing.needs_quality:
            chosen_by["quality_trained"] = model.config.quality_trained
    files = ScoreFiles(protocols, processor.answer_limit(max_new_tokens), processor.instruction, data, chosen_by)
    kept_logits = KeptLogits(output_dir.with_name(f"{output_dir.name}.logits")) if keep_logits else None
    log = None
    if checkpoint is not None:
        settings = {"protocol": protocols, "keep_logits": keep_logits, "swaps": swaps, "batch_size": batch_size}
        settings |= {"max_new_tokens": processor.answer_limit(max_new_tokens), "processes": state.num_processes}
        settings |= {"num_frames": processor.num_frames} | ({"choosing": chosen_by} if chosen_by else {})
        log = AnswerLog(output_dir, state.process_index, evaluation_settings(checkpoint, splits, **settings))
    with log or nullcontext():
        for run, ((split, swap), share) in enumerate(zip(runs, shares, strict=True)):
            rows = all_rows[split]
            scorer = Scorers(protocols)
            records: list[tuple[int, dict[str, Any]]] = []
            what = split if swap is None else f"{split}, {swap} swapped"

            def digest(number: int, rows: list[Row] = rows, asked: list[Row] = asked_rows[run]) -> str:
                return files_digest(rows[number], asked[number])

            before = log.take_over(run, share, batch_size, digest) if log else {}
            for number, (record, kept) in before.items():
                scorer.restore(rows[number], number, kept)
                records.append((number, record))
                progress.step(what)
            todo = [number for number in share if number not in before]
            todo_rows = [asked_rows[run][number] for number in todo]
            # In a thread, while the model is at the next answers; `scorer` and `log` are that thread's meanwhile.
            place = (run, split, swap)
            score = partial(_score, processor, place, scorer, log, digest, kept_logits, clip_names, kind_of)
            with ReadAheadLoader(processor, todo_rows, ahead=batch_size, cache_clips=2 * batch_size) as loader:
                answers = answer_rows(
                    model,
                    processor,
                    todo_rows,
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    loader=loader,
                    choosing=choosing,
                )
                answered = ((number, rows[number], answer) for number, answer in zip(todo, answers, strict=True))
                for scored in in_order(score, answered, most_waiting=2 * batch_size):
                    records.append(scored)
                    progress.step(what)
            ordered = [record for _, record in sorted(gather_object(records), key=lambda pair: pair[0])]
            clips = [clip_key(row) for row in rows]
            files.add(split, swap, scorer.compute(dict(enumerate(clips))), ordered, clips)
    if state.is_main_process:
        warn_of_cut_answers([record["cut"] for record in files.records], ", and scored as they stood")
        if kept_logits:
            kept_logits.finish(
                output_dir,
                files.records,
                image_size=processor.mask_image_size,
                num_frames=processor.num_frames,
                keep_aspect_ratio=processor.keep_aspect_ratio,
            )
        files.write(output_dir)
        if checkpoint is not None:
            remove_answer_logs(output_dir)
    state.wait_for_everyone()
    return files.metrics[protocols[0]]


def _score(
    processor: AuroraProcessor,
    place: tuple[int, str, str | None],
    scorer: Scorers,
    log: AnswerLog | None,
    digest: Callable[[int], str],
    kept_logits: KeptLogits | None,
    clip_names: Mapping[tuple[Any, ...], str],
    kind_of: Callable[[Row], str] | None,
    answered: tuple[int, Row, Answer],
) -> tuple[int, dict[str, Any]]:
    """The record of an answer, counted and written down."""
    (run, split, swap), (number, row, answer) = place, answered
    answer.row = row
    record = describe_answer(
        answer, processor.num_frames, processor.max_objects, processor.mask_source, processor.seg_source
    )
    record["scores"] = scorer.add(answer, number, processor.num_frames)
    record["j"] = next(iter(record["scores"].values()))["J"]
    record.update(clip=clip_names[clip_key(row)], split=split, swap=swap, row=number)
    record["kind"] = kind_of(row) if kind_of else row.get("reference_kind")
    if kept_logits:
        kept_logits.save(split, swap, number, answer)
    if log:
        log.add(run, number, record, scorer.kept(number), digest(number))
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
