"""From rows to batches: media are read here, once per clip, and cached where memory allows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..data.media.loading import NO_FRAME, MediaCache, load_audio, load_frames
from ..data.media.masks import NO_TARGET, load_masks, load_target_masks, mask_indices
from ..data.schema import clip_key, require_few_targets, with_target
from ..models.policies.base import stack_media
from ..models.processing_aurora import AuroraProcessor
from ..models.shared_prefix import IGNORE_INDEX
from ..prompts import build_prompt, teacher_target
from .feature_store import MaskFeatures


class ClipLoader:
    """
    Reads the media of rows as model inputs.

    Args:
        processor (`AuroraProcessor`): makes the inputs.
        cache_clips (`int`, *optional*, defaults to 0): how many clips to keep in memory, least recently used out
            first. A clip of 10 frames takes about 1 MB at 64 px, 250 MB at 1024 px.

    Attributes:
        mask_inputs (`bool`): whether clips come with what the mask decoder needs of them.
    """

    def __init__(self, processor: AuroraProcessor, cache_clips: int = 0):
        self.processor = processor
        self.mask_inputs = True
        self._mask_features: MaskFeatures | None = None
        self._clips = MediaCache(cache_clips)
        self._masks = MediaCache(8 * cache_clips)

    def use_mask_features(self, features: MaskFeatures) -> None:
        """From now on clips come with `mask_embeddings` `(T, E, h, w)` in place of `mask_frames`."""
        self._mask_features = features
        self._clips = MediaCache(self._clips.size)  # those in memory have frames

    def clip(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The row's clip as [`AuroraProcessor.process_clip`] makes it, with `frame_size` `(2,)` in pixels."""
        return self._clips.get(clip_key(row), lambda: self._load_clip(row))

    def _load_clip(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        frames = load_frames(row, num_frames=self.processor.num_frames)
        sampling_rate = self.processor.policy_processor.sampling_rate
        # A policy without a rate does not hear: its rows' sound is not read.
        waveform = None if sampling_rate is None else load_audio(row, sampling_rate=sampling_rate)
        kept = self._mask_features if self.mask_inputs else None
        clip = self.processor.process_clip(frames, waveform, with_mask_frames=self.mask_inputs and kept is None)
        if kept is not None:
            clip["mask_embeddings"] = kept.read(clip_key(row))
        clip["frame_size"] = torch.tensor(frames.shape[1:3])
        return clip

    def distinct_clips(self, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
        """The clips that rows show, each once and in order of appearance, and the index of each row's clip."""
        order: dict[tuple[Any, ...], int] = {}
        clips: list[dict[str, torch.Tensor]] = []
        for row in rows:
            if clip_key(row) not in order:
                order[clip_key(row)] = len(clips)
                clips.append(self.clip(row))
        return clips, [order[clip_key(row)] for row in rows]

    def masks(self, row: dict[str, Any]) -> torch.Tensor:
        """
        The row's target masks `(T, M, M)` uint8 in the decoder's geometry; all zero for a null row, and all
        `NO_TARGET` in a frame that nobody annotated or that stands past the end of a short clip.
        """
        key = ("null", *clip_key(row)) if row.get("is_null") else tuple(row["masks"] or ())
        return self._masks.get(key, lambda: self._load_masks(row))

    def target_masks(self, row: dict[str, Any]) -> torch.Tensor:
        """
        The masks of the row's objects, each apart: `(max_targets, T, M, M)` uint8 as in `masks`. All `NO_TARGET` past
        the last object, and altogether where the row has its objects' masks together.

        Raises:
            `DataError`: where the row is about more objects than an answer may have.
        """
        key = ("targets", row.get("is_null"), *(row["masks"] or ()))
        return self._masks.get(key, lambda: self._load_target_masks(row))

    def _load_target_masks(self, row: dict[str, Any]) -> torch.Tensor:
        indices = mask_indices(row, self.processor.num_frames)
        require_few_targets([row], self.processor.max_targets)
        planes = load_target_masks(row, indices=indices)
        each = [] if planes is None else [self.processor.process_masks(masks) for masks in planes]
        size = self.processor.mask_target_size
        targets = torch.full((self.processor.max_targets, len(indices), size, size), NO_TARGET, dtype=torch.uint8)
        for target, masks in zip(targets, each, strict=False):
            target.copy_(masks)
        targets[:, torch.tensor(indices) == NO_FRAME] = NO_TARGET
        return targets

    def _load_masks(self, row: dict[str, Any]) -> torch.Tensor:
        indices = mask_indices(row, self.processor.num_frames)
        masks = self.processor.process_masks(load_masks(row, indices=indices))
        masks[torch.tensor(indices) == NO_FRAME] = NO_TARGET
        return masks


def stack_clips(clips: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    The inputs of C clips, see `stack_media`: the policy's own media inputs and `mask_frames` `(C, T, 3, S, S)`, or
    `mask_embeddings` `(C, T, E, h, w)` where they are kept.
    """
    return stack_media([{name: value for name, value in clip.items() if name != "frame_size"} for clip in clips])


def pad_ids(sequences: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Pad lists of ids to `(B, L)`."""
    return pad_sequence(
        [torch.tensor(ids, dtype=torch.long) for ids in sequences],
        batch_first=True,
        padding_value=value,
        padding_side=side,
    )


class SFTCollator:
    """
    Batches for [`AuroraSFTTrainer`].

    A call with rows returns `input_ids`, `attention_mask`, `labels` `(B, L)`, the media inputs of the C distinct
    clips, `clip_index` `(B,)` that says which clip a row shows, `masks` `(B, T, M, M)` uint8 and `seg_positions`
    `(B,)`. With the processor's `max_targets` K above 1 these are `(B, K)`, and there are `target_masks`
    `(B, K, T, M, M)`, see [`ClipLoader.target_masks`].

    Args:
        loader (`ClipLoader`): reads the media.
        keep_rows (`bool`, *optional*, defaults to `False`): put the rows themselves into the batch as `rows`.
        share_prefix (`bool`, *optional*, defaults to `False`): where rows share a clip, say in `prefix_lengths` `(C,)`
            how many tokens their prompts begin with in common, for a forward that reads them once.
        with_masks (`bool`, *optional*, defaults to `True`): read the rows' target masks.
    """

    def __init__(
        self, loader: ClipLoader, keep_rows: bool = False, share_prefix: bool = False, with_masks: bool = True
    ):
        self.loader = loader
        self.with_masks = with_masks
        self.keep_rows = keep_rows
        self.share_prefix = share_prefix

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        processor = self.loader.processor
        clips, clip_index = self.loader.distinct_clips(rows)
        prompts = [processor.prompt_ids(row, clips[i]) for row, i in zip(rows, clip_index, strict=True)]
        input_ids, labels = [], []
        for prompt, row in zip(prompts, rows, strict=True):
            prefill, target = processor.answer_ids(row)
            input_ids.append(prompt + prefill + target)
            labels.append([IGNORE_INDEX] * len(prompt + prefill) + target)
        batch: dict[str, Any] = {
            "input_ids": pad_ids(input_ids, processor.tokenizer.pad_token_id),
            "attention_mask": pad_ids([[1] * len(ids) for ids in input_ids], 0),
            "labels": pad_ids(labels, IGNORE_INDEX),
            "clip_index": torch.tensor(clip_index),
            **stack_clips(clips),
        }
        batch["seg_positions"] = processor.find_seg_positions(batch["input_ids"], batch["labels"] != IGNORE_INDEX)
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
        if self.with_masks and processor.max_targets > 1:
            batch["target_masks"] = torch.stack([self.loader.target_masks(row) for row in rows])
        if self.keep_rows:
            batch["rows"] = rows
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

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._collate([with_target(row, teacher_target(row, self._targets)) for row in rows])
        batch["seg_positions"] = batch["seg_positions"].view(len(rows), -1)[:, 0]
        unused = ("labels", "mask_frames", "mask_embeddings")
        return {name: value for name, value in batch.items() if name not in unused}


class RolloutCollator:
    """
    Rows for [`AuroraGRPOTrainer`], which TRL keeps as a list: each gets its `prompt`, its `clip` and its target masks
    in place of their paths, read by the data loader's workers; `target_masks` too, where answers may have several.
    Rows of one batch that show one clip share its tensors.

    Args:
        loader (`ClipLoader`): reads the media.
    """

    def __init__(self, loader: ClipLoader):
        self.loader = loader

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        clips: dict[tuple[Any, ...], dict[str, torch.Tensor]] = {}
        several = self.loader.processor.max_targets > 1
        masks: dict[str, dict[str, torch.Tensor]] = {}
        out = []
        for row in rows:
            key = clip_key(row)
            if key not in clips:
                clips[key] = self.loader.clip(row)
            if row["id"] not in masks:
                masks[row["id"]] = {"masks": self.loader.masks(row)}
                if several:
                    masks[row["id"]]["target_masks"] = self.loader.target_masks(row)
            prompt = build_prompt(row, self.loader.processor.instruction)
            out.append({**row, "prompt": prompt, "clip": clips[key], **masks[row["id"]]})
        return out
