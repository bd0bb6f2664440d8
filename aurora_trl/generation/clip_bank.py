"""What the completions of a rollout share, and how they stay together when it is shuffled and split."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..data.masks import has_target
from ..models.box_prompts import FrameView


@dataclass
class ClipBank:
    """
    The media of one rollout, once per distinct clip.

    Attributes:
        policy_inputs (`dict[str, torch.Tensor]`): per clip; encoded where the towers and the connector are frozen.
        mask_inputs (`dict[str, torch.Tensor]`): `mask_embeddings` `(C, T, E, h, w)`, or `mask_frames` where the mask
            encoder trains.
        clip_index (`torch.Tensor` of shape `(B,)`): the clip of each completion.
        prompt_index (`torch.Tensor` of shape `(B,)`): the distinct prompt of each completion.
        prompt_ids (`list[list[int]]`): each completion's prompt as the model sees it.
        masks (`torch.Tensor` of shape `(B, T, M, M)`): the target of each completion.
        object_masks (`torch.Tensor` of shape `(B, K, T, M, M)`, *optional*): its objects apart, where completions may
            have several `[SEG]`.
        relations (`torch.Tensor` of shape `(B, B)`, *optional*): which completions are about the same object, where
            that is learned from.
        hints (`dict[str, torch.Tensor]`): `(B, T, M, M)` each, see [`~aurora_trl.generation.ClipLoader.hints`].
        views (`list[FrameView]`): how the policy speaks of places in each completion's clip.
        frames_taken (`list[int]`): how many frames the model takes of each completion's clip; the others are padding.
        seg_boxes (`torch.Tensor` of shape `(B, T, 6)`, *optional*): where completions that write boxes before their
            `[SEG]` say that their object is, see [`~aurora_trl.models.box_prompts.place_boxes`].
    """

    policy_inputs: dict[str, torch.Tensor]
    mask_inputs: dict[str, torch.Tensor]
    clip_index: torch.Tensor
    prompt_index: torch.Tensor
    prompt_ids: list[list[int]]
    masks: torch.Tensor
    object_masks: torch.Tensor | None
    relations: torch.Tensor | None = None
    hints: dict[str, torch.Tensor] = field(default_factory=dict)
    views: list[FrameView] = field(default_factory=list)
    frames_taken: list[int] = field(default_factory=list)
    seg_boxes: torch.Tensor | None = None

    def of_samples(self, samples: list[int]) -> "ClipBank":
        """The same media, for some of the completions only."""
        object_masks, relations = self.object_masks, self.relations
        return replace(
            self,
            clip_index=self.clip_index[samples],
            prompt_index=self.prompt_index[samples],
            prompt_ids=[self.prompt_ids[i] for i in samples],
            masks=self.masks[samples],
            object_masks=None if object_masks is None else object_masks[samples],
            relations=None if relations is None else relations[samples][:, samples],
            hints={name: value[samples] for name, value in self.hints.items()},
            views=[self.views[i] for i in samples],
            frames_taken=[self.frames_taken[i] for i in samples],
            seg_boxes=None if self.seg_boxes is None else self.seg_boxes[samples],
        )

    @property
    def framed(self) -> torch.Tensor:
        """Targets `(B, T, M, M)` that show how much of the decoder's square a completion's frames take."""
        return framed_targets(self.masks, self.hints)

    def targets(self, samples: torch.Tensor) -> dict[str, Any]:
        """What the masks of completions are compared with, by the names that a supervised batch has for it."""
        object_masks, relations = self.object_masks, self.relations
        return {
            "masks": self.masks[samples],
            "object_masks": None if object_masks is None else object_masks[samples],
            "relations": None if relations is None else relations[samples][:, samples],
            **{name: value[samples] for name, value in self.hints.items()},
        }

    def boxes(self, samples: torch.Tensor, frames: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """What completions say of places beside their `[SEG]`, as an input of a forward that decodes masks."""
        if self.seg_boxes is None:
            return {}
        return {"seg_boxes": self.seg_boxes[samples] if frames is None else self.seg_boxes[samples[:, None], frames]}

    def forward_inputs(
        self, samples: torch.Tensor, with_masks: bool, frames: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        What `AuroraModel.forward` needs of completions' clips, one entry per distinct clip.

        Args:
            samples (`torch.Tensor` of shape `(B,)`): the completions.
            with_masks (`bool`): whether masks are to be decoded.
            frames (`torch.Tensor`, *optional*): in which frames; all by default.
        """
        used, clip_index = self.clip_index[samples].unique(return_inverse=True)
        inputs = {name: value[used] for name, value in self.policy_inputs.items()}
        for name, value in self.mask_inputs.items() if with_masks else ():
            inputs[name] = value[used] if frames is None else value[used[:, None], frames]
        return {"clip_index": clip_index, **inputs}


def regroup(batches: list[dict[str, Any]], prompt_index: torch.Tensor) -> list[dict[str, Any]]:
    """
    Bring the completions of a prompt together, in the order in which the prompts first come.

    Args:
        batches (`list[dict]`): equal parts of a shuffled rollout, each with `sample_index`.
        prompt_index (`torch.Tensor` of shape `(B,)`): the distinct prompt of each sample.

    Returns:
        `list[dict]`: the same completions in parts of the same size.
    """
    prompts = prompt_index[torch.cat([batch["sample_index"] for batch in batches])].tolist()
    turn = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    order = torch.tensor([turn[prompt] for prompt in prompts]).argsort(stable=True)

    def ordered(values: list[Any]) -> list[Any]:
        """One column's parts; a scalar, such as the number of tokens, is the whole rollout's."""
        if not isinstance(values[0], torch.Tensor) or values[0].dim() == 0:
            return values
        column = torch.cat(values)
        return list(column[order.to(column.device)].split(len(values[0])))

    columns = {name: ordered([batch[name] for batch in batches]) for name in batches[0]}
    return [{name: parts[i] for name, parts in columns.items()} for i in range(len(batches))]


def framed_targets(masks: torch.Tensor, hints: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Masks `(B, T, M, M)`, and filled boxes where nobody has drawn any: both end where the frame ends."""
    boxes = hints.get("box_masks")
    if boxes is None:
        return masks
    unknown = ~has_target(masks).any(dim=1)
    return torch.where(unknown[:, None, None, None], boxes, masks)
