"""One answer out of several: the best by its mask, the vote of all, or another try where a check says no."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from ..data.schema import Row
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from .answer import Answer, Cost

logger = logging.getLogger(__name__)

CHOICES = ("quality", "vote")
CHECKS = ("policy", "quality")
# Of a mask that is not there, among those that vote.
_NO_MASK_LOGIT = -20.0
# What says how answers are sampled is part of the choice, or would leave nothing to choose from.
_OWN_SETTINGS = ("do_sample", "temperature", "num_beams", "streamer")

# Answers to questions by their numbers, with settings of `generate`; scores of answers to questions; and logits of the
# decoder in the geometry of a frame.
Write: TypeAlias = Callable[..., list[Answer]]
Restore: TypeAlias = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
Check: TypeAlias = Callable[[Sequence[int], Sequence[Answer]], list[float]]


@dataclass(frozen=True)
class Choosing:
    """
    How the answer to a row is chosen out of several. By default there is one, the likeliest, and nothing is chosen.

    Args:
        num_answers (`int`, *optional*, defaults to 1): answers that are sampled for each row, or
        retries (`int`, *optional*, defaults to 0): how many times at most another answer is sampled where the check of
            those before says no, the likeliest one first. The one with the best score is kept.
        by (`str`, *optional*, defaults to `"quality"`): of several answers `"quality"` keeps the one whose masks the
            mask decoder itself scores highest; `"vote"` draws what most of them draw, the median of each pixel's
            logits, and keeps the text whose masks are closest to that.
        check (`str`, *optional*, defaults to `"policy"`): of retries: `"policy"` shows the policy its mask over the
            clip and asks whether it fits; `"quality"` takes the mask decoder's score.
        threshold (`float`, *optional*, defaults to 0.5): a score below it is a no.
        temperature (`float`, *optional*, defaults to 1.0): of what is sampled.
        seed (`int`, *optional*, defaults to 0): the same seed, rows and batches give the same answers.
        scored (`bool`, *optional*, defaults to `False`): give answers the mask decoder's score of their masks where
            nothing is chosen by it, too.

    Raises:
        `ValueError`: for a value out of range, and where several answers and retries are asked for at once.
    """

    num_answers: int = 1
    retries: int = 0
    by: str = "quality"
    check: str = "policy"
    threshold: float = 0.5
    temperature: float = 1.0
    seed: int = 0
    scored: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("num_answers", 1), ("retries", 0), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"`{name}` must be at least {lowest}, got {getattr(self, name)}")
        for name, known in (("by", CHOICES), ("check", CHECKS)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` must be from 0 to 1, got {self.threshold}")
        if self.num_answers > 1 and self.retries:
            raise ValueError(
                "`num_answers` samples several answers at once, `retries` one after the other: ask for one"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is chosen."""
        return self.num_answers > 1 or self.retries > 0

    @property
    def votes(self) -> bool:
        """Whether the masks are those of several answers."""
        return self.num_answers > 1 and self.by == "vote"

    @property
    def needs_quality(self) -> bool:
        """Whether the mask decoder's own score decides."""
        return (self.num_answers > 1 and self.by == "quality") or (self.retries > 0 and self.check == "quality")

    def settings(self) -> dict[str, Any]:
        """What takes part in the choice, for the files that say so."""
        kept = ("num_answers", "by") if self.num_answers > 1 else ("retries", "check", "threshold")
        return {name: value for name, value in asdict(self).items() if name in (*kept, "temperature", "seed")}

    def require_possible(self, model: AuroraModel, processor: AuroraProcessor, settings: Mapping[str, Any]) -> None:
        """
        Raise `ValueError` where a model can not be asked so; a warning where its score was never taught.

        Args:
            model (`AuroraModel`), processor (`AuroraProcessor`): which is asked.
            settings (`Mapping[str, Any]`): for `generate`, beside these.
        """
        if not self.is_on:
            return
        given = next((name for name in _OWN_SETTINGS if settings.get(name) is not None), None)
        if given is not None:
            raise ValueError(f"`{given}` does not go with a choice of answers, which are sampled: leave it out")
        if self.votes and processor.max_objects > 1:
            raise ValueError("a vote is about one mask, and this model draws several objects: choose by `quality`")
        if not self.needs_quality:
            return
        if model.config.mask_source == "box":
            raise ValueError("masks that are drawn from boxes are not scored: choose by `vote`, or check by `policy`")
        if not model.mask_decoder.gives_quality:
            raise ValueError(
                f"{type(model.mask_decoder).__name__} does not score its masks: choose by `vote`, or check by `policy`"
            )
        if not model.config.quality_trained:
            _warn_of_untaught_score()


@lru_cache(maxsize=1)
def _warn_of_untaught_score() -> None:
    """Once in a process, which may ask many times."""
    logger.warning(
        "the mask decoder's score has not learnt to judge the masks of [SEG], and may order answers badly: train it "
        "with `mask_quality_loss_weight`"
    )


def choose_answers(
    choosing: Choosing, rows: Sequence[Row], write: Write, check: Check, restore: Restore
) -> list[Answer]:
    """
    An answer to each row of a batch.

    Args:
        choosing (`Choosing`): how; it is on.
        rows (`list[dict]`): the batch.
        write (`Callable`): answers to rows by their numbers, which may repeat, with settings of `generate`.
        check (`Callable`): asks the policy about answers to rows by their numbers, see `check_answers`.
        restore (`Callable`): brings the decoder's logits into the geometry of a frame of this height and width.

    Returns:
        `list[Answer]`: one per row, with its `score` and `cost`.
    """
    sampling = {"do_sample": True, "temperature": choosing.temperature}
    if choosing.num_answers > 1:
        count = choosing.num_answers
        numbers = [number for number in range(len(rows)) for _ in range(count)]
        with seeded(choosing.seed, rows):
            answers = write(numbers, **sampling)
        groups = [answers[start : start + count] for start in range(0, len(answers), count)]
        return [vote(group, restore) if choosing.votes else best_of(group) for group in groups]
    return _try_again(choosing, rows, write, check, sampling)


def _try_again(
    choosing: Choosing, rows: Sequence[Row], write: Write, check: Check, sampling: Mapping[str, Any]
) -> list[Answer]:
    # What the policy said of each text: the same answer once more needs no other look.
    verdicts: dict[tuple[int, str], float] = {}

    def judged(numbers: Sequence[int], answers: Sequence[Answer]) -> list[Answer]:
        if choosing.check == "quality":
            return [replace(one, score=one.quality, cost=Cost(1, one.num_tokens)) for one in answers]
        asked = {
            (number, one.completion): one
            for number, one in zip(numbers, answers, strict=True)
            if (number, one.completion) not in verdicts
        }
        if asked:
            scores = check([number for number, _ in asked], list(asked.values()))
            verdicts.update(zip(asked, scores, strict=True))
        keys = [(number, one.completion) for number, one in zip(numbers, answers, strict=True)]
        return [
            replace(one, score=verdicts[key], cost=Cost(1, one.num_tokens, int(key in asked)))
            for key, one in zip(keys, answers, strict=True)
        ]

    numbers: Sequence[int] = range(len(rows))
    kept = judged(numbers, write(numbers))
    for attempt in range(choosing.retries):
        numbers = [number for number in numbers if _rank(kept[number]) < choosing.threshold]
        if not numbers:
            break
        with seeded(choosing.seed, rows, attempt):
            answers = write(numbers, **sampling)
        for number, answer in zip(numbers, judged(numbers, answers), strict=True):
            kept[number] = _better((kept[number], answer))
    return kept


def best_of(answers: Sequence[Answer]) -> Answer:
    """The answer whose masks the mask decoder scores highest, the first of equals; one without a mask comes last."""
    return _better([replace(answer, score=answer.quality, cost=Cost(1, answer.num_tokens)) for answer in answers])


def _better(answers: Sequence[Answer]) -> Answer:
    best = max(answers, key=_rank)
    return replace(best, cost=_total([answer.cost for answer in answers if answer.cost is not None]))


def _rank(answer: Answer) -> float:
    return -math.inf if answer.score is None else answer.score


def _total(costs: Sequence[Cost]) -> Cost:
    return Cost(*(sum(getattr(cost, name) for cost in costs) for name in ("answers", "tokens", "checks")))


def vote(answers: Sequence[Answer], restore: Restore) -> Answer:
    """
    Draw what most of the answers draw: at each pixel the median of their logits, so that where as many draw as do not,
    the surer ones decide. An answer without a mask votes for nothing; where half of them or more have none, the first
    such is kept.

    Args:
        answers (`list[Answer]`): to one row, with one mask each at most.
        restore (`Callable`): see `choose_answers`.

    Returns:
        `Answer`: the one whose masks have the highest IoU with the vote, which is its `score`, with the vote's masks.
    """
    cost = _total([Cost(1, answer.num_tokens) for answer in answers])
    drawn = [answer for answer in answers if answer.mask_logits is not None]
    if 2 * len(drawn) <= len(answers):
        first = next(answer for answer in answers if answer.mask_logits is None)
        return replace(first, score=None, cost=cost)
    planes = [answer.decoded_logits for answer in drawn if answer.decoded_logits is not None]
    empty = [torch.full_like(planes[0], _NO_MASK_LOGIT)] * (len(answers) - len(planes))
    ordered = torch.stack([*planes, *empty]).sort(dim=0).values
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    ious = [_iou(logits, median) for logits in planes]
    nearest = drawn[ious.index(max(ious))]
    assert nearest.mask_logits is not None
    height, width = nearest.mask_logits.shape[1:]
    mask_logits = restore(median, (height, width))
    voted = replace(nearest, mask_logits=mask_logits, decoded_logits=median, object_logits=None)
    return replace(voted, score=max(ious), cost=cost)


def _iou(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of the masks of two logits, all frames together; two empty ones agree."""
    union = int(((first > 0) | (second > 0)).sum())
    return int(((first > 0) & (second > 0)).sum()) / union if union else 1.0


@contextmanager
def seeded(seed: int, rows: Sequence[Row], attempt: int = 0) -> Iterator[None]:
    """Draw in the block from random numbers that hang on seed, batch and attempt alone, and leave the others be."""
    named = json.dumps([seed, attempt, [[row.get("id"), row["reference"]] for row in rows]], default=str)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(hashlib.sha256(named.encode()).digest()[:7], "big"))
        yield
