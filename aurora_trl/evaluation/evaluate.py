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

from ..data.collator import ClipLoader
from ..data.masks import OFFICIAL_SIZE, encode_rle, frame_size, load_masks, resize_masks_official
from ..data.media import frame_indices
from ..inference import Answer, answer_rows
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import ends_with_answer, extract_class, is_null_answer, normalize_class, says_nothing_fits
from .metrics import SegmentationMetrics, jaccard

METRICS_FILE, ANSWERS_FILE = "metrics.json", "answers.jsonl"
# What stands for the mask of an answer without `[SEG]`: nothing, with certainty.
_NO_MASK_LOGIT = -50.0


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
        `dict`: what `metrics.json` holds.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    runs: list[tuple[str, str | None]] = [(split, None) for split in splits]
    runs += [(next(iter(splits)), swap) for swap in swaps]
    progress = Progress(sum(len(splits[split]) for split, _ in runs))
    metrics: dict[str, Any] = {"protocol": protocol, "splits": {}, "swaps": {}}
    temporary = output_dir / f".{ANSWERS_FILE}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        for split, swap in runs:
            scores = SegmentationMetrics(protocol)
            records = []
            loader = ClipLoader(processor, cache_clips=2 * batch_size)
            for answer in answer_rows(
                model,
                processor,
                splits[split],
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                swap=swap,
                loader=loader,
            ):
                record = _score_answer(answer, scores, processor.num_frames)
                record.update(split=split, swap=swap, kind=kind_of(answer.row) if kind_of else None)
                records.append(record)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                progress.step(split if swap is None else f"{split}, {swap} swapped")
            summary = {**scores.compute(), **_summarize(records)}
            if swap is None:
                metrics["splits"][split] = summary
            else:
                metrics["swaps"][swap] = {"split": split, **summary}
    temporary.replace(output_dir / ANSWERS_FILE)
    (output_dir / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _score_answer(answer: Answer, scores: SegmentationMetrics, num_frames: int) -> dict[str, Any]:
    """Add an answer to the scores, and say what there is to say about it alone."""
    row = answer.row
    count = len(row.get("masks") or row.get("frames") or ()) or num_frames
    indices = frame_indices(count, num_frames)
    target = resize_masks_official(load_masks(row, indices=indices))  # (T, 256, 256)
    size = frame_size(row)
    if answer.mask_logits is None:
        logits = torch.full(target.shape, _NO_MASK_LOGIT)
        drawn = torch.zeros((len(target), *size), dtype=torch.uint8)
    else:
        planes = answer.mask_logits[:, None]
        logits = F.interpolate(planes, (OFFICIAL_SIZE, OFFICIAL_SIZE), mode="bilinear", align_corners=False)[:, 0]
        drawn = (F.interpolate(planes, size, mode="bilinear", align_corners=False)[:, 0] > 0).to(torch.uint8)
    scores.update(logits[None], target[None])
    return {
        "id": row["id"],
        "reference": row["reference"],
        "class_name": row["class_name"],
        "completion": answer.completion,
        "num_tokens": answer.num_tokens,
        "j": float(jaccard(logits, target).mean()),
        "class_correct": extract_class(answer.completion) == normalize_class(row["class_name"]),
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
    means = {
        name: sum(float(record[key]) for record in records) / len(records)
        for name, key in {
            "class_accuracy": "class_correct",
            "format_accuracy": "format_correct",
            "null_accuracy": "null_correct",
            "seg_share": "has_seg",
            "mean_tokens": "num_tokens",
        }.items()
    }
    kinds = {kind: {"J": sum(values) / len(values), "rows": len(values)} for kind, values in sorted(by_kind.items())}
    return {"rows": len(records), **means, "by_kind": kinds}


class Progress:
    """A line on stderr now and then: how far, and how long still."""

    def __init__(self, total: int, every_seconds: float = 15.0):
        self.total, self.every = total, every_seconds
        self.done = 0
        self.started = self.last = time.time()

    def step(self, what: str) -> None:
        self.done += 1
        now = time.time()
        if now - self.last < self.every and self.done < self.total:
            return
        self.last = now
        left = (now - self.started) / self.done * (self.total - self.done)
        sys.stderr.write(f"    {self.done}/{self.total} answers ({what}), {left:.0f} s left\n")
        sys.stderr.flush()
