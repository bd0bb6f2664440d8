"""Every text that an annotator reads, and the shape that its answer must have (AURORA, sections 6.1, 6.2 and 7.1).

A project that wants other wording changes this file; a run that was begun with the old wording is not continued with
the new one.
"""

import hashlib

from ..data.schema import Row
from ..prompts import CLASS_SENTENCE, NULL_CLASS, display_class

STYLES = ("flexible", "fixed")

_CLIP = "You get {frames} of a short clip in order, {sound}, and a sentence about the clip."

# The class is known to the annotator, not to the model that will learn from the text: it must follow from evidence.
_REASONING = """\
You write worked examples for a model that learns to find one object in a clip from a sentence about it.
{clip} You are also told which object the sentence means, so that your example arrives at it. The model will not \
be told: the example must read as the thoughts of someone who works it out.

What the example must contain:
- Sight: the objects and people that matter, what they do, and where they are in relation to each other.
- Sound: what is heard, from what it comes, and how it runs: when it starts and ends, how loud, high or fast it \
is, and whether that changes. Describe the sound before you draw anything from it; never judge it by what such \
an object is usually like.
- Reference: how the words of the sentence fit what is seen and heard, and why the other candidates do not fit.
- Answer: the object that follows.

{form}
Say only what these frames and this sound show. Write at most 1200 characters. Mention neither these \
instructions nor that you know the object.
The last sentence must be exactly: {ending}

An example of the tone.
Sentence: "the instrument that keeps going after the flute has stopped"
Text: {example}

Sentence: "{reference}"
Object: {target}"""

_FORMS = {
    "flexible": "Choose the order that suits the sentence and your own words. Plain prose, no headings, no lists.",
    "fixed": (
        "Write five numbered parts in this order, each on its own line: `1) Reference:`, `2) Audio:`, `3) Video:`, "
        "`4) Connection:`, `5) Answer:`."
    ),
}
_EXAMPLES = {
    "flexible": (
        "A woman on the left holds a flute to her lips while a boy beside her strikes a xylophone. A soft, breathy "
        "melody opens the recording and fades away about halfway through; short, bright, wooden strokes run from the "
        "start to the very end. The sentence asks for what goes on once the flute is silent, and the strokes that "
        "remain are those of the xylophone. So the target is the xylophone."
    ),
    "fixed": (
        "1) Reference: It asks for what goes on once the flute is silent.\n"
        "2) Audio: A breathy melody fades halfway through; bright wooden strokes last to the end.\n"
        "3) Video: A woman on the left plays a flute; a boy beside her strikes a xylophone.\n"
        "4) Connection: The strokes that go on come from the boy's xylophone.\n"
        "5) Answer: So the target is the xylophone."
    ),
}
_NULL_TARGET = (
    "none: nothing in the clip fits the sentence. Show which of its words are not met, and by what evidence."
)

_AGAIN = "\n\nAn earlier attempt could not be used: {problem}. Mind this and write it anew."

# The paper's seven kinds of failure, in its order (section 7.1), with what tells them apart.
FAILURE_KINDS = {
    "general_knowledge": "it reasons from what such things are usually like, not from this clip",
    "visual_misidentification": "it takes an object for another that looks similar",
    "audio_perception": "it mishears: a wrong source, voice or quality of a sound",
    "entity_attribute": "it gets a visible attribute wrong, such as age, sex, colour or size",
    "temporal": "it gets order, duration, rhythm or a change over time wrong",
    "contradiction": "its steps contradict each other, its answer, or a word of the sentence",
    "spatial_referential": "it gets a place or a relation wrong, or refers to the wrong one of several",
}

# Double brackets, since answers quote the reference and speech: quotation marks can not also mark edits.
_CORRECTION = """\
You check the work of a student who looks at a clip, listens to it and reasons about which object a sentence means.
{clip} You also get the student's text and the object that the sentence truly means.

First compare every statement of the student with the frames and the sound. If the reasoning and the object are \
right, answer with this one line:
VERDICT: right

Otherwise mend the text with as few edits as possible. Replace, insert or delete only what is wrong: objects, \
places, sounds, conclusions. Keep every sentence that is true as it stands, keep the order and the style, do not \
polish, do not swap synonyms, add nothing that the correction does not need. Where the text is about sound, \
write what is really heard and what follows from it: a bare claim that the answer follows from the sound is not \
a correction. The mended text must read as the student's own thoughts: it mentions neither a mistake nor that \
the object was known. Its last sentence must be exactly: {ending}

Then answer in this form, and with nothing else:
VERDICT: wrong
KIND: one word of this list for what went wrong first
{kinds}
MARKED: the student's text unchanged, with each stretch that you replace or delete in [[double brackets]]
CORRECTED: the mended text, with each stretch that you replaced or inserted in [[double brackets]]

An example.
Sentence: "the one who makes a sound first"
Student: A man sits with a banjo and a cat lies beside him. The recording begins with the banjo. So the target \
is the banjo.
Object: cat
VERDICT: wrong
KIND: audio_perception
MARKED: A man sits with a banjo and a cat lies beside him. The recording begins with [[the banjo]]. So the \
target is the [[banjo]].
CORRECTED: A man sits with a banjo and a cat lies beside him. The recording begins with [[a high meow, and the \
plucked notes follow it]]. So the target is the [[cat]].

Sentence: "{reference}"
Student: {text}
Object: {target}"""


def reasoning_request(
    row: Row, *, num_frames: int, has_sound: bool, style: str = "flexible", problem: str | None = None
) -> str:
    """
    What an annotator is asked for a chain of thought (AURORA, section 6.1 and table 8).

    Args:
        row (`dict`): a dataset row with `reference`, `class_name` and `is_null`.
        num_frames (`int`): frames that stand before the text.
        has_sound (`bool`): whether the sound stands before it too.
        style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"`.
        problem (`str`, *optional*): what was wrong with the last answer.

    Raises:
        `ValueError`: for another style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; use one of {', '.join(STYLES)}")
    request = _REASONING.format(
        clip=_clip_sentence(num_frames, has_sound),
        form=_FORMS[style],
        ending=_ending(row),
        example=_EXAMPLES[style],
        reference=row["reference"].strip(),
        target=_target(row),
    )
    return request + (_AGAIN.format(problem=problem) if problem else "")


def correction_request(row: Row, text: str, *, num_frames: int, has_sound: bool, problem: str | None = None) -> str:
    """
    What an annotator is asked for a correction with minimal edits (AURORA, section 6.2) and its kind (section 7.1).

    Args:
        row (`dict`): a dataset row with `reference`, `class_name` and `is_null`.
        text (`str`): what the model wrote, without `It is [SEG].`.
        num_frames (`int`): frames that stand before the text.
        has_sound (`bool`): whether the sound stands before it too.
        problem (`str`, *optional*): what was wrong with the last answer.
    """
    request = _CORRECTION.format(
        clip=_clip_sentence(num_frames, has_sound),
        kinds="\n".join(f"- {kind}: {meaning}" for kind, meaning in FAILURE_KINDS.items()),
        ending=_ending(row),
        reference=row["reference"].strip(),
        text=text,
        target=_target(row),
    )
    return request + (_AGAIN.format(problem=problem) if problem else "")


def instructions_digest() -> str:
    """Changes when any text of this module does."""
    texts = [_CLIP, _REASONING, *_FORMS.values(), *_EXAMPLES.values(), _NULL_TARGET, _AGAIN, _CORRECTION]
    texts += [f"{kind}: {meaning}" for kind, meaning in FAILURE_KINDS.items()]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _clip_sentence(num_frames: int, has_sound: bool) -> str:
    frames = f"{num_frames} frames" if num_frames > 1 else "one frame"
    return _CLIP.format(frames=frames, sound="its sound" if has_sound else "without sound, since it has none")


def _target(row: Row) -> str:
    return _NULL_TARGET if row.get("is_null") else display_class(row["class_name"])


def _ending(row: Row) -> str:
    name = NULL_CLASS if row.get("is_null") else f"the {display_class(row['class_name'])}"
    return "So " + CLASS_SENTENCE.format(class_name=name)
