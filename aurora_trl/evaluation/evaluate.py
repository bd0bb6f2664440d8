"""Scores of a checkpoint on the splits of a dataset, with all its answers on disk."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.collator import ClipLoader
from ..data.masks import encode_rle, frame_size, load_masks, mask_indices
from ..data.media import NO_FRAME
from ..inference import Answer, answer_rows, swap_modality
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import ends_with_answer, extract_class, is_null_answer, normalize_class, says_nothing_fits
from .metrics import SegmentationMetrics, get_protocol

METRICS_FILE, ANSWERS_FILE = "metrics.json", "answers.jsonl"
# What stands for the mask of an answer without `[SEG]`: nothing, with certainty.
_NO_MASK_LOGIT = -50.0
# Name of the mean, and of what it is taken over.
_MEANS = {
    "class_accuracy": "class_correct",
    "format_accuracy": "format_correct",
    "null_accuracy": "null_correct",
    "seg_share": "has_seg",
    "mean_tokens": "num_tokens",
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
    max_new_tokens: int = 256,
    kind_of: Callable[[dict[str, Any]], str] | None = None,
) -> dict[str, Any]:
    """
    Score a model and write `metrics.json` and `answers.jsonl`.

    Several processes (`torchrun`, `accelerate launch`) share the batches; the scores are those of one process.

    Args:
        model, processor: from [`~aurora_trl.inference.load`].
        splits (`Mapping[str, Sequence[dict]]`): rows with masks, by the split's name.
        output_dir (`str` or `Path`): folder for the two files.
        swaps (`Sequence[str]`, *optional*): modalities (`audio`, `video`, `reference`) to take from another clip in
            turn, on the first split: what the model does not use, it does not miss.
        protocol (`str`, *optional*, defaults to `"refavs"`): see [`SegmentationMetrics`].
        batch_size (`int`, *optional*, defaults to 16): rows per forward; the scores do not depend on it.
        max_new_tokens (`int`, *optional*, defaults to 256): longest answer, in tokens.
        kind_of (`Callable`, *optional*): what it takes to resolve a row's reference, for a breakdown of J.

    Returns:
        `dict`: what `metrics.json` holds; on every process.
    """
    rules = get_protocol(protocol)
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
    for (split, swap), share in zip(runs, shares, strict=True):
        rows = [dict(row) for row in splits[split]]
        asked = rows if swap is None else swap_modality(rows, swap)
        scores, records = SegmentationMetrics(protocol), []
        loader = ClipLoader(processor, cache_clips=2 * batch_size)
        answers = answer_rows(
            model,
            processor,
            [asked[place] for place in share],
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            loader=loader,
        )
        for place, answer in zip(share, answers, strict=True):
            answer.row = rows[place]
            record = _score_answer(answer, scores, place, processor.num_frames)
            record.update(split=split, swap=swap, kind=kind_of(answer.row) if kind_of else None)
            records.append((place, record))
            progress.step(split if swap is None else f"{split}, {swap} swapped")
        scores = scores.gather()
        in_order = [record for _, record in sorted(gather_object(records), key=lambda pair: pair[0])]
        summary = {**scores.compute(), **_summarize(in_order)}
        if swap is None:
            metrics["splits"][split] = summary
        else:
            metrics["swaps"][swap] = {"split": split, **summary}
        everything += in_order
    if state.is_main_process:
        _write(output_dir, metrics, everything)
    state.wait_for_everyone()
    return metrics


def process_state() -> PartialState:
    """This process among those that a launcher started; without a launcher it is the only one."""
    # Where there is no accelerator, several processes are recognised only if the CPU is asked for (accelerate 1.15).
    return PartialState(cpu=not torch.accelerator.is_available())


def process_share(num_rows: int, batch_size: int) -> list[int]:
    """The places of the rows that this process answers: whole batches, the same ones that a single process makes."""
    state = process_state()
    starts = range(state.process_index * batch_size, num_rows, state.num_processes * batch_size)
    return [place for start in starts for place in range(start, min(start + batch_size, num_rows))]


def _write(output_dir: Path, metrics: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """The answers first, whole or not at all: where there are scores, there are answers."""
    output_dir.mkdir(parents=True, exist_ok=True)
    temporary = output_dir / f".{ANSWERS_FILE}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    temporary.replace(output_dir / ANSWERS_FILE)
    (output_dir / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n")


def _score_answer(answer: Answer, scores: SegmentationMetrics, place: int, num_frames: int) -> dict[str, Any]:
    """Add an answer to the scores, and say what there is to say about it alone."""
    row, rules = answer.row, scores.rules
    indices = mask_indices(row, num_frames)
    size = frame_size(row)
    # What stands past the end of a short clip, or is not annotated, has no score.
    scored = [i for i, index in enumerate(indices) if index != NO_FRAME]
    target = rules.prepare_masks(load_masks(row, indices=[indices[i] for i in scored]))  # (T, h, w)
    if answer.mask_logits is None:
        logits = torch.full(target.shape, _NO_MASK_LOGIT)
        drawn = torch.zeros((num_frames, *size), dtype=torch.uint8)
    else:
        logits = rules.prepare_logits(answer.mask_logits[scored], size)
        planes = answer.mask_logits[:, None]
        drawn = (F.interpolate(planes, size, mode="bilinear", align_corners=False)[:, 0] > 0).to(torch.uint8)
    j = scores.update(logits[None], target[None], index=[place])
    class_name, said = row.get("class_name"), extract_class(answer.completion)
    return {
        "id": row["id"],
        "reference": row["reference"],
        "class_name": class_name,
        "completion": answer.completion,
        "num_tokens": answer.num_tokens,
        "j": float(j),
        # None where the dataset names no class.
        "class_correct": None if class_name is None else said == normalize_class(class_name),
        "format_correct": ends_with_answer(answer.completion) or is_null_answer(answer.completion),
        # Of a null row, whether the answer says that nothing fits; of any other, whether it does not.
        "null_correct": says_nothing_fits(answer.completion) == bool(row.get("is_null")),
        "has_seg": answer.mask_logits is not None,
        "masks": [encode_rle(mask) for mask in drawn.numpy()],
    }


def _summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the answers of one run, and J by kind of reference."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] is not None:
            by_kind[record["kind"]].append(record["j"])
    means: dict[str, float | None] = {}
    for name, key in _MEANS.items():
        values = [float(record[key]) for record in records if record[key] is not None]
        means[name] = sum(values) / len(values) if values else None
    kinds = {kind: {"J": sum(values) / len(values), "rows": len(values)} for kind, values in sorted(by_kind.items())}
    return {"rows": len(records), **means, "by_kind": kinds}


class Progress:
    """A line on stderr now and then: how far, and how long still."""

    def __init__(self, total: int, every_seconds: float = 15.0, quiet: bool = False, unit: str = "answers"):
        self.total, self.every, self.quiet, self.unit = total, every_seconds, quiet, unit
        self.done = 0
        self.started = self.last = time.time()

    def step(self, what: str) -> None:
        self.done += 1
        now = time.time()
        if self.quiet or (now - self.last < self.every and self.done < self.total):
            return
        self.last = now
        left = (now - self.started) / self.done * (self.total - self.done)
        sys.stderr.write(f"    {self.done}/{self.total} {self.unit} ({what}), {left:.0f} s left\n")
        sys.stderr.flush()
