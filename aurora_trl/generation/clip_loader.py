"""Media of rows as model inputs: read once per clip, and cached where memory allows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..data.hints import HINTS, UNMARKED, fill_boxes, is_marked, require_inside
from ..data.masks import (
    NO_TARGET,
    frame_size,
    load_masks,
    load_object_masks,
    mask_indices,
    require_frame_size,
    require_mask_count,
)
from ..data.media.loading import (
    NO_FRAME,
    MediaCache,
    frame_seconds,
    load_audio,
    load_frames,
    measure_sound_seconds,
    taken_frames,
)
from ..data.media.reference import load_reference
from ..data.schema import Row, require_few_objects, view_key
from ..errors import DataError
from ..models.policies.base import stack_media
from ..models.processing_aurora import AuroraProcessor
from ..models.reference_places import require_taken
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
        allow_unmarked (`bool`): whether a row may have nothing that a mask could be compared with.
    """

    def __init__(self, processor: AuroraProcessor, cache_clips: int = 0):
        self.processor = processor
        self.mask_inputs = True
        self.allow_unmarked = False
        self._mask_features: MaskFeatures | None = None
        self._clips = MediaCache(cache_clips)
        self._masks = MediaCache(8 * cache_clips)

    def use_mask_features(self, features: MaskFeatures) -> None:
        """From now on clips come with `mask_embeddings` `(T, E, h, w)` in place of `mask_frames`."""
        self._mask_features = features
        self._clips = MediaCache(self._clips.size)  # those in memory have frames

    def clip(self, row: Row) -> dict[str, torch.Tensor]:
        """The row's clip as [`AuroraProcessor.process_clip`] makes it, with `frame_size` `(2,)` in pixels."""
        return self._clips.get(view_key(row), lambda: self._load_clip(row))

    def changed_clip(self, row: Row, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, torch.Tensor]:
        """
        The row's clip for the policy alone, with other pixels. It is read anew each time.

        Args:
            row (`dict`): a dataset row.
            change (`Callable`): takes the frames `(T, H, W, 3)` uint8 that are taken of the clip, and returns others.
        """
        frames, media = self._read_media(row)
        return self.processor.process_clip(change(frames), **media, with_mask_frames=False)

    def _read_media(self, row: Row) -> tuple[np.ndarray, dict[str, Any]]:
        """The frames that are taken of a clip, and what [`AuroraProcessor.process_clip`] is given beside them."""
        require_taken([row], self.processor)
        frames = load_frames(row, num_frames=self.processor.num_frames, pad=False)
        sampling_rate = self.processor.policy_processor.sampling_rate
        # A policy without a rate does not hear: its rows' sound is not read.
        waveform = None if sampling_rate is None else load_audio(row, sampling_rate=sampling_rate)
        return frames, {
            "waveform": waveform,
            "frame_seconds": self._frame_seconds(row, waveform),
            "reference": load_reference(row, frames.shape[1:3], sampling_rate or 0),
        }

    def _load_clip(self, row: Row) -> dict[str, torch.Tensor]:
        frames, media = self._read_media(row)
        kept = self._mask_features if self.mask_inputs else None
        clip = self.processor.process_clip(frames, **media, with_mask_frames=self.mask_inputs and kept is None)
        if kept is not None:
            clip["mask_embeddings"] = kept.read(view_key(row))
        clip["frame_size"] = torch.tensor(frames.shape[1:3])
        return clip

    def _frame_seconds(self, row: Row, waveform: np.ndarray | None) -> list[float] | None:
        if waveform is None:
            sound_seconds = measure_sound_seconds(row)
        else:
            sound_seconds = len(waveform) / self.processor.policy_processor.sampling_rate
        return frame_seconds(row, taken_frames(row, self.processor.num_frames), sound_seconds=sound_seconds)

    def distinct_clips(self, rows: Sequence[Row]) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
        """The clips that rows show, each once and in order of appearance, and the index of each row's clip."""
        order: dict[tuple[Any, ...], int] = {}
        clips: list[dict[str, torch.Tensor]] = []
        for row in rows:
            if view_key(row) not in order:
                order[view_key(row)] = len(clips)
                clips.append(self.clip(row))
        return clips, [order[view_key(row)] for row in rows]

    def masks(self, row: Row) -> torch.Tensor:
        """
        The row's target masks `(T, M, M)` uint8 in the decoder's geometry; all zero for a null row, and all
        `NO_TARGET` in a frame that nobody annotated or that stands past the end of a short clip.
        """
        null = row.get("is_null")
        if not null and not any(row.get("masks") or ()):
            return self._load_unmasked(row)
        return self._masks.get(target_key(row), lambda: self._load_masks(row))

    def _load_unmasked(self, row: Row) -> torch.Tensor:
        """The masks of a row that has none: empty where its object is known not to be in a frame, else unknown."""
        if not self.allow_unmarked and not is_marked(row):
            raise DataError(f"row {row.get('id')!r}: {UNMARKED}")
        size, boxes = self.processor.mask_target_size, self._taken(row, "boxes")
        masks = torch.full((self.processor.num_frames, size, size), NO_TARGET, dtype=torch.uint8)
        for plane, box in zip(masks, boxes, strict=True):
            if box == []:
                plane.zero_()
        return masks

    def hints(self, row: Row) -> dict[str, torch.Tensor]:
        """
        What marks the row's object without drawing it: `box_masks` and `point_masks`, `(T, M, M)` uint8 each, where
        the row has any, see [`~aurora_trl.training.mask_targets.MaskTargets`].
        """
        found: dict[str, torch.Tensor] = {}
        boxes, points = (self._taken(row, name) for name in HINTS)
        if not any(boxes) and not any(points):
            return found
        size = frame_size(row)
        require_inside(row, size)
        if any(boxes):
            found["box_masks"] = self.processor.process_masks(fill_boxes(boxes, size))
            # A box may be smaller than a pixel of the square.
            centres = [[[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]] if box else None for box in boxes]
            found["box_masks"][self.processor.geometry.process_points(centres, size) == 1] = 1
            found["box_masks"][[not box for box in boxes]] = NO_TARGET
        if any(points):
            found["point_masks"] = self.processor.geometry.process_points(points, size)
        return found

    def _taken(self, row: Row, name: str) -> list[Any]:
        """One hint per frame that the model sees; None where there is none."""
        count, values = self.processor.num_frames, row.get(name)
        if not values:
            return [None] * count
        require_mask_count(row, len(values), name)
        taken = [values[i] for i in taken_frames(row, count)]
        return taken + [None] * (count - len(taken))

    def object_masks(self, row: Row) -> torch.Tensor:
        """
        The masks of the row's objects, each apart: `(max_objects, T, M, M)` uint8 as in `masks`. All `NO_TARGET` past
        the last object, and altogether where the row has its objects' masks together.

        Raises:
            `DataError`: where the row is about more objects than an answer may have.
        """
        return self._masks.get(("objects", *target_key(row)), lambda: self._load_object_masks(row))

    def _load_object_masks(self, row: Row) -> torch.Tensor:
        indices = mask_indices(row, self.processor.num_frames)
        require_few_objects([row], self.processor.max_objects)
        planes = load_object_masks(row, indices=indices)
        if planes is not None:
            require_frame_size(row, planes.shape[-2:])
        each = [] if planes is None else [self.processor.process_masks(masks) for masks in planes]
        size = self.processor.mask_target_size
        objects = torch.full((self.processor.max_objects, len(indices), size, size), NO_TARGET, dtype=torch.uint8)
        for own, masks in zip(objects, each, strict=False):
            own.copy_(masks)
        objects[:, torch.tensor(indices) == NO_FRAME] = NO_TARGET
        return objects

    def _load_masks(self, row: Row) -> torch.Tensor:
        indices = mask_indices(row, self.processor.num_frames)
        drawn = load_masks(row, indices=indices)
        require_frame_size(row, drawn.shape[-2:])
        masks = self.processor.process_masks(drawn)
        masks[torch.tensor(indices) == NO_FRAME] = NO_TARGET
        return masks


def target_key(row: Row) -> tuple[Any, ...]:
    """
    What a row's clip and its target depend on. Ids do not tell: two datasets in one may both count from 0. Nor do
    masks: equal polygons are other masks in frames of another size.
    """
    null = row.get("is_null")
    marks = () if null else (row.get("mask_value"), *(row.get("masks") or ()))
    return (null, *view_key(row), *marks, *(repr(row.get(name)) for name in HINTS))


def stack_clips(clips: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    The inputs of C clips, see `stack_media`: the policy's own media inputs and `mask_frames` `(C, T, 3, S, S)`, or
    `mask_embeddings` `(C, T, E, h, w)` where they are kept.
    """
    return stack_media([{name: value for name, value in clip.items() if name != "frame_size"} for clip in clips])


def stack_hints(hints: Sequence[dict[str, torch.Tensor]], masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    The hints of B rows, `(B, T, M, M)` each; a row that lacks one has `NO_TARGET` there.

    Args:
        hints (`list[dict]`): from [`ClipLoader.hints`].
        masks (`torch.Tensor` of shape `(B, T, M, M)`): of the same rows.
    """
    names = dict.fromkeys(name for row in hints for name in row)
    unknown = torch.full_like(masks[0], NO_TARGET)
    return {name: torch.stack([row.get(name, unknown) for row in hints]) for name in names}


def pad_ids(sequences: Sequence[Sequence[int]], value: int, side: str = "right") -> torch.Tensor:
    """Pad lists of ids to `(B, L)`."""
    return pad_sequence(
        [torch.tensor(ids, dtype=torch.long) for ids in sequences],
        batch_first=True,
        padding_value=value,
        padding_side=side,
    )
