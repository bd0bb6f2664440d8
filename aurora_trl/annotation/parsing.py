"""What an annotator's correction says: the verdict, the kind of failure, both texts, and how far they are apart."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import strip_thoughts
from .instructions import FAILURE_KINDS

_HEADING = re.compile(r"^[\s*_#>`-]*(VERDICT|KIND|MARKED|CORRECTED)[*_`]*\s*:[*_` ]*", re.IGNORECASE | re.MULTILINE)
# Brackets of a model that marks with one in place of two; `[SEG]` is no mark.
_SINGLE = re.compile(r"\[(?!SEG\])([^\[\]]*)\]")


@dataclass(frozen=True)
class Correction:
    """
    A parsed answer.

    Args:
        right (`bool`): nothing had to be corrected.
        text (`str`): the corrected text, without marks; empty where it was right.
        kind (`str`, *optional*): what went wrong, a key of `FAILURE_KINDS`.
        marked (`str`, *optional*): the wrong text with `[[…]]` around what was replaced or deleted.
    """

    right: bool
    text: str = ""
    kind: str | None = None
    marked: str | None = None


def parse_correction(answer: str) -> Correction:
    """
    Read an answer to `correction_request`.

    Args:
        answer (`str`): with the headings `VERDICT`, `KIND`, `MARKED` and `CORRECTED`, in any order and with or without
            bold type; a bare `right` is a verdict too.

    Raises:
        `ValueError`: says what is missing, in words that the annotator can act on.
    """
    text = re.sub(r"^```\w*\s*|\s*```$", "", strip_thoughts(answer))
    headings = list(_HEADING.finditer(text))
    parts: dict[str, str] = {}
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):
        # The last of a name counts: a model that thinks aloud repeats itself.
        parts[heading.group(1).upper()] = text[heading.end() : end].strip()
    verdict = _word(parts.get("VERDICT", text if not parts else ""))
    if verdict == "right":
        return Correction(right=True)
    if verdict != "wrong":
        raise ValueError("it has no line `VERDICT: right` or `VERDICT: wrong`")
    corrected = without_marks(parts.get("CORRECTED", ""))
    if not corrected:
        raise ValueError("it has no text after `CORRECTED:`")
    kind = _find_kind(parts.get("KIND", ""))
    if kind is None:
        raise ValueError(f"its `KIND:` is none of {', '.join(FAILURE_KINDS)}")
    return Correction(False, corrected, kind, parts.get("MARKED") or None)


def _word(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _find_kind(text: str) -> str | None:
    names = {_word(kind): kind for kind in FAILURE_KINDS}
    first = text.strip().splitlines()[0] if text.strip() else ""
    close = difflib.get_close_matches(_word(first.split(":")[0]), names, n=1, cutoff=0.75)
    return names[close[0]] if close else None


def without_marks(text: str) -> str:
    """A marked text without its brackets, double or single, and without the double spaces of an empty mark."""
    text = _SINGLE.sub(r"\1", text.replace("[[", "").replace("]]", ""))
    return re.sub(r" {2,}", " ", text).strip()


def word_edit_distance(before: str, after: str) -> int:
    """Words that must be replaced, inserted or deleted to get from one text to the other (Levenshtein)."""
    return _levenshtein(before.split(), after.split())


def _levenshtein(before: Sequence[str], after: Sequence[str]) -> int:
    previous = list(range(len(after) + 1))
    for i, word in enumerate(before, 1):
        current = [i]
        for j, other in enumerate(after, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (word != other)))
        previous = current
    return previous[-1]
