"""References to the objects of a scene: what each rule means, how it is worded, and which ones a clip gets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...prompts import display_class
from .drawing import visible_area
from .scene import COLOURS, CONFUSABLE, POSITION_MARGIN, SEEN_CLASSES, SceneObject

# Shares of the kinds among the references that are asked for. A clip with one sound or none has few to offer that need
# hearing, so the share of sight comes out higher than it stands here.
KIND_SHARES = {"sight": 0.36, "hearing": 0.47, "both": 0.17}
AREA_MARGIN = 1.3

Objects = Sequence[SceneObject]
_Pick = Callable[[Objects, str | None], SceneObject | None]


@dataclass(frozen=True)
class Reference:
    """
    One reference about one clip.

    Args:
        kind (`str`): what it takes to resolve it: `sight`, `hearing` or `both`.
        rule (`str`): key of `RULES`.
        value (`str`, *optional*): the class or colour that it names.
        target (`int`): number of the object that it means, 0 where it matches nothing.
        text (`str`): its wording.
    """

    kind: str
    rule: str
    value: str | None
    target: int
    text: str


@dataclass(frozen=True)
class Rule:
    """
    A way to refer to an object.

    Args:
        kind (`str`): `sight`, `hearing` or `both`.
        pick (`Callable`): the one object that fits, None where none or several do, or where the margin is too small.
        wordings (`tuple` of `str`): noun phrases with the place `{value}`; the first is the plainest.
    """

    kind: str
    pick: _Pick
    wordings: tuple[str, ...]


def _only(objects: Objects) -> SceneObject | None:
    return objects[0] if len(objects) == 1 else None


def _sounding(objects: Objects) -> list[SceneObject]:
    return [o for o in objects if o.sound is not None]


def _silent(objects: Objects) -> list[SceneObject]:
    return [o for o in objects if o.sound is None]


def _at_end(axis: str, sign: int) -> Callable[[Objects], SceneObject | None]:
    """The object furthest along an axis, where it alone is in the outer zone and the next is clearly behind."""

    def pick(objects: Objects) -> SceneObject | None:
        ranked = sorted(objects, key=lambda o: sign * getattr(o, axis))
        if len(ranked) < 2:
            return None
        zone = "column" if axis == "x" else "row"
        end = {("x", 1): "left", ("x", -1): "right", ("y", 1): "top", ("y", -1): "bottom"}[axis, sign]
        ahead = sign * (getattr(ranked[1], axis) - getattr(ranked[0], axis)) >= POSITION_MARGIN
        alone = [getattr(o, zone) for o in ranked].count(end) == 1
        return ranked[0] if ahead and alone else None

    return pick


def _extreme_size(sign: int) -> _Pick:
    def pick(objects: Objects, value: str | None) -> SceneObject | None:
        target = _only([o for o in objects if o.size == ("large" if sign > 0 else "small")])
        if target is None or len(objects) < 2:
            return None
        # A thin shape in a large box can look small, so the areas have to agree with the sizes.
        area = visible_area(target)
        others = [visible_area(o) for o in objects if o is not target]
        clear = all(area >= AREA_MARGIN * other if sign > 0 else other >= AREA_MARGIN * area for other in others)
        return target if clear else None

    return pick


def _extreme_sound(attribute: str, highest: bool) -> _Pick:
    def pick(objects: Objects, value: str | None) -> SceneObject | None:
        ranked = sorted(_sounding(objects), key=lambda o: getattr(o.sound, attribute), reverse=highest)
        return ranked[0] if len(ranked) >= 2 else None

    return pick


def _silent_beside(sign: int) -> _Pick:
    def pick(objects: Objects, value: str | None) -> SceneObject | None:
        source = _only(_sounding(objects))
        if source is None:
            return None
        ahead = [(sign * (source.x - o.x), o) for o in _silent(objects)]
        # Neither a second candidate nor one that is about level with the source.
        target = _only([o for distance, o in ahead if distance > -POSITION_MARGIN / 2])
        return target if target is not None and sign * (source.x - target.x) >= POSITION_MARGIN else None

    return pick


_LEFT, _RIGHT, _TOP, _BOTTOM = _at_end("x", 1), _at_end("x", -1), _at_end("y", 1), _at_end("y", -1)

RULES: dict[str, Rule] = {
    "class": Rule(
        "sight",
        lambda objects, value: _only([o for o in objects if o.class_name == value]),
        ("the {value}", "the {value} in the clip", "the instrument that is a {value}"),
    ),
    "colour": Rule(
        "sight",
        lambda objects, value: _only([o for o in objects if o.colour == value]),
        ("the {value} object", "the {value} instrument", "the object that is {value}"),
    ),
    "left": Rule(
        "sight",
        lambda objects, value: _LEFT(objects),
        ("the object on the left", "the instrument on the left", "the leftmost object"),
    ),
    "right": Rule(
        "sight",
        lambda objects, value: _RIGHT(objects),
        ("the object on the right", "the instrument on the right", "the rightmost object"),
    ),
    "top": Rule("sight", lambda objects, value: _TOP(objects), ("the object at the top", "the instrument at the top")),
    "bottom": Rule(
        "sight", lambda objects, value: _BOTTOM(objects), ("the object at the bottom", "the instrument at the bottom")
    ),
    "largest": Rule("sight", _extreme_size(1), ("the largest object", "the largest instrument")),
    "smallest": Rule("sight", _extreme_size(-1), ("the smallest object", "the smallest instrument")),
    "sounding": Rule(
        "hearing",
        lambda objects, value: _only(_sounding(objects)),
        ("the object that sounds", "the instrument that sounds", "the sounding object"),
    ),
    "loudest": Rule(
        "hearing",
        _extreme_sound("rms", True),
        ("the loudest object", "the object that sounds loudest", "the loudest instrument"),
    ),
    "first": Rule(
        "hearing",
        _extreme_sound("onset_seconds", False),
        ("the object that starts to sound first", "the first object to sound", "the instrument that starts first"),
    ),
    "last": Rule(
        "hearing",
        _extreme_sound("onset_seconds", True),
        ("the object that starts to sound last", "the last object to sound", "the instrument that starts last"),
    ),
    "fastest": Rule(
        "hearing",
        _extreme_sound("pulses_per_second", True),
        ("the object with the fastest rhythm", "the instrument with the fastest rhythm"),
    ),
    "shortest": Rule(
        "hearing",
        _extreme_sound("duration_seconds", False),
        ("the object with the shortest sound", "the instrument with the shortest sound"),
    ),
    "silent": Rule(
        "both",
        lambda objects, value: _only(_silent(objects)) if _sounding(objects) else None,
        ("the silent object", "the object that is silent", "the instrument that makes no sound"),
    ),
    "silent_left_of": Rule(
        "both",
        _silent_beside(1),
        ("the silent object left of the one that sounds", "the silent instrument left of the sounding one"),
    ),
    "silent_right_of": Rule(
        "both",
        _silent_beside(-1),
        ("the silent object right of the one that sounds", "the silent instrument right of the sounding one"),
    ),
    "sounding_left": Rule(
        "both",
        lambda objects, value: _LEFT(_sounding(objects)),
        ("the sounding object on the left", "the instrument on the left that sounds"),
    ),
    "sounding_right": Rule(
        "both",
        lambda objects, value: _RIGHT(_sounding(objects)),
        ("the sounding object on the right", "the instrument on the right that sounds"),
    ),
}


def values_of(rule: str) -> tuple[str | None, ...]:
    """What a rule can name in a clip of seen classes: classes, colours, or nothing."""
    return {"class": SEEN_CLASSES, "colour": tuple(COLOURS)}.get(rule, (None,))


def word_reference(rule: str, value: str | None, wording: int) -> str:
    """A reference as it is written: `The red object`."""
    text = RULES[rule].wordings[wording].format(value=display_class(value or ""))
    return text[0].upper() + text[1:]


def matches_nothing(objects: Objects, rule: str, value: str | None) -> bool:
    """
    Whether a reference by this rule clearly means no object of the clip.

    Args:
        objects (`Sequence[SceneObject]`): all objects of the clip.
        rule (`str`): key of `RULES`.
        value (`str`, *optional*): the class or colour that it names.
    """
    if rule == "class":
        names = {o.class_name for o in objects}
        return value not in names and not (value in CONFUSABLE and names & CONFUSABLE)
    if rule == "colour":
        return value not in {o.colour for o in objects}
    if rule == "silent":
        return not _silent(objects)
    return RULES[rule].kind == "hearing" and not _sounding(objects)


def sample_references(
    rng: np.random.Generator, objects: Objects, count: int, *, only_classes: Sequence[str] | None = None
) -> list[Reference]:
    """
    Choose references that each mean exactly one object.

    Args:
        rng (`np.random.Generator`): all chance comes from it.
        objects (`Sequence[SceneObject]`): all objects of the clip.
        count (`int`): how many.
        only_classes (`Sequence[str]`, *optional*): classes that a target may have; any where it is None.

    Returns:
        `list[Reference]`: `count`, fewer where the clip offers fewer; no two have the same text.
    """
    pools: dict[str, dict[str, list[Reference]]] = {kind: {} for kind in KIND_SHARES}
    for name, rule in RULES.items():
        for value in {"class": [o.class_name for o in objects], "colour": [o.colour for o in objects]}.get(
            name, [None]
        ):
            target = rule.pick(objects, value)
            if target is not None and (only_classes is None or target.class_name in only_classes):
                pools[rule.kind].setdefault(name, []).extend(_worded(name, value, target.number))
    return _sample(rng, pools, count)


def sample_null_references(rng: np.random.Generator, objects: Objects, count: int) -> list[Reference]:
    """
    Choose references that match nothing in the clip: an absent class or colour, a sound where all is silent.

    Args:
        rng (`np.random.Generator`): all chance comes from it.
        objects (`Sequence[SceneObject]`): all objects of the clip.
        count (`int`): how many.
    """
    pools: dict[str, dict[str, list[Reference]]] = {kind: {} for kind in KIND_SHARES}
    for name, rule in RULES.items():
        for value in values_of(name):
            if matches_nothing(objects, name, value):
                pools[rule.kind].setdefault(name, []).extend(_worded(name, value, 0))
    return _sample(rng, pools, count)


def _worded(rule: str, value: str | None, target: int) -> list[Reference]:
    kind, wordings = RULES[rule].kind, RULES[rule].wordings
    return [Reference(kind, rule, value, target, word_reference(rule, value, i)) for i in range(len(wordings))]


def _sample(rng: np.random.Generator, pools: dict[str, dict[str, list[Reference]]], count: int) -> list[Reference]:
    """Draw a kind, then a rule, then a reference; a meaning that is taken comes again only when no other is left."""
    chosen: list[Reference] = []
    while len(chosen) < count:
        kinds = [kind for kind in KIND_SHARES if pools[kind]]
        if not kinds:
            break
        shares = np.array([KIND_SHARES[kind] for kind in kinds])
        pool = pools[kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]]
        taken = {(reference.rule, reference.value) for reference in chosen}
        fresh = {rule: [r for r in group if (r.rule, r.value) not in taken] for rule, group in pool.items()}
        fresh = {rule: group for rule, group in fresh.items() if group} or pool
        rule = list(fresh)[int(rng.integers(len(fresh)))]
        reference = fresh[rule][int(rng.integers(len(fresh[rule])))]
        chosen.append(reference)
        pool[rule].remove(reference)
        if not pool[rule]:
            del pool[rule]
    return chosen
