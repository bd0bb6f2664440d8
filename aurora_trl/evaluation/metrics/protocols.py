"""The rules by which published numbers were made. Scores of two protocols can not be compared."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...data.formats.mevis import REVOS_KINDS
from ...data.formats.omniavs import EXPRESSION_TYPES
from ...data.masks import resize_masks_official


@dataclass(frozen=True)
class Protocol:
    """
    How predictions become a score.

    Attributes:
        name (`str`): as `--protocol` takes it, and as every report prints it.
        description (`str`): one line for the report.
        j_threshold (`float` or `None`): a pixel is drawn where `sigmoid(logit)` is above it; `None`: where the logit
            is above 0.
        f_measure (`str`): `"probabilities"` or `"logits"`, what is compared with 255 thresholds in [0, 1); or
            `"boundary"`, the F of the two outlines.
        unit (`str`): what is scored at once, and then averaged: a `"batch"` of videos, a `"video"`, or a `"frame"`.
        videos_per_batch (`int`): size of a batch.
        weight_by_frames (`bool`): average over frames instead of over units.
        credits_background (`bool`): J of a frame with an empty target is the share of its pixels that were left empty;
            otherwise such a frame is right (J = F = 1) where nothing was drawn, and else wrong (0).
        size (`int` or `None`): side of the square in which masks are compared, in pixels; `None`: the frame's size.
        whole_clip (`bool`): a clip whose target is empty in every frame is right (J = F = 1) where nothing was drawn
            in any, and else wrong in all of them.
        kinds (`tuple[str, ...]`): the scores are means over the scores of these kinds of references, as rows name them
            in `reference_kind`; others have scores of their own alone. Without any, all references count alike.
        needs_foreground (`bool`): rows need `foreground_masks`, for R.
        by_class (`bool`): every pixel has a class: [`SemanticMetrics`] in place of [`SegmentationMetrics`].
        scores (`tuple[str, ...]`): what `compute` returns and a report shows, the headline last.
    """

    name: str
    description: str
    j_threshold: float | None
    f_measure: str = "probabilities"
    unit: str = "batch"
    videos_per_batch: int = 1
    weight_by_frames: bool = False
    credits_background: bool = True
    size: int | None = None
    whole_clip: bool = False
    kinds: tuple[str, ...] = ()
    needs_foreground: bool = False
    by_class: bool = False
    scores: tuple[str, ...] = ("J", "F", "J&F")

    @property
    def headline(self) -> str:
        """The one score to compare checkpoints by."""
        return self.scores[-1]

    def prepare_masks(self, masks: np.ndarray) -> torch.Tensor:
        """
        Target masks in the size of the score.

        Args:
            masks (`np.ndarray` of shape `(T, H, W)`): in {0, 1}, as they are on disk.

        Returns:
            `torch.Tensor` of shape `(T, h, w)`, uint8, 0 or 1.
        """
        if self.size is None or masks.shape[1:] == (self.size, self.size):
            return torch.from_numpy(np.ascontiguousarray(masks)).to(torch.uint8)
        if self.name == "refavs":
            return resize_masks_official(masks, self.size)
        planes = torch.from_numpy(np.ascontiguousarray(masks))[:, None].to(torch.uint8)
        return F.interpolate(planes, (self.size, self.size), mode="nearest")[:, 0]

    def prepare_logits(self, mask_logits: torch.Tensor, frame_size: tuple[int, int]) -> torch.Tensor:
        """
        Predictions in the size of the score.

        Args:
            mask_logits (`torch.Tensor` of shape `(T, H', W')`): with the frame's aspect ratio, of any size.
            frame_size (`tuple[int, int]`): height and width of the frames, in pixels.

        Returns:
            `torch.Tensor` of shape `(T, h, w)`, float32.
        """
        size = frame_size if self.size is None else (self.size, self.size)
        return F.interpolate(mask_logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "refavs",
            "the official Ref-AVS score: 256x256, J at 0.4, the highest F of 4 videos at a time, mean over batches",
            j_threshold=0.4,
            videos_per_batch=4,
            size=256,
        ),
        Protocol(
            "aurora",
            "the AURORA authors' script: frame size, J at 0.5, F on raw logits, mean over videos",
            j_threshold=0.5,
            f_measure="logits",
            unit="video",
        ),
        # The official test scripts of S4 and MS3 take one clip at a time.
        Protocol(
            "avsbench",
            "the official AVSBench score: 224x224, J at 0.5, the highest F of each clip, mean over clips",
            j_threshold=0.5,
            size=224,
        ),
        Protocol(
            "simtoken",
            "SimToken's script: frame size, J at 0.4, the highest F of each video, mean weighted by frames",
            j_threshold=0.4,
            unit="video",
            weight_by_frames=True,
        ),
        Protocol(
            "per_frame",
            "every frame by itself: 224x224, J at 0.5, the highest F of each frame, 0 where its target is empty",
            j_threshold=0.5,
            unit="frame",
            size=224,
        ),
        Protocol(
            "davis",
            "video object segmentation: frame size, binary masks, boundary F, mean over the frames of all videos",
            j_threshold=None,
            f_measure="boundary",
            unit="frame",
            credits_background=False,
        ),
        # Each reference by itself: MeViS's script, and what VISA and those after it do for Ref-DAVIS17.
        Protocol(
            "rvos",
            "objects in videos (Ref-YouTube-VOS, Ref-DAVIS17, MeViS): frame size, binary masks, boundary F, mean over "
            "the frames of a reference, then over references",
            j_threshold=None,
            f_measure="boundary",
            unit="video",
            credits_background=False,
        ),
        Protocol(
            "revos",
            "the official ReVOS score: as `rvos`, A, the share of right pixels, and R, 1 less what is drawn beside "
            "the target over all that is foreground; mean over referring and reasoning",
            j_threshold=None,
            f_measure="boundary",
            unit="video",
            credits_background=False,
            kinds=REVOS_KINDS[:2],
            needs_foreground=True,
            scores=("A", "R", "J", "F", "J&F"),
        ),
        Protocol(
            "omniavs",
            "the official OmniAVS score: as `rvos`, a reference to nothing is right where nothing is drawn in the "
            "whole clip; mean over the kinds of references that there are",
            j_threshold=None,
            f_measure="boundary",
            unit="video",
            credits_background=False,
            whole_clip=True,
            kinds=EXPRESSION_TYPES,
        ),
        Protocol(
            "refcoco",
            "references to objects in images (RefCOCO, RefCOCO+, RefCOCOg): gIoU, the mean IoU, and cIoU, all "
            "intersections over all unions",
            j_threshold=None,
            f_measure="none",
            unit="frame",
            credits_background=False,
            scores=("gIoU", "cIoU"),
        ),
        Protocol(
            "reasonseg",
            "reasoning segmentation of images: gIoU, the mean IoU, and cIoU, all intersections over all unions",
            j_threshold=None,
            f_measure="none",
            unit="frame",
            credits_background=False,
            scores=("cIoU", "gIoU"),
        ),
        Protocol(
            "avss",
            "the official AVSBench-semantic score: 224x224, IoU and F of each class over its frames, mean over all "
            "classes; only annotated frames count",
            j_threshold=None,
            size=224,
            by_class=True,
            scores=("F", "mIoU"),
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """
    A protocol by its name.

    Raises:
        `ValueError`: for an unknown one.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
