"""J, F and S of videos by a benchmark's own rules, over any number of processes."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .distributed import gather_shares
from .errors import standard_error
from .frames import boundary_f, draw, f_curves, frame_jaccard, highest_f, require_comparable
from .protocols import Protocol, get_protocol

_S_THRESHOLD = 0.5


@dataclass
class VideoScores:
    """
    All that is kept of a video, about 1 kB for each of its T frames.

    Attributes:
        intersection, union, target_pixels (`torch.Tensor` of shape `(T,)`): pixels at the protocol's J threshold.
        null_pixels (`torch.Tensor` of shape `(T,)`): pixels that S counts.
        num_pixels (`int`): of one frame.
        f (`torch.Tensor`): `(T, 255)` curves, or `(T,)` F of the outlines.
        foreground_pixels (`torch.Tensor` of shape `(T,)`, *optional*): of all objects, for R.
        kind (`str`, *optional*): of the reference.
    """

    intersection: torch.Tensor
    union: torch.Tensor
    target_pixels: torch.Tensor
    null_pixels: torch.Tensor
    num_pixels: int
    f: torch.Tensor
    foreground_pixels: torch.Tensor | None = None
    kind: str | None = None

    def frame_j(self, protocol: Protocol) -> torch.Tensor:
        """J of each frame, `(T,)`."""
        if protocol.credits_background:
            return frame_jaccard(self.intersection, self.union, self.target_pixels, self.num_pixels)
        if self._is_wrong_throughout(protocol):
            return torch.zeros(len(self.union))
        return torch.where(self.union == 0, 1.0, self.intersection / self.union.clamp(min=1))

    def frame_f(self, protocol: Protocol) -> torch.Tensor:
        """F of each frame's outlines, `(T,)`, or its curve `(T, 255)`."""
        return torch.zeros_like(self.f) if self._is_wrong_throughout(protocol) else self.f

    def _is_wrong_throughout(self, protocol: Protocol) -> bool:
        return protocol.whole_clip and not self.target_pixels.any() and bool(self.union.any())

    def frame_accuracy(self) -> torch.Tensor:
        """The share of right pixels of each frame, `(T,)`."""
        return 1 - (self.union - self.intersection) / self.num_pixels

    def frame_robustness(self) -> torch.Tensor:
        """1 less what is drawn beside the target over all that is foreground, and at least 0, of each frame `(T,)`."""
        assert self.foreground_pixels is not None
        return (1 - (self.union - self.target_pixels) / (self.foreground_pixels + 1e-6)).clamp(min=0)

    def frames(self) -> Iterator["VideoScores"]:
        """Each frame as a video of its own."""
        for i in range(len(self.union)):
            one = slice(i, i + 1)
            yield VideoScores(
                self.intersection[one],
                self.union[one],
                self.target_pixels[one],
                self.null_pixels[one],
                self.num_pixels,
                self.f[one],
                None if self.foreground_pixels is None else self.foreground_pixels[one],
                self.kind,
            )


def score_video(
    mask_logits: torch.Tensor,
    masks: torch.Tensor,
    protocol: Protocol,
    foreground: torch.Tensor | None = None,
    kind: str | None = None,
) -> VideoScores:
    """
    Reduce a video to what its score needs.

    Args:
        mask_logits, masks (`torch.Tensor` of shape `(T, H, W)`): logits, and targets in {0, 1}.
        protocol (`Protocol`): the rules.
        foreground (`torch.Tensor` of shape `(T, H, W)`, *optional*): all that is an object, in {0, 1}.
        kind (`str`, *optional*): of the reference.

    Returns:
        `VideoScores`: on the CPU.
    """
    logits, target = mask_logits.detach().float(), masks.bool()
    drawn = draw(logits, protocol.j_threshold)
    target_pixels = target.sum((1, 2))
    if protocol.f_measure == "boundary":
        pairs = zip(drawn.cpu().numpy(), target.cpu().numpy(), strict=True)
        # Without a target the frame is right or wrong, whatever the outline of what was drawn.
        f = torch.tensor(
            [boundary_f(ours, theirs) if theirs.any() else float(not ours.any()) for ours, theirs in pairs]
        )
    elif protocol.f_measure == "none":
        f = torch.zeros(len(logits))
    else:
        f = f_curves(torch.sigmoid(logits) if protocol.f_measure == "probabilities" else logits, target)
    return VideoScores(
        intersection=(drawn & target).sum((1, 2)).cpu(),
        union=(drawn | target).sum((1, 2)).cpu(),
        target_pixels=target_pixels.cpu(),
        null_pixels=draw(logits, _S_THRESHOLD).sum((1, 2)).cpu(),
        num_pixels=target[0].numel(),
        f=f.cpu(),
        foreground_pixels=None if foreground is None else foreground.bool().sum((1, 2)).cpu(),
        kind=kind,
    )


class SegmentationMetrics:
    """
    J, F, J&F and S by the rules of a benchmark, or gIoU and cIoU of images.

    F and S may depend on how videos are batched; the batch then belongs to the protocol. Videos are grouped in the
    order of the dataset where `update` is told their `index`, and else in order of arrival, however many come at a
    time.

    Over several processes, each one scores its share with `index`, and `gather` brings the shares together:

    ```python
    metrics = SegmentationMetrics("refavs")
    for indices, mask_logits, masks in my_share:
        metrics.update(mask_logits, masks, index=indices)
    scores = metrics.gather().compute()  # the same on every process, and the same as on one
    ```

    Args:
        protocol (`str`, *optional*, defaults to `"refavs"`): one of `PROTOCOLS`.

    Raises:
        `ValueError`: for an unknown protocol, or for one that scores classes.
    """

    def __init__(self, protocol: str = "refavs"):
        self.rules = get_protocol(protocol)
        if self.rules.by_class:
            raise ValueError(f"the protocol `{protocol}` scores classes: use SemanticMetrics")
        self.protocol = protocol
        self._videos: dict[int, VideoScores] = {}
        self._indexed: bool | None = None

    def __len__(self) -> int:
        return len(self._videos)

    def update(
        self,
        mask_logits: torch.Tensor,
        masks: torch.Tensor,
        index: Sequence[int] | None = None,
        *,
        foreground: torch.Tensor | None = None,
        kinds: Sequence[str | None] | None = None,
    ) -> torch.Tensor:
        """
        Add videos.

        Args:
            mask_logits (`torch.Tensor` of shape `(videos, frames, H, W)`): logits, in the protocol's size for official
                numbers: see [`Protocol.prepare_logits`] and [`Protocol.prepare_masks`].
            masks (`torch.Tensor` of shape `(videos, frames, H, W)`): targets in {0, 1}.
            index (`Sequence[int]`, *optional*): number of each video in the dataset.
            foreground (`torch.Tensor` of shape `(videos, frames, H, W)`, *optional*): all that is an object, in
                {0, 1}; `revos` needs it.
            kinds (`Sequence[str]`, *optional*): of the references, where a protocol averages over these.

        Returns:
            `torch.Tensor` of shape `(videos,)`: J of each video by itself.

        Raises:
            `ValueError`: where shapes differ, predictions are no logits or not a number, targets have more than one
                value beside 0, a video comes twice, only some of the videos come with their index, or the protocol
                needs what is not there.
        """
        require_comparable(mask_logits, masks)
        if self.rules.needs_foreground and foreground is None:
            raise ValueError(f"the protocol `{self.protocol}` needs the foreground of each video: give `foreground`")
        numbers = self._numbers(len(mask_logits), index)
        masks = masks.to(mask_logits.device)
        each = zip(
            mask_logits,
            masks,
            [None] * len(masks) if foreground is None else foreground,
            [None] * len(masks) if kinds is None else kinds,
            strict=True,
        )
        scores = [score_video(x, target, self.rules, objects, kind) for x, target, objects, kind in each]
        self._videos.update(zip(numbers, scores, strict=True))
        return torch.stack([video.frame_j(self.rules).mean() for video in scores]) if scores else torch.zeros(0)

    def _numbers(self, count: int, index: Sequence[int] | None) -> list[int]:
        if self._indexed not in (None, index is not None):
            raise ValueError("some videos came with an index and some without: give it for all, or for none")
        numbers = list(range(len(self), len(self) + count)) if index is None else [int(number) for number in index]
        if len(numbers) != count:
            raise ValueError(f"index holds {len(numbers)} numbers for {count} videos")
        twice = [number for i, number in enumerate(numbers) if number in self._videos or number in numbers[:i]]
        if twice:
            raise ValueError(f"video {twice[0]} came twice")
        self._indexed = index is not None
        return numbers

    def kept(self, number: int) -> dict[str, torch.Tensor]:
        """What is kept of a video that came with this index; `restore` takes it."""
        video = self._videos[number]
        tensors = {name: value for name, value in vars(video).items() if isinstance(value, torch.Tensor)}
        return {**tensors, "num_pixels": torch.tensor(video.num_pixels)}

    def of_video(self, number: int) -> dict[str, float]:
        """What a video that came with this index scores by itself: as `compute`, were it the only one."""
        alone = SegmentationMetrics(self.protocol)
        alone.rules = replace(self.rules, kinds=())
        alone._videos = {number: self._videos[number]}
        return alone.compute()

    def restore(self, number: int, kept: dict[str, torch.Tensor], kind: str | None = None) -> None:
        """Add a video by what another object `kept` of it, and the kind of its reference."""
        self._numbers(1, [number])
        values: dict[str, Any] = {**kept, "num_pixels": int(kept["num_pixels"]), "kind": kind}
        self._videos[number] = VideoScores(**values)

    def merge(self, other: "SegmentationMetrics") -> "SegmentationMetrics":
        """
        Add the videos that another object has scored, on another process perhaps.

        Args:
            other (`SegmentationMetrics`): of the same protocol. A video that both hold counts once: samplers pad.
                Where videos came without an index, the other's follow.

        Returns:
            `SegmentationMetrics`: itself.

        Raises:
            `ValueError`: for another protocol, or where only one of them knows its videos' numbers.
        """
        if other.protocol != self.protocol:
            raise ValueError(f"scores of `{other.protocol}` can not be merged into those of `{self.protocol}`")
        if not len(other):
            return self
        if self._indexed not in (None, other._indexed):
            raise ValueError("only one of the two knows its videos' numbers: give `update` an index in both")
        offset = 0 if other._indexed else len(self)
        for number, video in other._videos.items():
            self._videos.setdefault(number + offset, video)
        self._indexed = other._indexed
        return self

    def gather(self) -> "SegmentationMetrics":
        """
        The videos of all processes, on each of them; itself where there is one process.

        Returns:
            `SegmentationMetrics`: a new object; this one is left as it is.

        Raises:
            `ValueError`: where several processes have videos without an index: their order is not known.
        """
        shares = gather_shares(self)
        if len(shares) == 1:
            return self
        if sum(share._indexed is False for share in shares) > 1:
            raise ValueError("videos of several processes need their number in the dataset: give `update` an index")
        merged = SegmentationMetrics(self.protocol)
        for share in shares:
            merged.merge(share)
        return merged

    def compute(self) -> dict[str, float]:
        """
        The scores of all videos so far; a last batch may hold fewer videos.

        Returns:
            `dict`: `J`, `F`, `J&F` (their mean) and `S`, the official score of references that match nothing; of the
            protocols `reasonseg` and `refcoco` `gIoU` and `cIoU`; of `revos` also `A` and `R`. A protocol that
            averages over kinds has each of these for each kind, too, as in `J&F/reasoning`.

        Raises:
            `ValueError`: where there were no videos, or none of the kinds that a protocol averages over.
        """
        if not self._videos:
            raise ValueError("no videos: call `update` first")
        videos = [video for _, video in sorted(self._videos.items())]
        if not self.rules.kinds:
            return self._score(videos)
        by_kind: dict[str, list[VideoScores]] = {}
        for video in videos:
            by_kind.setdefault(str(video.kind), []).append(video)
        scores = {kind: self._score(by_kind[kind]) for kind in sorted(by_kind)}
        counted = [scores[kind] for kind in self.rules.kinds if kind in scores]
        if not counted:
            raise ValueError(
                f"the protocol `{self.protocol}` averages over {', '.join(self.rules.kinds)}, and there are "
                f"{', '.join(scores)} alone"
            )
        means = {name: sum(score[name] for score in counted) / len(counted) for name in counted[0]}
        return means | {f"{name}/{kind}": value for kind, score in scores.items() for name, value in score.items()}

    def _score(self, videos: list[VideoScores]) -> dict[str, float]:
        if self.rules.f_measure == "none":
            return self._image_scores(videos)
        scores, weights = self._weighted_units(videos)
        means = [
            sum(weight * score[i] for weight, score in zip(weights, scores, strict=True)) / sum(weights)
            for i in range(3)
        ]
        found = {"J": means[0], "F": means[1], "J&F": (means[0] + means[1]) / 2, "S": means[2]}
        if self.rules.needs_foreground:
            for name, shares in (("A", VideoScores.frame_accuracy), ("R", VideoScores.frame_robustness)):
                found[name] = sum(float(shares(video).mean()) for video in videos) / len(videos)
        return found

    def standard_errors(self, clips: Mapping[int, Hashable]) -> dict[str, float]:
        """
        How far the scores would move with other clips, see `standard_error`.

        Args:
            clips (`Mapping[int, Hashable]`): the clip of each video by its index. What is scored at once counts with
                the clip of its first video.

        Returns:
            `dict`: by the score's name; empty where there are fewer than two clips, and without `cIoU`, which is no
            mean.
        """
        numbers = sorted(self._videos)
        videos = [self._videos[number] for number in numbers]
        if self.rules.f_measure == "none":
            columns = {"gIoU": [float(video.frame_j(self.rules).mean()) for video in videos]}
            owners, weights = [clips[number] for number in numbers], [float(len(video.union)) for video in videos]
        else:
            scores, weights = self._weighted_units(videos)
            j, f, s = (list(column) for column in zip(*scores, strict=True))
            columns = {"J": j, "F": f, "J&F": [(a + b) / 2 for a, b in zip(j, f, strict=True)], "S": s}
            if self.rules.needs_foreground:
                columns |= {"A": [float(video.frame_accuracy().mean()) for video in videos]}
                columns |= {"R": [float(video.frame_robustness().mean()) for video in videos]}
            if self.rules.unit == "frame":
                owners = [clips[n] for n in numbers for _ in self._videos[n].union]
            else:
                owners = [clips[number] for number in numbers[:: self.rules.videos_per_batch]]
        kinds = [video.kind for video in videos] if self.rules.kinds else None
        if kinds is not None:  # which all count alike, whatever the number of their references
            counts = Counter(kinds)
            counted = [place for place, kind in enumerate(kinds) if kind in self.rules.kinds]
            columns = {name: [values[place] for place in counted] for name, values in columns.items()}
            owners, kinds = [owners[place] for place in counted], [kinds[place] for place in counted]
            weights = [1 / counts[kind] for kind in kinds]
        errors = {name: standard_error(values, owners, weights, kinds) for name, values in columns.items()}
        return {name: error for name, error in errors.items() if error is not None}

    def _weighted_units(self, videos: list[VideoScores]) -> tuple[list[tuple[float, float, float]], list[float]]:
        """J, F and S of what is scored at once, and how much each of them counts."""
        units = list(self._units(videos))
        frames = [float(sum(len(video.union) for video in unit)) for unit in units]
        return [self._score_unit(unit) for unit in units], frames if self.rules.weight_by_frames else [1.0] * len(
            units
        )

    def _units(self, videos: list[VideoScores]) -> Iterator[list[VideoScores]]:
        """What is scored at once."""
        if self.rules.unit == "frame":
            yield from ([frame] for video in videos for frame in video.frames())
            return
        size = self.rules.videos_per_batch
        yield from (videos[start : start + size] for start in range(0, len(videos), size))

    def _score_unit(self, videos: list[VideoScores]) -> tuple[float, float, float]:
        """J, F and S."""
        j = torch.cat([video.frame_j(self.rules) for video in videos])
        f = torch.cat([video.frame_f(self.rules) for video in videos])
        if self.rules.f_measure == "boundary":
            highest = float(f.mean())
        else:
            highest = highest_f(f, torch.cat([video.target_pixels for video in videos]) > 0)
        drawn = torch.stack([video.null_pixels.sum() for video in videos]).sum()
        pixels = sum(video.num_pixels * len(video.union) for video in videos)
        return float(j.sum() / len(j)), highest, float(torch.sqrt(drawn / pixels))

    def _image_scores(self, videos: list[VideoScores]) -> dict[str, float]:
        iou = torch.cat([video.frame_j(self.rules) for video in videos]).double()
        intersection = sum(int(video.intersection.sum()) for video in videos)
        union = sum(int(video.union.sum()) for video in videos)
        return {"gIoU": float(iou.mean()), "cIoU": intersection / union if union else 1.0}
