"""The training set of the reflective phase (AURORA, section 3.2, equation 3)."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from ..data.schema import DataError, count_targets
from ..prompts import REFLECTION_TRIGGERS, answer_sentence, reflective_target

# 1,505 reflective paths among 3,500 plain ones.
PLAIN_PER_REFLECTIVE = 3500 / 1505


def build_reflective_rows(
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    plain_rows: Sequence[dict[str, Any]],
    *,
    plain_per_reflective: float = PLAIN_PER_REFLECTIVE,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Wrong path + trigger + corrected path, mixed with plain chains of thought.

    Args:
        pairs (`Iterable[tuple[dict, dict]]`): hard rows and their corrected ones, as `correct_rows` yields them.
        plain_rows (`Sequence[dict]`): rows with a chain of thought as `target`.
        plain_per_reflective (`float`, *optional*): plain rows for each reflective one; the paper's 3,500 for 1,505.
        seed (`int`, *optional*, defaults to 0): of triggers, choice and order.

    Returns:
        `list[dict]`: shuffled rows; a reflective one has `#reflective` behind its id.

    Raises:
        `DataError`: where there is no reflective path to build.
    """
    rng = random.Random(seed)
    reflective = [
        {
            **wrong,
            "id": f"{wrong['id']}#reflective",
            "target": reflective_target(
                wrong["target"],
                rng.choice(REFLECTION_TRIGGERS),
                corrected["target"],
                answer_sentence(count_targets(wrong)),
            ),
        }
        for wrong, corrected in pairs
    ]
    if not reflective:
        raise DataError("no hard sample with a correction: mine more rows, or raise the IoU below which one is hard")
    count = min(len(plain_rows), round(plain_per_reflective * len(reflective)))
    mixed = [*reflective, *rng.sample(list(plain_rows), count)]
    rng.shuffle(mixed)
    return mixed
