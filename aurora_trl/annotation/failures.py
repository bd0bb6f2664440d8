"""What goes wrong when a model reasons, by kind (AURORA, section 7.1)."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..data.synthetic.annotator import Judgement
from ..data.synthetic.reasoning import Facts, kind_of
from ..data.synthetic.scene import CLASSES, COLOURS, SIZES
from ..prompts import display_class
from .instructions import FAILURE_KINDS

_TEMPORAL_RULES = ("first", "last", "fastest", "shortest")


def kind_shares(kinds: Iterable[str | None]) -> dict[str, dict[str, Any]]:
    """
    How often each kind occurs.

    Args:
        kinds (`Iterable[str]`): keys of `FAILURE_KINDS`; None where a failure was given none.

    Returns:
        `dict`: by kind, in the paper's order, `count` and `share` of all failures.
    """
    counts = Counter(kinds)
    total = counts.total()
    return {
        kind or "not_given": {"count": counts[kind], "share": counts[kind] / total if total else 0.0}
        for kind in [*FAILURE_KINDS, *([None] if counts[None] else [])]
    }


def world_failure_kind(facts: Facts, judgement: Judgement, text: str) -> str:
    """
    The kind of a failure in a synthetic world, from what went wrong first: what was seen, what was heard, or what
    was made of it.

    Args:
        facts (`Facts`): what is true of the row.
        judgement (`Judgement`): what is wrong with the text.
        text (`str`): the text.
    """
    for sentence in judgement.wrong_sentences:
        kind = kind_of(sentence)
        if kind == "seen":
            return _seen_failure(facts, sentence)
        if kind == "heard":
            sounding = {o.class_name for o in facts.objects if o.sound is not None}
            wrong_source = _classes_named(sentence) != sounding
            return "temporal" if not wrong_source and facts.reference.rule in _TEMPORAL_RULES else "audio_perception"
    said = {kind_of(sentence.strip()) for sentence in re.findall(r"[^.]+\.", text)}
    if facts.reference.kind in ("hearing", "both") and "heard" not in said:
        # It answers a question about sound without having listened.
        return "general_knowledge"
    if facts.reference.kind in ("sight", "both") and "seen" not in said:
        return "general_knowledge"
    return "contradiction"


def _seen_failure(facts: Facts, sentence: str) -> str:
    if _classes_named(sentence) != {o.class_name for o in facts.objects}:
        return "visual_misidentification"
    true_words = set(" ".join(facts.sentences("seen", "flexible")).split())
    attributes = {*COLOURS, *SIZES}
    wrong_attribute = any(word in attributes and word not in true_words for word in sentence.rstrip(".").split())
    return "entity_attribute" if wrong_attribute else "spatial_referential"


def _classes_named(sentence: str) -> set[str]:
    # Longer names first: a hand bell is no bell.
    names = {display_class(name): name for name in sorted(CLASSES, key=len, reverse=True)}
    return {names[found] for found in re.findall(rf"\b(?:{'|'.join(names)})\b", sentence.lower())}
