"""From an answer to what it scores by a protocol."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..data.formats.avsbench import load_class_maps, load_class_names
from ..data.masks import encode_rle, frame_size, load_masks, mask_indices, require_annotated
from ..data.media.loading import NO_FRAME, taken_frames
from ..data.schema import Row, clip_key, require_references
from ..errors import DataError
from ..generation.answer import Answer
from ..prompts import (
    ends_with_answer,
    extract_class,
    is_null_answer,
    is_reflective,
    normalize_class,
    says_nothing_fits,
)
from .metrics import Protocol, SegmentationMetrics, SemanticMetrics, get_protocol
from .metrics.distributed import gather_shares

# What stands for the mask of an answer without `[SEG]`: nothing, with certainty.
_NO_MASK_LOGIT = -50.0


def describe_answer(
    answer: Answer, num_frames: int, max_objects: int = 1, mask_source: str = "seg", seg_source: str = "token"
) -> dict[str, Any]:
    """
    What there is to say about an answer whatever the protocol.

    Args:
        answer (`Answer`): with its row.
        num_frames (`int`): frames that the model takes of a clip.
        max_objects (`int`, *optional*, defaults to 1): how many `[SEG]` an answer may have.
        mask_source (`str`, *optional*, defaults to `"seg"`): what an answer asks for a mask with; with `"box"` it is
            well formed where its boxes could be read.
        seg_source (`str`, *optional*, defaults to `"token"`): with `"queries"` it asks for nothing, and is well formed
            where it came to its end.

    Returns:
        `dict`: the beginning of a line of `answers.jsonl`, with the drawn masks in the frame's size, one for each of
            the clip's frames that the model took.
    """
    row, size = answer.row, frame_size(answer.row)
    count = len(taken_frames(row, num_frames))
    drawn = torch.zeros((count, *size), dtype=torch.uint8)
    if answer.mask_logits is not None:
        planes = F.interpolate(answer.mask_logits[:count, None], size, mode="bilinear", align_corners=False)
        drawn = (planes[:, 0] > 0).to(torch.uint8)
    if mask_source == "box":
        well_formed = answer.prompts is not None
    else:
        well_formed = not answer.cut if seg_source == "queries" else ends_with_answer(answer.completion, max_objects)
    class_name = row.get("class_name")
    said = extract_class(answer.completion, class_name)
    says_nothing = says_nothing_fits(answer.completion)
    right_class = says_nothing if row.get("is_null") else said == normalize_class(class_name or "")
    chosen: dict[str, Any] = {}
    if answer.cost is not None:
        chosen = {"choice_score": answer.score, "num_answers": answer.cost.answers}
        chosen |= {"written_tokens": answer.cost.tokens, "num_checks": answer.cost.checks}
    return {
        "id": row["id"],
        "reference": row["reference"],
        "class_name": class_name,
        "completion": answer.completion,
        "num_tokens": answer.num_tokens,
        "cut": answer.cut,
        # None where the dataset names no class.
        "class_correct": None if class_name is None else right_class,
        "format_correct": well_formed or is_null_answer(answer.completion),
        # Of a null row, whether the answer says that nothing fits; of any other, whether it does not.
        "null_correct": says_nothing == bool(row.get("is_null")),
        "has_seg": answer.mask_logits is not None,
        "reflective": is_reflective(answer.completion),
        **chosen,
        "masks": [encode_rle(mask) for mask in drawn.numpy()],
    }


def name_clips(splits: Mapping[str, Sequence[Row]]) -> dict[tuple[Any, ...], str]:
    """
    A name for each clip: `SPLIT/NUMBER` of the first row that shows it, the same wherever the dataset lies.

    Args:
        splits (`Mapping[str, Sequence[dict]]`): rows, by the split's name.

    Returns:
        `dict`: by `clip_key`. Rows of a clip are no independent samples: their scores stand and fall together.
    """
    names: dict[tuple[Any, ...], str] = {}
    for split, rows in splits.items():
        for number, row in enumerate(rows):
            names.setdefault(clip_key(row), f"{split}/{number}")
    return names


class Scorers:
    """
    Scores the same answers by several protocols.

    Args:
        protocols (`Sequence[str]`): their names.
    """

    def __init__(self, protocols: Sequence[str]):
        rules = [get_protocol(name) for name in protocols]
        self._scorers = {rule.name: ClassScorer(rule) if rule.by_class else MaskScorer(rule) for rule in rules}

    def add(self, answer: Answer, number: int, num_frames: int) -> dict[str, dict[str, float]]:
        """
        Add an answer.

        Args:
            answer (`Answer`): with its row.
            number (`int`): the row's number in the dataset.
            num_frames (`int`): frames that the model takes of a clip.

        Returns:
            `dict`: by protocol, what the answer scores by itself.
        """
        return {name: scorer.add(answer, number, num_frames) for name, scorer in self._scorers.items()}

    def kept(self, number: int) -> dict[str, torch.Tensor]:
        """What the metrics keep of an answer, so that it need not be scored again."""
        return {
            f"{name}.{key}": value
            for name, scorer in self._scorers.items()
            for key, value in scorer.metrics.kept(number).items()
        }

    def restore(self, row: Row, number: int, kept: dict[str, torch.Tensor]) -> None:
        """Add an answer of an earlier run by what was `kept` of it."""
        for name, scorer in self._scorers.items():
            own = {key.removeprefix(f"{name}."): value for key, value in kept.items() if key.startswith(f"{name}.")}
            scorer.restore(row, number, own)

    def compute(self, clips: Mapping[int, Hashable] | None = None) -> dict[str, dict[str, Any]]:
        """By protocol, the scores over all processes, and in `errors` their standard errors.

        Args:
            clips (`Mapping[int, Hashable]`): the clip of each row.
        """
        return {name: scorer.compute(clips) for name, scorer in self._scorers.items()}


class MaskScorer:
    """
    Scores the masks of answers.

    Args:
        rules (`Protocol`): how.
    """

    def __init__(self, rules: Protocol):
        self.rules = rules
        self.metrics = SegmentationMetrics(rules.name)

    def add(self, answer: Answer, number: int, num_frames: int) -> dict[str, float]:
        """As [`Scorers.add`]: `J` of the answer, and `F` and `S` where the protocol has them."""
        shown, indices = scored_frames(answer.row, num_frames)
        target = self.rules.prepare_masks(load_masks(answer.row, indices=indices))  # (T, h, w)
        logits = _prepare_logits(answer, shown, self.rules)
        foreground = self._read_foreground(answer.row, indices) if self.rules.needs_foreground else None
        kinds = [answer.row.get("reference_kind")]
        update = self.metrics.update(logits[None], target[None], index=[number], foreground=foreground, kinds=kinds)
        alone = self.metrics.of_video(number)
        return {"J": float(update), **{name: alone[name] for name in ("F", "S") if name in alone}}

    def _read_foreground(self, row: Row, indices: list[int]) -> torch.Tensor:
        """All that is an object in these frames, `(1, T, h, w)`."""
        planes = load_masks({**row, "masks": row["foreground_masks"], "is_null": False}, indices=indices)
        return self.rules.prepare_masks(planes)[None]

    def restore(self, row: Row, number: int, kept: dict[str, torch.Tensor]) -> None:
        """Add an answer of an earlier run by what its `metrics` kept of it."""
        self.metrics.restore(number, kept, row.get("reference_kind"))

    def compute(self, clips: Mapping[int, Hashable] | None = None) -> dict[str, Any]:
        """The scores over all processes, with their standard `errors` where `clips` names the clip of each row."""
        metrics = self.metrics.gather()
        return {**metrics.compute(), "errors": metrics.standard_errors(clips) if clips else {}}


def require_scorable(rows: Iterable[Row], rules: Protocol) -> None:
    """
    Raise `DataError` where a protocol can not score rows, before anything is answered.

    Args:
        rows (`Iterable[dict]`): of a split.
        rules (`Protocol`): the protocol.
    """
    require_annotated(rows, "a score compares")
    require_references(rows)
    if rules.by_class:
        for each in rows:
            _require_class_maps(each, rules)
    if rules.needs_foreground:
        row = next((row for row in rows if not row.get("foreground_masks")), None)
        if row is not None:
            raise DataError(
                f"row {row['id']!r}: it has no `foreground_masks`, which the protocol `{rules.name}` needs; they come "
                "with ReVOS, in mask_dict_foreground.json, and the protocol `rvos` does without"
            )
    kinds = {row.get("reference_kind") for row in rows} if rules.kinds else {None}
    if rules.kinds and not kinds.intersection(rules.kinds):
        raise DataError(
            f"the protocol `{rules.name}` averages over {', '.join(rules.kinds)}, and no row says in `reference_kind` "
            "that it is of one of these; score by another protocol"
        )


def _require_class_maps(row: Row, rules: Protocol) -> None:
    if not row.get("masks") or Path(row["masks"][0] or "").parent.name != "labels_rgb":
        raise DataError(f"row {row['id']!r}: the protocol `{rules.name}` needs rows of AVSBench's `avss`")


class ClassScorer:
    """
    Scores the answers of AVSBench-semantic: where the mask is, there is the class that the answer names; a name that
    is none of the dataset's is background.

    Args:
        rules (`Protocol`): its size.
    """

    def __init__(self, rules: Protocol):
        self.rules = rules
        self.metrics = SemanticMetrics()
        self.class_names: list[str] | None = None

    def add(self, answer: Answer, number: int, num_frames: int) -> dict[str, float]:
        """As [`Scorers.add`]: `J` of the mask, whatever its class."""
        row = answer.row
        names = self._read_names(row)
        shown, indices = scored_frames(row, num_frames)
        maps = load_class_maps({"masks": [row["masks"][i] for i in indices]})
        planes = torch.from_numpy(maps).float()[:, None]
        size = (self.rules.size, self.rules.size) if self.rules.size else maps.shape[1:]
        target = F.interpolate(planes, size, mode="nearest")[:, 0].long()
        drawn = _prepare_logits(answer, shown, self.rules) > 0
        known = [normalize_class(name) for name in names]
        said = extract_class(answer.completion)
        predicted = torch.where(drawn, known.index(said) if said in known else self.metrics.background, 0)
        self.metrics.update(predicted, target, index=number)
        union = (drawn | (target > 0)).sum()
        return {"J": float((drawn & (target > 0)).sum() / union) if union else 1.0}

    def restore(self, row: Row, number: int, kept: dict[str, torch.Tensor]) -> None:
        """As [`MaskScorer.restore`]."""
        self._read_names(row)
        self.metrics.restore(number, kept)

    def _read_names(self, row: Row) -> list[str]:
        _require_class_maps(row, self.rules)
        self.class_names = _class_names(str(Path(row["masks"][0]).parents[3]))
        return self.class_names

    def compute(self, clips: Mapping[int, Hashable] | None = None) -> dict[str, Any]:
        """The scores over all processes, with those by class; means over classes have no standard error."""
        # A process that answered no row has read no names.
        names = next((names for names in gather_shares(self.class_names) if names is not None), None)
        return {**self.metrics.gather().compute(names), "errors": {}}


@lru_cache(maxsize=8)
def _class_names(root: str) -> list[str]:
    return load_class_names(root)


def scored_frames(row: Row, num_frames: int) -> tuple[list[int], list[int]]:
    """
    The frames of an answer that have a score: what stands past the end of a short clip, or is not annotated, has none.

    Args:
        row (`dict`): a dataset row.
        num_frames (`int`): frames that the model takes of a clip.

    Returns:
        `tuple[list[int], list[int]]`: their numbers among the model's frames, and their masks' among the row's.

    Raises:
        `DataError`: where none of the frames that the model takes is annotated.
    """
    indices = mask_indices(row, num_frames)
    shown = [number for number, index in enumerate(indices) if index != NO_FRAME]
    if not shown:
        raise DataError(f"row {row['id']!r}: none of the {num_frames} frames that the model takes is annotated")
    return shown, [indices[number] for number in shown]


def _prepare_logits(answer: Answer, shown: list[int], rules: Protocol) -> torch.Tensor:
    size = frame_size(answer.row)
    if answer.mask_logits is None:
        shape = size if rules.size is None else (rules.size, rules.size)
        return torch.full((len(shown), *shape), _NO_MASK_LOGIT)
    return rules.prepare_logits(answer.mask_logits[shown], size)
