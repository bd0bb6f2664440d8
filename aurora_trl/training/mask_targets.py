"""What a batch's masks are compared with: masks, and where there are none, boxes and points."""

from collections.abc import MutableMapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..data.masks import NO_TARGET, has_target


@dataclass(frozen=True)
class MaskTargets:
    """
    Attributes:
        masks (`torch.Tensor` of shape `(B, T, M, M)`): in {0, 1}, or `NO_TARGET`.
        object_masks (`torch.Tensor` of shape `(B, K, T, M, M)`, *optional*): the objects apart, where answers may have
            several.
        box_masks (`torch.Tensor` of shape `(B, T, M, M)`, *optional*): boxes, filled; `NO_TARGET` in all of a frame
            that has none.
        point_masks (`torch.Tensor` of shape `(B, T, M, M)`, *optional*): 1 at a point on the object, 0 at one off it,
            `NO_TARGET` elsewhere.
        relations (`torch.Tensor` of shape `(B, B)`, *optional*): which rows are about the same object, see
            [`~aurora_trl.data.relations.relate_objects`].
    """

    masks: torch.Tensor
    object_masks: torch.Tensor | None = None
    box_masks: torch.Tensor | None = None
    point_masks: torch.Tensor | None = None
    relations: torch.Tensor | None = None

    @classmethod
    def take(cls, inputs: MutableMapping[str, Any]) -> "MaskTargets | None":
        """Take the targets out of a batch; None where it has no masks."""
        taken = {item.name: inputs.pop(item.name, None) for item in fields(cls)}
        return None if taken["masks"] is None else cls(**taken)

    @property
    def annotated(self) -> torch.Tensor:
        """Which frames of which rows are compared with anything `(B, T)`, bool."""
        known = has_target(self.masks)
        for hints in (self.box_masks, self.point_masks):
            if hints is not None:
                known = known | (hints != NO_TARGET).flatten(2).any(dim=2)
        return known

    def find_present(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Which rows' objects are there, in any frame.

        Returns:
            `tuple`: whether the object is there `(B,)`, and whether that is known `(B,)`: some frame is annotated.
        """
        present = torch.zeros(len(self.masks), dtype=torch.bool, device=self.masks.device)
        for planes in (self.masks, self.box_masks, self.point_masks):
            if planes is not None:
                present = present | (planes == 1).flatten(1).any(dim=1)
        return present, self.annotated.any(dim=1)

    def of_frames(self, frames: torch.Tensor | None) -> "MaskTargets":
        """The targets of some frames; of all where None."""
        if frames is None:
            return self
        frames = frames.to(self.masks.device)
        return replace(
            self,
            masks=self.masks[:, frames],
            object_masks=None if self.object_masks is None else self.object_masks[:, :, frames],
            box_masks=None if self.box_masks is None else self.box_masks[:, frames],
            point_masks=None if self.point_masks is None else self.point_masks[:, frames],
        )
