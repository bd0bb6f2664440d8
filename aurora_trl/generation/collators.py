"""Batches out of rows, for the trainers and the teacher."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.media.loading import taken_frames
from ..data.mixture import SOURCE_COLUMN
from ..data.relations import relate_objects
from ..data.schema import Row, view_key, with_target
from ..models.shared_prefix import IGNORE_INDEX
from ..prompts import build_prompt, is_null_answer, teacher_target
from .box_answers import read_places
from .box_targets import BoxTargets
from .clip_loader import ClipLoader, pad_ids, stack_clips, stack_hints, target_key


class SFTCollator:
    """
    Batches for [`AuroraSFTTrainer`].

    A call with rows returns `input_ids`, `attention_mask`, `labels` `(B, L)`, the media inputs of the C distinct
    clips, `clip_index` `(B,)` that says which clip a row shows, `masks` `(B, T, M, M)` uint8 and `seg_positions`
    `(B,)`, and what [`ClipLoader.hints`] finds. With the processor's `max_objects` K above 1 `seg_positions` are
    `(B, K)`, and there are `object_masks` `(B, K, T, M, M)`, see [`ClipLoader.object_masks`]. For a model with
    queries their places come behind each answer, and `seg_positions` are those of the first ones. For a model with
    `mask_source: both` there are `seg_boxes` `(B, T, 6)`. Rows of a mixture have the name of each one's source in
    `sources`.

    Args:
        loader (`ClipLoader`): reads the media.
        keep_rows (`bool`, *optional*, defaults to `False`): put the rows themselves into the batch as `rows`.
        share_prefix (`bool`, *optional*, defaults to `False`): where rows share a clip, say in `prefix_lengths` `(C,)`
            how many tokens their prompts begin with in common, for a forward that reads them once.
        with_masks (`bool`, *optional*, defaults to `True`): read the rows' target masks.
        relate (`bool`, *optional*, defaults to `False`): say in `relations` `(B, B)` which rows are about the same
            object, see [`~aurora_trl.data.relations.relate_objects`].
        boxes (`BoxTargets`, *optional*): writes boxes into the answers, for a model that learns to write them.
    """

    def __init__(
        self,
        loader: ClipLoader,
        keep_rows: bool = False,
        share_prefix: bool = False,
        with_masks: bool = True,
        relate: bool = False,
        boxes: BoxTargets | None = None,
    ):
        self.loader = loader
        self.boxes = boxes
        self.relate = relate
        self.with_masks = with_masks
        self.keep_rows = keep_rows
        self.share_prefix = share_prefix

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        processor = self.loader.processor
        clips, clip_index = self.loader.distinct_clips(rows)
        prompts = [processor.prompt_ids(row, clips[i]) for row, i in zip(rows, clip_index, strict=True)]
        if self.boxes is not None:
            rows = [self.boxes(row, clips[i]) for row, i in zip(rows, clip_index, strict=True)]
        queries = processor.query_ids
        input_ids, labels = [], []
        for prompt, row in zip(prompts, rows, strict=True):
            prefill, target = processor.answer_ids(row)
            input_ids.append(prompt + prefill + target + queries)
            labels.append([IGNORE_INDEX] * len(prompt + prefill) + target + [IGNORE_INDEX] * len(queries))
        batch: dict[str, Any] = {
            "input_ids": pad_ids(input_ids, processor.tokenizer.pad_token_id),
            "attention_mask": pad_ids([[1] * len(ids) for ids in input_ids], 0),
            "labels": pad_ids(labels, IGNORE_INDEX),
            "clip_index": torch.tensor(clip_index),
            **stack_clips(clips),
        }
        if queries:
            answered = zip(rows, input_ids, strict=True)
            first = [-1 if is_null_answer(row["target"]) else len(ids) - len(queries) for row, ids in answered]
            batch["seg_positions"] = torch.tensor(first)
        else:
            learnt = batch["labels"] != IGNORE_INDEX
            batch["seg_positions"] = processor.find_seg_positions(batch["input_ids"], learnt)
        if processor.mask_source == "both":
            views = [processor.frame_view(clips[i]) for i in clip_index]
            _, batch["seg_boxes"] = read_places([row["target"] for row in rows], views, processor)
        if self.share_prefix and len(clips) < len(rows):
            lengths = _prefix_lengths(prompts, clip_index)
            # As many segments for each clip as the largest has: where clips have few, or little in common, plain rows
            # are fewer tokens.
            longest = max(len(ids) - lengths[clip] for ids, clip in zip(input_ids, clip_index, strict=True))
            shared = len(clips) * (max(lengths) + max(Counter(clip_index).values()) * longest)
            if shared < batch["input_ids"].numel():
                batch["prefix_lengths"] = torch.tensor(lengths)
        if self.with_masks:
            batch["masks"] = torch.stack([self.loader.masks(row) for row in rows])
            batch.update(stack_hints([self.loader.hints(row) for row in rows], batch["masks"]))
        if self.with_masks and processor.max_objects > 1:
            batch["object_masks"] = torch.stack([self.loader.object_masks(row) for row in rows])
        if self.relate:
            batch["relations"] = relate_objects(rows)
        if self.keep_rows:
            batch["rows"] = rows
        if all(SOURCE_COLUMN in row for row in rows):
            batch["sources"] = [row[SOURCE_COLUMN] for row in rows]
        return batch


def _prefix_lengths(prompts: Sequence[list[int]], clip_index: Sequence[int]) -> list[int]:
    """How many tokens the prompts about each clip begin with in common, their last ones left out."""
    lengths = []
    for clip in range(max(clip_index) + 1):
        of_clip = [prompt for prompt, index in zip(prompts, clip_index, strict=True) if index == clip]
        shortest = min(map(len, of_clip)) - 1
        columns = zip(*of_clip, strict=False)
        same = (i for i, column in enumerate(columns) if i == shortest or len(set(column)) > 1)
        lengths.append(next(same, shortest))
    return lengths


class TeacherCollator:
    """
    What the segmentation-only teacher reads: the prompt and its own short answer, whatever the student's target is.
    It has one `[SEG]`, `seg_positions` are `(B,)`.

    Args:
        loader (`ClipLoader`): reads the media.
        targets (`str`, *optional*, defaults to `"answer"`): see [`~aurora_trl.prompts.teacher_target`].
        share_prefix (`bool`, *optional*, defaults to `False`): see [`SFTCollator`].
    """

    def __init__(self, loader: ClipLoader, targets: str = "answer", share_prefix: bool = False):
        self._collate = SFTCollator(loader, share_prefix=share_prefix, with_masks=False)
        self._targets = targets

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        batch = self._collate([with_target(row, teacher_target(row, self._targets)) for row in rows])
        batch["seg_positions"] = batch["seg_positions"].view(len(rows), -1)[:, 0]
        unused = ("labels", "mask_frames", "mask_embeddings", "sources", "seg_boxes")
        return {name: value for name, value in batch.items() if name not in unused}


# Marks a row of a rollout that has been read before.
AGAIN = "_again"


@dataclass(eq=False)
class RowMedia:
    """
    What was read for a row. No tensor and no mapping: what moves a batch to a device leaves it where it is.

    Attributes:
        clip (`dict[str, torch.Tensor]`): see [`ClipLoader.clip`]; rows of a batch that show one clip share it.
        masks (`torch.Tensor` of shape `(T, M, M)`): the row's target masks.
        frames_taken (`int`): how many frames the model takes of the clip; the others are padding.
        object_masks (`torch.Tensor` of shape `(K, T, M, M)`, *optional*): where answers may have several.
        hints (`dict[str, torch.Tensor]`): see [`ClipLoader.hints`].
    """

    clip: dict[str, torch.Tensor]
    masks: torch.Tensor
    frames_taken: int
    object_masks: torch.Tensor | None = None
    hints: dict[str, torch.Tensor] = field(default_factory=dict)


class RolloutCollator:
    """
    Rows for [`AuroraGRPOTrainer`], which TRL keeps as a list: each gets its `prompt`, and in `media` its clip and
    target masks, read by the data loader's workers, each clip once. A row that comes again has None there.

    Args:
        loader (`ClipLoader`): reads the media.
    """

    def __init__(self, loader: ClipLoader):
        self.loader = loader

    def __call__(self, rows: list[Row]) -> list[dict[str, Any]]:
        clips: dict[tuple[Any, ...], dict[str, torch.Tensor]] = {}
        several = self.loader.processor.max_objects > 1
        media: dict[tuple[Any, ...], RowMedia | None] = {}
        out = []
        for row in rows:
            row = dict(row)
            target = target_key(row)
            if row.pop(AGAIN, False):
                media[target] = None
            elif target not in media:
                key = view_key(row)
                if key not in clips:
                    clips[key] = self.loader.clip(row)
                objects = self.loader.object_masks(row) if several else None
                taken = len(taken_frames(row, self.loader.processor.num_frames))
                masks, hints = self.loader.masks(row), self.loader.hints(row)
                media[target] = RowMedia(clips[key], masks, taken, objects, hints)
            prompt = build_prompt(row, self.loader.processor.instruction)
            out.append({**row, "prompt": prompt, "media": media[target]})
        return out
