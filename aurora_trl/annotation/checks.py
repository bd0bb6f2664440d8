"""Whether a text that came back may be learnt from."""

import re

from ..data.schema import Row
from ..prompts import NULL_CLASS, display_class, extract_class, normalize_class, strip_answer

MAX_CHARACTERS = 2000  # AURORA's bound on a reasoning text: shorter than this
MIN_CHARACTERS = 40

_CLASS_SENTENCE = re.compile(r"\bthe target is\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
# A text that shows where its answer came from teaches the model to pretend.
_LEAKS = re.compile(
    r"\b(?:correct|given|provided|expected|known|stated) (?:answer|target|object|result)\b"
    r"|\btarget (?:answer|given|provided)\b"
    r"|\bground[- ]truth\b"
    r"|\b(?:was|were|am|been) (?:told|instructed|informed|given) (?:that |the )?(?:the )?(?:target|answer|object)\b"
    r"|\b(?:these|the|your|my) instructions?\b"
    r"|\bthe student(?:['’]s)? (?:text|answer|reasoning|says|claims|wrote|writes)\b"
    r"|\bthe (?:prompt|example|task) (?:says|states|asks|requires|shows)\b",
    re.IGNORECASE,
)
_REFUSALS = re.compile(
    r"^\W*(?:i['’]?m sorry|sorry\b|i apologi[sz]e|unfortunately)"
    r"|^\W*i (?:can ?not|can['’]t|am unable to|['’]?m unable to|am not able to) "
    r"(?:assist|help|process|access|view|watch|listen|see the|hear the|play|provide|complete|determine)"
    r"|\bas an? (?:ai|(?:large )?language model|text-based)\b"
    r"|\b(?:can ?not|can['’]t|unable to|not able to) (?:assist|process|access|view|watch|listen to|play|analy[sz]e) "
    r"(?:the |this |these |any |your )?(?:audio|sound|video|clip|images?|frames?|files?|media)\b",
    re.IGNORECASE,
)


def clean_text(text: str) -> str:
    """
    A text as the model will learn it: without code fences, bold type, a heading `Reasoning:`, `It is [SEG].` or
    quotes around the class, and with `the` before a class that had `a`.
    """
    text = re.sub(r"^```\w*\s*|\s*```$", "", text.strip())
    text = text.replace("**", "").strip()
    text = re.sub(r"^(?:reasoning|text)\s*:\s*", "", text, flags=re.IGNORECASE)
    text = re.sub(r"(\bthe target is\s+(?:the\s+|an?\s+)?)[\"“'‘]([^\"”'’\n]+)[\"”'’]", r"\1\2", text, flags=re.I)
    text = re.sub(r"(\bthe target is\s+)an?\s+", r"\1the ", text, flags=re.IGNORECASE)
    return "\n".join(" ".join(line.split()) for line in strip_answer(text).splitlines() if line.strip())


def find_problem(row: Row, text: str) -> str | None:
    """
    What is wrong with a reasoning text, in words that the annotator can act on; None where it is fine.

    Args:
        row (`dict`): a dataset row with `class_name`.
        text (`str`): reasoning from `clean_text`.
    """
    if _REFUSALS.search(text):
        return "it refuses instead of reasoning"
    if len(text) >= MAX_CHARACTERS:
        return f"it has {len(text)} characters, the limit is {MAX_CHARACTERS - 1}"
    if len(text) < MIN_CHARACTERS:
        return "it gives no reasoning"
    leak = _LEAKS.search(text)
    if leak:
        return f"it speaks of its own instructions: `{leak.group()}`"
    return _class_problem(row, text)


def _class_problem(row: Row, text: str) -> str | None:
    """The true class must be named by the last sentence, with `the target is`."""
    sentences = list(_CLASS_SENTENCE.finditer(text))
    name = NULL_CLASS if row.get("is_null") else display_class(row["class_name"])
    if not sentences:
        return f"its last sentence does not say `the target is` and `{name}`"
    named = extract_class(text, name)
    if named != normalize_class(name):
        return f"it names `{named}` as the target, not `{name}`"
    after = text[sentences[-1].end() :]
    end = _SENTENCE_END.search(after)
    if end and after[end.end() :].strip():
        return "it goes on after the sentence that names the target"
    if not end:
        return "its last sentence has no end"
    return None
