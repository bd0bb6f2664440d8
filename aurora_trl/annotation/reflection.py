"""The training set of the reflective phase (AURORA, section 3.2, equation 3)."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from ..data.schema import Row, count_objects
from ..errors import DataError
from ..prompts import (
    NULL_ANSWER,
    REFLECTION_TRIGGERS,
    answer_sentence,
    is_null_answer,
    reflective_target,
    strip_answer,
)

# 1,505 reflective paths among 3,500 plain ones.
PLAIN_PER_REFLECTIVE = 3500 / 1505


def build_reflective_rows(
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    plain_rows: Sequence[Row],
    *,
    plain_per_reflective: float = PLAIN_PER_REFLECTIVE,
    learn_mistakes: bool = True,
    paths: str = "reflective",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Wrong path + trigger + corrected path, mixed with plain chains of thought.

    Args:
        pairs (`Iterable[tuple[dict, dict]]`): hard rows and their corrected ones, as `correct_rows` yields them.
        plain_rows (`Sequence[dict]`): rows with a chain of thought as `target`.
        plain_per_reflective (`float`, *optional*): plain rows for each reflective one; the paper's 3,500 for 1,505.
        learn_mistakes (`bool`, *optional*, defaults to `True`): learn to write the wrong path, too, as the paper does.
            Otherwise it is the row's `prefill`: what is learnt begins at the trigger.
        paths (`str`, *optional*, defaults to `"reflective"`): or `"corrected"`, the corrected path alone, among the
            same plain rows in the same order (AURORA, table 4, CT).
        seed (`int`, *optional*, defaults to 0): of triggers, choice and order.

    Returns:
        `list[dict]`: shuffled rows; one with a path has `#reflective` or `#corrected` behind its id.

    Raises:
        `DataError`: where there is no path to build.
    """
    rng = random.Random(seed)
    reflective = []
    for wrong, corrected in pairs:
        mistake, trigger = strip_answer(wrong["target"]), rng.choice(REFLECTION_TRIGGERS)
        answer = NULL_ANSWER if is_null_answer(corrected["target"]) else answer_sentence(count_objects(wrong))
        target = reflective_target(mistake if learn_mistakes else "", trigger, corrected["target"], answer)
        prefill = None if learn_mistakes else mistake
        if paths == "corrected":
            target, prefill = corrected["target"], None
        reflective.append({**wrong, "id": f"{wrong['id']}#{paths}", "target": target, "prefill": prefill})
    if not reflective:
        raise DataError("no hard sample with a correction: mine more rows, or raise the IoU below which one is hard")
    count = min(len(plain_rows), round(plain_per_reflective * len(reflective)))
    mixed = [*reflective, *rng.sample(list(plain_rows), count)]
    rng.shuffle(mixed)
    return mixed
