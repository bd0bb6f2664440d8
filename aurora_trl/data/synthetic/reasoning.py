"""The true reasoning about a reference, sentence by sentence.

A path says what is seen, what is heard, which object follows from that, and its class. In the fixed format it lists
all that there is to see and to hear; in the flexible one it says what the reference asks about. Every sentence comes
from a small set of wordings, so that a sentence is true exactly when it is in the set of true ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...prompts import NULL_CLASS, display_class
from .references import RULES, Reference, word_reference
from .scene import SceneObject, Sound

STYLES = ("flexible", "fixed")
KINDS = ("seen", "heard", "inference", "class")

_SEEN = ("I see {list}.", "The frames show {list}.", "There is {list}.")
_HEARD = ("I hear {list}.", "The sound comes from {list}.")
_SILENCE = ("I hear nothing.", "There is no sound.")
_CLASS = ("So the target is {name}.", "Therefore the target is {name}.", "Thus the target is {name}.")
_NOTHING_FITS = ("Nothing in the clip fits the reference.", "No object fits the reference.")
# Why nothing fits, by the rule of the reference; sounds alone are heard, so all other rules are about silence.
_NULL_REASONS = {
    "class": "No object is a {value}.",
    "colour": "No object is {value}.",
    "silent": "No object is silent.",
}
_NULL_REASON_OF_SOUND = "No object sounds."
_FIXED = {
    "seen": "Seen: {list}.",
    "heard": "Heard: {list}.",
    "inference": "Inference: {text}.",
    "class": "Answer: the target is {name}.",
}
_EXTRA_SHARE = 0.15  # of the flexible paths, these also say what the reference does not need


@dataclass(frozen=True)
class Facts:
    """
    What there is to say about a reference.

    Args:
        objects (`tuple` of `SceneObject`): all of the clip.
        reference (`Reference`): what is asked.
    """

    objects: tuple[SceneObject, ...]
    reference: Reference

    @property
    def target(self) -> SceneObject | None:
        """The object that the reference means."""
        return next((o for o in self.objects if o.number == self.reference.target), None)

    def sentences(self, kind: str, style: str, null_reasons: bool = False) -> list[str]:
        """
        All wordings of the true sentence of a kind (`seen`, `heard`, `inference` or `class`) in a style; with
        `null_reasons`, the inference that nothing fits says why.
        """
        fixed = style == "fixed"
        if fixed and kind in ("seen", "heard"):
            return [_FIXED[kind].format(list=", ".join(self._listed(kind)) or "nothing")]
        if kind == "seen":
            text = _join(self._describe(o) for o in sorted(self.objects, key=lambda o: o.x))
            return [wording.format(list=text) for wording in _SEEN]
        if kind == "heard":
            heard = self._heard()
            return [wording.format(list=heard) for wording in _HEARD] if heard else list(_SILENCE)
        if kind == "inference":
            texts = [self.null_reason()] if null_reasons and self.target is None else self._inferences()
            return (
                [_FIXED[kind].format(text=text[0].lower() + text[1:].rstrip(".")) for text in texts[:1]]
                if fixed
                else texts
            )
        name = NULL_CLASS if self.target is None else f"the {display_class(self.target.class_name)}"
        return [wording.format(name=name) for wording in ([_FIXED[kind]] if fixed else _CLASS)]

    def null_reason(self) -> str:
        """Why the reference matches nothing: what it asks for is not there."""
        wording = _NULL_REASONS.get(self.reference.rule, _NULL_REASON_OF_SOUND)
        return wording.format(value=display_class(self.reference.value or ""))

    def _listed(self, kind: str) -> list[str]:
        """All that there is to say about each object, wanted or not: `left top small red drum`."""
        if kind == "seen":
            objects = sorted(self.objects, key=lambda o: o.x)
            return [f"{o.column} {o.row} {o.size} {o.colour} {display_class(o.class_name)}" for o in objects]
        return [
            f"{sound.onset} {sound.loudness} {sound.rhythm} {sound.duration} {display_class(o.class_name)}"
            for o, sound in self._sounds()
        ]

    def _sounds(self) -> list[tuple[SceneObject, Sound]]:
        """The sounding objects with their sounds, in the order in which they start."""
        sounding = [(o, o.sound) for o in self.objects if o.sound is not None]
        return sorted(sounding, key=lambda pair: pair[1].onset_seconds)

    def _describe(self, scene_object: SceneObject) -> str:
        """`a drum on the left`; with its colour, its size or its row where the reference asks for that."""
        colour = f"{scene_object.colour} " if self.reference.rule == "colour" else ""
        size = f"{scene_object.size} " if self.reference.rule in ("largest", "smallest") else ""
        row = self.reference.rule in ("top", "bottom")
        place = scene_object.row if row else scene_object.column
        where = {"left": "on the left", "right": "on the right", "middle": "in the middle"}.get(
            place, f"at the {place}"
        )
        return f"a {size}{colour}{display_class(scene_object.class_name)} {where}"

    def _heard(self) -> str:
        """The sounding objects in the order in which they start, with what the reference compares."""
        step = {"loudest": "loudness", "fastest": "rhythm", "shortest": "duration"}.get(self.reference.rule)
        names = []
        for scene_object, sound in self._sounds():
            quality = f"{getattr(sound, step)} " if step else ""
            names.append(f"the {quality}{display_class(scene_object.class_name)}")
        return ", then ".join(names) if len(names) != 1 else f"only {names[0]}"

    def _inferences(self) -> list[str]:
        target, rule = self.target, self.reference.rule
        if target is None:
            return list(_NOTHING_FITS)
        name = display_class(target.class_name)
        phrases = [word_reference(rule, self.reference.value, wording) for wording in range(len(RULES[rule].wordings))]
        if rule == "class":
            return [f"The reference names the {name}.", f"The {name} is named."]
        return [f"{phrase} is the {name}." for phrase in phrases]


def _join(items: object) -> str:
    texts = list(items)  # type: ignore[call-overload]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def write_reasoning(facts: Facts, style: str, rng: np.random.Generator, null_reasons: bool = False) -> str:
    """
    The true reasoning, up to the class sentence.

    Args:
        facts (`Facts`): what is true.
        style (`str`): `"flexible"`, the paper's free order and wording, or `"fixed"` (AURORA, table 8).
        rng (`np.random.Generator`): chooses order and wording.
        null_reasons (`bool`, *optional*, defaults to `False`): where nothing fits, say why.

    Returns:
        `str`: 15 to 60 words.

    Raises:
        `ValueError`: for another style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; use one of {', '.join(STYLES)}")
    kinds = ["seen", "heard"]
    if style == "flexible":
        # It says what the reference needs, now and then more, in the order that occurs to it.
        needed = {"sight": ["seen"], "hearing": ["heard"], "both": kinds}[facts.reference.kind]
        kinds = [kind for kind in kinds if kind in needed or rng.random() < _EXTRA_SHARE]
        if rng.random() < 0.5:
            kinds.reverse()
    return " ".join(_pick(rng, facts.sentences(kind, style, null_reasons)) for kind in [*kinds, "inference", "class"])


def _pick(rng: np.random.Generator, sentences: Sequence[str]) -> str:
    return sentences[int(rng.integers(len(sentences)))]


def kind_of(sentence: str) -> str | None:
    """Which kind a sentence is meant to be, true or not; None where it is of none."""
    text = sentence.lower()
    if "the target is" in text:
        return "class"
    if text.startswith(("i see", "the frames show", "there is a", "seen:")):
        return "seen"
    if text.startswith(("i hear", "the sound comes", "there is no sound", "heard:")):
        return "heard"
    if text.startswith(("the ", "inference:", "nothing in", "no object")):
        return "inference"
    return None
