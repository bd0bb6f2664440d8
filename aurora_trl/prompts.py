"""Every text that a model reads or must write; what an annotator reads is in `annotation/instructions.py`.

The user turn holds the clip's places (`<video>`, `<audio>`) and the reference; the assistant turn is reasoning that
ends with `It is [SEG].`. All other modules take these texts from here, so that a project with other wording changes
one file.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from .box_text import strip_boxes
from .errors import DataError

SEG_TOKEN = "[SEG]"
VIDEO_TOKEN = "<video>"
AUDIO_TOKEN = "<audio>"

# The sentence that asks for the mask (AURORA, section 3.1), and the class sentence that comes before it (step 4).
ANSWER = f"It is {SEG_TOKEN}."
# An answer about several objects has one `[SEG]` for each, an option that the paper does not have.
_NEXT_TARGET = r"(?:,? and |, )\[SEG\]"

CLASS_SENTENCE = "the target is {class_name}."

# Where the reference matches nothing the class sentence names this, and the mask is empty. The paper's model asks for
# that mask all the same; with null answers, an option, it ends with this sentence instead and asks for none.
NULL_CLASS = "null"
NULL_ANSWER = "Nothing fits."

INSTRUCTION = "{reference} Which object is it? Reason, then segment."
# What a model is asked that writes boxes and points; see `box_text.py`. Braces are doubled, it is a format.
_BOX_INSTRUCTION = (
    "{{reference}} Which object is it? Reason, then end with its box and a point on it as JSON: "
    '[{{{{{frame}"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y], "label": "name"}}}}]{clip}. '
    "If there is none, end with: Nothing fits."
)

# What the policy is asked about an answer of its own, whose mask is tinted into the frames that it sees; and the two
# words of which the likelier one is its verdict. No model of the paper has learnt this.
CHECK_INSTRUCTION = (
    "{reference} An answer to this tinted an object in the frames, and said: {reasoning} "
    "Is the object that was asked for the tinted one, and the whole of it? Say Yes or No."
)
CHECK_WORDS = ("Yes", "No")

# How a prompt speaks of the files of a reference, which follow the clip; see `models/reference_places.py`. The text of
# a spoken one is not shown. Of the others, a text may have a mark in the file's place, as OmniAVS's have.
_SPOKEN_REFERENCE = "What to look for is said after the clip's sound."
_GOES_WITH = {
    "reference_sound": (re.compile(r"< ?audio>"), "the sound at the end", "Its sound is heard at the end."),
    "reference_image": (re.compile(r"< ?image>"), "the picture at the end", "Its picture is shown at the end."),
}

# What a dataset without references asks for (AURORA, section 4.4).
SOUNDING_REFERENCE = "The sounding object"

# Phrases that stand between a wrong path and its correction (AURORA, equation 3).
REFLECTION_TRIGGERS = (
    "Wait, let me check this again.",
    "Wait, that does not fit. Let me look and listen again.",
    "Hold on, I should verify this.",
    "Let me reconsider what I see and hear.",
    "Wait, let me re-evaluate.",
)

# Longest class first is not needed: the name runs to the end of its sentence.
# Models put it in quotes, straight or typographic, in bold or in backquotes, and a colon before it.
_MARKS = "\"'“”„‘’«»‹›*`"
_NAME_ENDS = rf".,;:!?\n\[\]()—–{_MARKS}"
_CLASS_PATTERN = re.compile(
    rf"\bthe\s+[{_MARKS}]*target[{_MARKS}]*\s+is\b[\s:{_MARKS}]*(?:(?:the|an?)\s+)?[{_MARKS}]*(?:(?:the|an?)\s+)?"
    # An apostrophe inside a word is part of the name.
    rf"((?:[^{_NAME_ENDS}]|(?<=\w)['’](?=\w))+)",
    re.IGNORECASE,
)

_ANSWER_PATTERN = re.compile(rf"\s*\bIt is \[SEG\](?:{_NEXT_TARGET})*\.?")

_FINAL_ANSWER_PATTERN = re.compile(rf"{_ANSWER_PATTERN.pattern}\s*$")

_NULL_ANSWER_PATTERN = re.compile(r"(?:^|(?<=[.!?…])|(?<=\n))\s*Nothing fits\.?\s*$")


def display_class(class_name: str) -> str:
    """The class as a model reads and writes it: `hand-bell` is shown as `hand bell`."""
    return class_name.replace("-", " ").replace("_", " ")


def normalize_class(class_name: str) -> str:
    """A form in which two spellings of one class are equal: lower case, single spaces, no hyphens, no article."""
    plain = unicodedata.normalize("NFC", class_name).replace("’", "'")
    return re.sub(r"^(?:the|an?) ", "", " ".join(display_class(plain).lower().split()))


def extract_class(text: str, known: str | None = None) -> str | None:
    """The class that a reasoning text names last with `the target is …`, normalised; None where it names none.

    A reflective answer names two classes: the wrong one, then the corrected one, which counts. A name ends with its
    sentence, or at a comma or bracket in it; a true class that holds one itself, as in `violin, fiddle` or `St.
    Bernard`, is looked for as it is.

    Args:
        text (`str`): what was written.
        known (`str`, *optional*): the true class.
    """
    found = _last_class(text, known)
    return None if found is None else found[0]


def text_after_class(text: str, known: str) -> str:
    """What a text holds behind the class that it names last; `known` as for `extract_class`."""
    found = _last_class(text, known)
    return text if found is None else found[1]


def _last_class(text: str, known: str | None) -> tuple[str, str] | None:
    text = unicodedata.normalize("NFC", text).replace("’", "'")
    last = next(reversed([*_CLASS_PATTERN.finditer(text)]), None)
    if last is None:
        return None
    whole = normalize_class(known or "")
    if whole:
        words = r"[\s_-]+".join(map(re.escape, whole.split()))
        written = re.compile(rf"{words}(?!'\w)(?=\s*(?:[{_NAME_ENDS}]|$))", re.IGNORECASE).match(text, last.start(1))
        if written is not None:
            return whole, text[written.end() :]
    return normalize_class(last[1]), text[last.end(1) :]


def build_prompt(row: dict[str, Any], instruction: str = INSTRUCTION) -> list[dict[str, Any]]:
    """The user turn of a row, in TRL's conversational format with one block per modality.

    Args:
        row (`dict`): a dataset row with `reference`, and `audio` that is None where the clip has no sound. Where the
            reference is spoken, or goes with a sound or a picture, the turn says where that is.
        instruction (`str`): text with the place `{reference}`.

    Returns:
        `list[dict]`: one user message.
    """
    return _user_turn(row, instruction.format(reference=reference_text(row)))


def build_check_prompt(row: dict[str, Any], reasoning: str) -> list[dict[str, Any]]:
    """
    The user turn that asks whether an answer's mask, which the frames show, fits its row.

    Args:
        row (`dict`): a dataset row, as in `build_prompt`.
        reasoning (`str`): what the answer said, without its `It is [SEG].`

    Returns:
        `list[dict]`: one user message.
    """
    said = _sentence(reasoning) or "nothing."
    return _user_turn(row, CHECK_INSTRUCTION.format(reference=reference_text(row), reasoning=said))


def reference_text(row: dict[str, Any]) -> str:
    """What a prompt says of a row's reference, in whole sentences."""
    said, behind = _SPOKEN_REFERENCE if row.get("reference_speech") else row["reference"], []
    for name, (mark, place, sentence) in _GOES_WITH.items():
        if row.get(name):
            said, count = mark.subn(place, said)
            behind += [] if count else [sentence]
    return " ".join([_sentence(said), *behind])


def _sentence(text: str) -> str:
    """A text that ends as a sentence does."""
    text = text.strip()
    return f"{text}." if text and text[-1] not in ".!?" else text


def _user_turn(row: dict[str, Any], text: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "video"}]
    if any(row.get(name) is not None for name in ("audio", "video", "reference_speech", "reference_sound")):
        content.append({"type": "audio"})
    content.append({"type": "text", "text": text})
    return [{"role": "user", "content": content}]


def box_instruction(num_frames: int = 1) -> str:
    """
    The instruction of a model that writes boxes and points, with the place `{reference}`.

    Args:
        num_frames (`int`, *optional*, defaults to 1): of a clip; with 1 no frames are spoken of.
    """
    if num_frames == 1:
        return _BOX_INSTRUCTION.format(frame="", clip="")
    return _BOX_INSTRUCTION.format(frame='"frame": n, ', clip=f", where frame n is from 0 to {num_frames - 1}")


def box_target(target: str, answer: str, with_seg: bool = False) -> str:
    """
    A text to learn with an answer of boxes, or one that nothing fits, in place of its `It is [SEG].`

    Args:
        target (`str`): the text.
        answer (`str`): in its place.
        with_seg (`bool`, *optional*, defaults to `False`): in front of it instead.
    """
    return f"{strip_answer(target)} {answer}".strip() + (f"\n{ANSWER}" if with_seg else "")


def queries_target(target: str) -> str:
    """
    A text to learn for a model whose queries are read behind its answer: without `It is [SEG].`, which nobody writes.

    The question stays what it is: that the model reasons, then segments. An answer that nothing fits stays, too.
    """
    return target if is_null_answer(target) else strip_answer(target)


def escape_tokens(text: str, tokens: Iterable[str]) -> str:
    """
    A text in which no token's name stands as a whole: `<video>` in a reference is a word, `< video>`, and no place.

    Args:
        text (`str`): what a user, or a dataset, wrote.
        tokens (`Iterable[str]`): names that a tokenizer would take for tokens of their own.
    """
    names = [name for name in tokens if len(name) > 1 and name in text]
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, f"{name[0]} {name[1:]}")
    return text


TEACHER_TARGETS = ("answer", "class")


def answer_sentence(num_objects: int = 1) -> str:
    """
    The sentence that asks for the masks: `It is [SEG].`, `It is [SEG] and [SEG].`, `It is [SEG], [SEG] and [SEG].`

    Args:
        num_objects (`int`, *optional*, defaults to 1): how many objects the reference is about.
    """
    *others, last = [SEG_TOKEN] * num_objects
    return f"It is {', '.join(others)} and {last}." if others else ANSWER


def teacher_target(row: dict[str, Any], targets: str = "answer", num_objects: int = 1) -> str:
    """What the segmentation-only teacher writes.

    Args:
        row (`dict`): a dataset row with `class_name`.
        targets (`str`, *optional*, defaults to `"answer"`): `"answer"` is `It is [SEG].` alone (AURORA, section 3.1);
            `"class"` puts the class sentence before it, as the authors' code does, and is much easier to learn.
        num_objects (`int`, *optional*, defaults to 1): how many objects the row is about.

    Returns:
        `str`: the text of the assistant turn.

    Raises:
        `DataError`: where the class sentence is asked for and the row has no class.
    """
    if targets == "answer":
        return answer_sentence(num_objects)
    if row.get("class_name") is None:
        raise DataError(
            f"row {row.get('id')!r}: it has no `class_name`, and `targets: class` and `teacher_targets: class` need "
            "the class of every row; use `answer` where the dataset names none"
        )
    name = display_class(row["class_name"])
    sentence = CLASS_SENTENCE.format(class_name=name if row.get("is_null") else f"the {name}")
    return f"So {sentence} {answer_sentence(num_objects)}"


def cot_target(reasoning: str, answer: str = ANSWER) -> str:
    """Reasoning that ends with the class sentence, followed by the answer (AURORA, section 3.1)."""
    return f"{reasoning.strip()} {answer}"


def reflective_target(wrong: str, trigger: str, corrected: str, answer: str = ANSWER) -> str:
    """A wrong path, which may be empty, a trigger, the corrected path, one answer at the end (AURORA, equation 3)."""
    return cot_target(f"{strip_answer(wrong)} {trigger.strip()} {strip_answer(corrected)}".strip(), answer)


def strip_answer(text: str) -> str:
    """A completion without its `It is [SEG].` sentences, its list of boxes, or the null answer that it ends with."""
    if is_null_answer(text):
        return _NULL_ANSWER_PATTERN.sub("", text).strip()
    return strip_boxes(_ANSWER_PATTERN.sub("", text).replace(SEG_TOKEN, "")).strip()


def without_seg_answer(text: str) -> str:
    """A completion without the `It is [SEG].` that it ends with; what stands before is as it was."""
    return _FINAL_ANSWER_PATTERN.sub("", text)


def is_reflective(text: str) -> bool:
    """Whether a text takes back what it said before, with one of `REFLECTION_TRIGGERS`."""
    return any(trigger in text for trigger in REFLECTION_TRIGGERS)


def is_null_answer(text: str) -> bool:
    """Whether a text asks for no mask and its final sentence is `Nothing fits`; a final full stop is fine."""
    return SEG_TOKEN not in text and _NULL_ANSWER_PATTERN.search(text) is not None


def says_nothing_fits(text: str) -> bool:
    """Whether a completion says that the reference matches nothing, with a null answer or by the class it names."""
    return is_null_answer(text) or extract_class(text) == NULL_CLASS


def ends_with_answer(text: str, max_objects: int = 1) -> bool:
    """
    Whether the final sentence is `It is [SEG]`; a final full stop is fine (AURORA, section 3.3).

    Args:
        text (`str`): what the model wrote.
        max_objects (`int`, *optional*, defaults to 1): how many `[SEG]` it may hold, as in `It is [SEG] and [SEG]`.
    """
    more = f"(?:{_NEXT_TARGET}){{0,{max_objects - 1}}}"
    return re.search(rf"(?:^|[.!?…]\s*|\n\s*)It is \[SEG\]{more}\.?\s*$", text) is not None
