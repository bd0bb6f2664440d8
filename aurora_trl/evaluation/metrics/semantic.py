"""Class-wise scores of AVSBench-semantic."""

from collections.abc import Sequence

import torch

from .distributed import gather_shares

NUM_CLASSES = 71
_BETA_SQUARED = 0.3


class SemanticMetrics:
    """
    Mean IoU and F over the classes of AVSBench-semantic, as its official test script has them (Zhou et al., 2023).

    A class's score is its mean over the frames in which it was there or was predicted; the result is the mean over all
    classes, with 0 for one that never was. The sums are taken in the dataset's order, whatever came first.

    Args:
        num_classes (`int`, *optional*, defaults to 71): with the background.
        background (`int`, *optional*, defaults to 0): its index, left out of the scores `…_no_background`.
    """

    def __init__(self, num_classes: int = NUM_CLASSES, background: int = 0):
        self.num_classes = num_classes
        self.background = background
        # By number in the dataset: sums over frames of IoU, of F, and the number of frames, (3, classes).
        self._videos: dict[int, torch.Tensor] = {}

    def update(self, predicted: torch.Tensor, target: torch.Tensor, index: int | None = None) -> None:
        """
        Add a video.

        Args:
            predicted, target (`torch.Tensor` of shape `(T, H, W)`, integer): class of each pixel. Give all frames that
                the official script scores: it fills clips of 5 seconds up to 10 with frames of background.
            index (`int`, *optional*): the video's number in the dataset; the next one by default.

        Raises:
            `ValueError`: where shapes differ, a class is out of range, or a video comes twice.
        """
        if predicted.dim() != 3 or predicted.shape != target.shape:
            raise ValueError(
                f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} must both be (frames, H, W)"
            )
        for name, classes in (("predicted", predicted), ("target", target)):
            if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
                raise ValueError(f"{name} holds a class outside of 0..{self.num_classes - 1}")
        number = len(self._videos) if index is None else index
        if number in self._videos:
            raise ValueError(f"video {number} came twice")
        self._videos[number] = self._score(predicted.long().cpu(), target.long().cpu())

    def _score(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        drawn, truth, both = (
            torch.stack([torch.bincount(plane, minlength=self.num_classes + 1) for plane in planes.flatten(1)]).float()
            # A pixel that is not of the same class in both falls into a bin of its own.
            for planes in (predicted, target, torch.where(predicted == target, target, self.num_classes))
        )
        drawn, truth, both = drawn[:, :-1], truth[:, :-1], both[:, :-1]  # (T, classes)
        union = drawn + truth - both
        precision, recall = both / drawn, both / truth
        f = (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)
        iou = torch.where(union > 0, both / union.clamp(min=1), 0.0)
        return torch.stack([iou.sum(0), torch.nan_to_num(f, nan=0.0).sum(0), (union > 0).float().sum(0)]).double()

    def kept(self, number: int) -> dict[str, torch.Tensor]:
        """What is kept of a video that came with this index; `restore` takes it."""
        return {"sums": self._videos[number]}

    def restore(self, number: int, kept: dict[str, torch.Tensor]) -> None:
        """Add a video by what another object `kept` of it."""
        self._videos[number] = kept["sums"]

    def merge(self, other: "SemanticMetrics") -> "SemanticMetrics":
        """
        Add another process's videos, which were given their `index`; one that both hold counts once.

        Raises:
            `ValueError`: for another number of classes.
        """
        if (other.num_classes, other.background) != (self.num_classes, self.background):
            raise ValueError(f"{other.num_classes} classes can not be merged into {self.num_classes}")
        for number, scores in other._videos.items():
            self._videos.setdefault(number, scores)
        return self

    def gather(self) -> "SemanticMetrics":
        """The videos of all processes, on each of them; itself where there is one process."""
        shares = gather_shares(self)
        if len(shares) == 1:
            return self
        merged = SemanticMetrics(self.num_classes, self.background)
        for share in shares:
            merged.merge(share)
        return merged

    def compute(self, class_names: Sequence[str] | None = None) -> dict[str, float | dict[str, float]]:
        """
        The scores of all videos so far.

        Args:
            class_names (`Sequence[str]`, *optional*): for the scores by class; their numbers by default.

        Returns:
            `dict`: `mIoU`, `F`, `mIoU_no_background`, `F_no_background`, and `by_class` with the IoU of each class
            that was there or was predicted.

        Raises:
            `ValueError`: where there were no videos.
        """
        if not self._videos:
            raise ValueError("no videos: call `update` first")
        sums = torch.stack([scores for _, scores in sorted(self._videos.items())]).sum(0)
        seen = sums[2] > 0
        iou, f = (torch.where(seen, part / sums[2].clamp(min=1), 0.0) for part in sums[:2])
        kept = torch.arange(self.num_classes) != self.background
        names = class_names or [str(number) for number in range(self.num_classes)]
        return {
            "mIoU": float(iou.mean()),
            "F": float(f.mean()),
            "mIoU_no_background": float(iou[kept].mean()),
            "F_no_background": float(f[kept].mean()),
            "by_class": {name: float(iou[i]) for i, name in enumerate(names) if seen[i]},
        }
