"""Copies of a processor that differ in one setting."""

import copy
from typing import Self

from ..prompts import INSTRUCTION, box_instruction
from .processor_settings import check_settings


class ProcessorCopies:
    """The `with_...` methods of [`AuroraProcessor`]: a phase changes a copy, never the processor that it was given."""

    num_frames: int
    policy_frames: int | None
    instruction: str
    max_objects: int
    max_answer_tokens: int | None
    mask_source: str
    seg_source: str
    num_queries: int

    def with_max_objects(self, max_objects: int | None) -> Self:
        """This processor, or a copy that differs in `max_objects`; None leaves it as it is."""
        if max_objects in (None, self.max_objects):
            return self
        changed = copy.copy(self)
        changed.max_objects = max_objects
        check_settings(changed)
        return changed

    def with_num_frames(self, num_frames: int | None, *, for_masks_alone: bool = False) -> Self:
        """
        This processor, or a copy that takes another number of frames of a clip; None leaves it as it is. With
        `for_masks_alone` the policy sees as many as before, and all of them get a mask.
        """
        if num_frames in (None, self.num_frames):
            return self
        changed = copy.copy(self)
        changed.num_frames = num_frames
        if self.instruction == box_instruction(self.num_frames):
            changed.instruction = box_instruction(num_frames)
        if for_masks_alone and changed.policy_frames is None:
            changed.policy_frames = self.num_frames
        if changed.policy_frames is not None:
            changed.policy_frames = min(changed.policy_frames, num_frames)
        return changed

    def with_mask_source(self, mask_source: str) -> Self:
        """
        This processor, or a copy for a model whose masks come from elsewhere, see [`AuroraConfig`]. It asks for what
        that model writes, unless its instruction is one of your own; boxes before a `[SEG]` are learnt, not asked for.
        """
        if mask_source == self.mask_source:
            return self
        changed = copy.copy(self)
        changed.mask_source = mask_source
        if mask_source == "box" and self.instruction == INSTRUCTION:
            changed.instruction = box_instruction(self.num_frames)
        check_settings(changed)
        return changed

    def with_seg_source(self, seg_source: str, num_queries: int) -> Self:
        """
        This processor, or a copy for a model with other states at `[SEG]`, see [`AuroraConfig`]. It asks as before:
        that the model reasons, then segments.
        """
        if seg_source == self.seg_source and num_queries == self.num_queries:
            return self
        changed = copy.copy(self)
        changed.seg_source, changed.num_queries = seg_source, num_queries
        check_settings(changed)
        return changed

    def with_answer_tokens(self, max_answer_tokens: int) -> Self:
        """A copy that differs in `max_answer_tokens`."""
        changed = copy.copy(self)
        changed.max_answer_tokens = max_answer_tokens
        return changed
