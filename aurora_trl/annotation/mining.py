"""Hard samples: what a model gets wrong on its own training data (AURORA, section 3.2)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..data.masks import frame_extents, mask_indices, require_annotated
from ..data.media.loading import NO_FRAME
from ..data.row_files import files_digest
from ..data.schema import Row, require_references, with_target
from ..evaluation.evaluate import process_state
from ..evaluation.iou import mask_iou
from ..generation.answer import Answer
from ..generation.answers import answer_rows, warn_of_cut_answers
from ..generation.clip_loader import ClipLoader
from ..generation.read_ahead import ReadAheadLoader
from ..journal import Journal
from ..models.checkpoints.digest import checkpoint_digest
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..models.reference_places import require_taken
from ..overlap import in_order
from ..progress import Progress
from ..prompts import extract_class, normalize_class, says_nothing_fits
from .run_files import (
    keep_previous,
    require_classes,
    require_distinct_ids,
    rows_digest,
    save_keeping_previous,
    targets_digest,
)
from .shared_journal import collect_records, open_shared_journal

logger = logging.getLogger(__name__)

MAX_IOU = 0.6
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class MinedAnswer:
    """
    What a model answered to a training row.

    Args:
        row (`dict`): the row with the model's answer as `target`.
        iou (`float`): of its mask, mean over frames; 0 without `[SEG]`, and 1 where nothing was to be drawn.
        named_class (`str` or `None`): the class that it names, normalised.
        class_correct (`bool`): whether that is the row's; where nothing matches, whether the answer says so.
        cut (`bool`): whether the answer ended at the limit: nobody knows what it would have come to.
    """

    row: Row
    iou: float
    named_class: str | None
    class_correct: bool
    cut: bool = False

    def is_hard(self, max_iou: float = MAX_IOU) -> bool:
        """Whether mask **and** class are wrong, in an answer that is whole."""
        return not self.cut and not self.class_correct and self.iou < max_iou


def mine_rows(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[Row],
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[MinedAnswer]:
    """
    Let a model answer its training rows.

    Args:
        model, processor: from [`~aurora_trl.generation.answers.load`].
        rows (`Sequence[dict]`): dataset rows with masks.
        batch_size (`int`, *optional*, defaults to 16): rows per forward.
        max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
        temperature (`float`, *optional*, defaults to 0.0): sample with it, by `seed`; 0: the likeliest answers.

    Yields:
        [`MinedAnswer`]: one per row, in order.
    """
    rows = list(rows)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
    with ReadAheadLoader(processor, rows, ahead=batch_size, cache_clips=2 * batch_size) as loader:
        answers = answer_rows(
            model,
            processor,
            rows,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            loader=loader,
            seed=seed,
            **sampling,
        )
        yield from in_order(partial(score_answer, loader=loader), answers, most_waiting=2 * batch_size)


def mine_file(
    model: AuroraModel,
    processor: AuroraProcessor,
    rows: Sequence[Row],
    output: str | Path,
    *,
    checkpoint: str | Path,
    max_iou: float = MAX_IOU,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> int:
    """
    Write the hard rows to a file, with what the model wrote as `target`. Every answer goes to a journal beside it, row
    by row, with its IoU and class: cut short, the same call continues.

    Several processes (`torchrun`, `accelerate launch`) share the batches, which are those of one process: a batch that
    was cut is answered again as it was put together. So the answers depend neither on how many there are nor on cuts.

    Args:
        model, processor: from [`~aurora_trl.generation.answers.load`].
        rows (`Sequence[dict]`): dataset rows with masks and distinct ids.
        output (`str` or `Path`): JSONL file.
        checkpoint (`str` or `Path`): where the model is from; a run is not continued with another.
        max_iou (`float`, *optional*, defaults to 0.6): the paper's.
        batch_size (`int`, *optional*, defaults to 16): rows per forward.
        max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
        temperature (`float`, *optional*, defaults to 0.0), seed (`int`, *optional*, defaults to 0): as for
            `mine_rows`. What a model samples, and does not hold to be the likeliest, is a mistake that it can notice.

    Returns:
        `int`: the number of hard rows, on every process. With none, no output is written: there is nothing to correct.

    Raises:
        `DataError`: where the output is another run's, or a row has no mask or no class.
    """
    rows = [dict(row) for row in rows]
    require_distinct_ids(rows)
    require_classes(rows, "which an answer is compared with")
    require_annotated(rows, "mining compares")
    require_references(rows)
    require_taken(rows, processor)
    settings = {
        "task": "mining",
        "checkpoint": checkpoint_digest(checkpoint),
        "rows": rows_digest(rows),
        "targets": targets_digest(rows),
        "max_iou": max_iou,
        "max_new_tokens": processor.answer_limit(max_new_tokens),
    }
    if temperature > 0:
        settings |= {"temperature": temperature, "seed": seed, "batch_size": batch_size}
    fields = {"id": str, "completion": str, "hard": bool}
    state = process_state()
    with open_shared_journal(output, settings, fields=fields, sync_seconds=_SYNC_SECONDS) as journal:
        known = _still_true(rows, journal)
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        still_open = [batch for batch in batches if any(row["id"] not in known for row in batch)]
        own = still_open[state.process_index :: state.num_processes]
        todo = [row for batch in own for row in batch]
        progress = Progress(len(todo), quiet=not state.is_main_process)
        hard = sum(record["hard"] for record in known.values())
        answers = mine_rows(
            model,
            processor,
            todo,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        for answer in answers:
            record = {**_describe(answer, max_iou), "files": files_digest(answer.row)}
            if record["id"] not in known:  # a batch that was cut is answered whole
                journal.append(record)
                hard += record["hard"]
            progress.step(f"{hard} hard")
        through = {record["id"]: record for record in collect_records(journal)}
    hard_rows = [with_target(row, through[row["id"]]["completion"]) for row in rows if through[row["id"]]["hard"]]
    if not state.is_main_process:
        return len(hard_rows)
    warn_of_cut_answers([bool(record.get("cut")) for record in through.values()], "; they are left out of mining")
    if hard_rows:
        save_keeping_previous(hard_rows, output)
    elif Path(output).exists():  # of masks that have changed
        keep_previous(Path(output))
    return len(hard_rows)


def _still_true(rows: Sequence[Row], journal: Journal) -> dict[str, dict[str, Any]]:
    """The last record of each row, but of those whose frames, sound or masks were other ones then."""
    known = {record["id"]: record for record in journal.records}
    told = {name: record.get("files") for name, record in known.items()}  # an earlier version told nothing
    changed = [row["id"] for row in rows if told.get(row["id"]) not in (None, files_digest(row))]
    if changed and process_state().is_main_process:
        logger.warning(
            f"{journal.path}: {len(changed)} answers are about files that have changed since, the first to row "
            f"{changed[0]!r}; these rows are asked about again"
        )
    return {name: record for name, record in known.items() if name not in {*changed}}


def _describe(answer: MinedAnswer, max_iou: float) -> dict[str, Any]:
    """What the journal holds of an answer."""
    return {
        "id": answer.row["id"],
        "completion": answer.row["target"],
        "iou": round(answer.iou, 6),
        "named_class": answer.named_class,
        "class_name": answer.row["class_name"],
        "class_correct": answer.class_correct,
        "cut": answer.cut,
        "hard": answer.is_hard(max_iou),
    }


def score_answer(answer: Answer, loader: ClipLoader) -> MinedAnswer:
    """IoU, over the frames that the clip has and that are annotated, and class of an answer."""
    indices = mask_indices(answer.row, loader.processor.num_frames)
    scored = [number for number, index in enumerate(indices) if index != NO_FRAME]
    masks = loader.masks(answer.row)[scored]
    ((height, width),) = frame_extents(masks[None])
    is_null = bool(answer.row.get("is_null"))
    if answer.mask_logits is None:
        iou = float(is_null)  # nothing was to be drawn there
    else:
        # The logits are the frame's: the decoder's square without its padding, or stretched back.
        iou = float(mask_iou(answer.mask_logits[scored], masks[:, :height, :width]))
    named = extract_class(answer.completion, answer.row["class_name"])
    correct = named == normalize_class(answer.row["class_name"] or "")
    if is_null:  # whatever a dataset calls the class of what is not there
        correct = says_nothing_fits(answer.completion)
    return MinedAnswer(with_target(answer.row, answer.completion), iou, named, correct, answer.cut)
