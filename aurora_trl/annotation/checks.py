"""Whether a text that came back may be learnt from."""

import re

from ..data.schema import Row
from ..prompts import NULL_CLASS, display_class, extract_class, normalize_class, strip_answer, text_after_class

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


# What a model thinks before it answers, where its server does not keep that apart, and how such thoughts open.
_THOUGHTS = re.compile(
    r"^.*(?:</(?:think|thinking|thought|thoughts|reasoning|scratchpad)>|<\|channel\|>final<\|message\|>)", re.DOTALL
)
_THINKS = re.compile(r"<(?:think|thinking|thought|thoughts|scratchpad)>|<\|channel\|>analysis")
_END_TOKENS = re.compile(r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end|return)\|>|</s>|<eos>|<end_of_turn>))+\s*$")
# Of no width, so that nobody sees them, and hyphens that no keyboard has.
_UNSEEN = str.maketrans(
    {**dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad")), **dict.fromkeys((0x2010, 0x2011), "-")}
)
# Words to whoever asked, in a line of their own before the text.
_AGREES = r"(?:sure|certainly|of course|absolutely|okay|ok|got it)\b"
_OPENING = re.compile(
    rf"^(?:{_AGREES}[^\n]{{0,80}}?[!.,:]?\s*)?(?:here['’]?s|here is|here are|below is)\b[^\n]{{0,120}}:\s*\n\s*"
    rf"|^{_AGREES}[!.,]?\s*\n\s*",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:#{1,6}\s*)?(?:reasoning|text|answer|example|worked example)\s*(?::\s*|\n\s*)", re.IGNORECASE
)
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,40}>|<\|[^<>\n]{0,40}\|>")
_HEADING_LINE = re.compile(r"^#{1,6}\s", re.MULTILINE)


def strip_thoughts(text: str) -> str:
    """An answer without what the model thought before it, and without tokens that end it; thoughts alone are kept."""
    return _END_TOKENS.sub("", _THOUGHTS.sub("", text.strip(), count=1)).strip()


def clean_text(text: str) -> str:
    """
    A text as the model will learn it: without the annotator's thoughts, code fences, bold type, a word to whoever
    asked, a heading `Reasoning:`, `It is [SEG].` or quotes around the class, and with `the` before a class that had
    `a`.
    """
    text = re.sub(r"^```\w*\s*|\s*```$", "", strip_thoughts(text).translate(_UNSEEN))
    text = text.replace("**", "").strip()
    text = _HEADING.sub("", _OPENING.sub("", text))
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
    if _THINKS.search(text):
        return "it thinks, and comes to no answer"
    if _REFUSALS.search(text):
        return "it refuses instead of reasoning"
    if len(text) >= MAX_CHARACTERS:
        return f"it has {len(text)} characters, the limit is {MAX_CHARACTERS - 1}"
    if len(text) < MIN_CHARACTERS:
        return "it gives no reasoning"
    if tag := _TAG.search(text):
        return f"it holds `{tag.group()}`; plain text has no tags"
    if _HEADING_LINE.search(text):
        return "it has a heading in Markdown; plain text has none"
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
    after = text_after_class(text, name)
    end = _SENTENCE_END.search(after)
    if end and after[end.end() :].strip():
        return "it goes on after the sentence that names the target"
    if not end:
        return "its last sentence has no end"
    return None
