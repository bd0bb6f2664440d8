"""What there is in a clip of the synthetic world: instruments, where they are, how they look and how they sound."""

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_FRAMES = 10
CLIP_SECONDS = 10.0

SEEN_CLASSES = ("drum", "piano", "guitar", "trumpet", "violin", "flute", "hand-bell", "bell")
UNSEEN_CLASSES = ("harp", "saxophone", "tambourine")
CLASSES = SEEN_CLASSES + UNSEEN_CLASSES
# Two names that a reader can mix up never stand in one clip: "the bell" has to be clear.
CONFUSABLE = frozenset(("bell", "hand-bell"))

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 44, 40),
    "green": (52, 176, 62),
    "blue": (54, 92, 236),
    "yellow": (242, 214, 40),
    "purple": (158, 54, 198),
    "cyan": (56, 210, 218),
    "orange": (246, 138, 30),
    "white": (242, 242, 242),
}

# What an instrument mostly looks like, as in life: a model can recognise it by that, and then has to learn its shape
# for the times when it looks otherwise. The unseen classes borrow colours of seen ones: shape alone tells them apart.
TYPICAL_COLOURS = dict(
    zip(
        SEEN_CLASSES + UNSEEN_CLASSES,
        ("red", "white", "orange", "yellow", "purple", "cyan", "green", "blue", "yellow", "orange", "white"),
        strict=True,
    )
)
_TYPICAL_SHARE = 0.85

# Radius as a share of the image's side. The gap between the sizes is what makes "the largest object" clear.
SIZES: dict[str, tuple[float, float]] = {"small": (0.110, 0.120), "large": (0.155, 0.170)}

# Steps of a sound, each with the range that its value is drawn from; the gaps between ranges are the margins.
LOUDNESS: dict[str, tuple[float, float]] = {"soft": (0.012, 0.015), "moderate": (0.040, 0.050), "loud": (0.13, 0.16)}
ONSETS: dict[str, tuple[float, float]] = {"early": (0.0, 0.8), "midway": (3.0, 3.8), "late": (6.0, 6.5)}
RHYTHMS: dict[str, tuple[float, float]] = {"slow": (1.0, 1.0), "steady": (2.0, 2.0), "fast": (4.0, 4.0)}
DURATIONS: dict[str, tuple[float, float]] = {"short": (1.5, 1.8), "medium": (3.0, 3.4), "long": (5.2, 5.8)}
STEPS: dict[str, dict[str, tuple[float, float]]] = {
    "loudness": LOUDNESS,
    "onset": ONSETS,
    "rhythm": RHYTHMS,
    "duration": DURATIONS,
}

# Horizontal and vertical thirds, by the centre of the path.
LOW_ZONE, HIGH_ZONE = 0.42, 0.58
POSITION_MARGIN = 0.15

_SWAY = 0.03  # largest distance of an object from the centre of its path
_GAP = 0.02  # smallest distance between the circles around two objects
_EDGE = 0.01

# How many objects, and how many of them sound: rows are the number of objects, columns the number of sounds.
_OBJECT_COUNTS = (0.08, 0.62, 0.24, 0.06)
_SOUND_COUNTS = ((0.15, 0.85, 0.0, 0.0), (0.05, 0.40, 0.55, 0.0), (0.05, 0.27, 0.43, 0.25), (0.05, 0.20, 0.40, 0.35))


@dataclass(frozen=True)
class Sound:
    """
    The one sound of an object.

    Args:
        loudness, onset, rhythm, duration (`str`): steps, keys of `STEPS`.
        rms (`float`): root mean square while it sounds, of full scale.
        onset_seconds, duration_seconds (`float`): start and length.
        pulses_per_second (`float`): rhythm.
    """

    loudness: str
    onset: str
    rhythm: str
    duration: str
    rms: float
    onset_seconds: float
    duration_seconds: float
    pulses_per_second: float


@dataclass(frozen=True)
class SceneObject:
    """
    One instrument.

    Args:
        number (`int`): from 1, the `fid` of its masks.
        class_name, colour, size (`str`): from `CLASSES`, `COLOURS`, `SIZES`.
        radius (`float`): half the side of the box around it, as a share of the image's side.
        x, y (`float`): centre of its path in [0, 1], from the left and from the top.
        path (`tuple` of 10 pairs): centre in each frame, in the same unit.
        sound (`Sound`, *optional*): None where it is silent.
    """

    number: int
    class_name: str
    colour: str
    size: str
    radius: float
    x: float
    y: float
    path: tuple[tuple[float, float], ...]
    sound: Sound | None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SceneObject":
        """The object that `dataclasses.asdict` and JSON took apart."""
        sound = Sound(**values["sound"]) if values["sound"] is not None else None
        path = tuple((float(x), float(y)) for x, y in values["path"])
        return cls(**{**values, "sound": sound, "path": path})

    @property
    def column(self) -> str:
        """`left`, `middle` or `right`."""
        return "left" if self.x < LOW_ZONE else "right" if self.x > HIGH_ZONE else "middle"

    @property
    def row(self) -> str:
        """`top`, `middle` or `bottom`."""
        return "top" if self.y < LOW_ZONE else "bottom" if self.y > HIGH_ZONE else "middle"


@dataclass(frozen=True)
class Scene:
    """
    A clip before it is drawn.

    Args:
        objects (`tuple` of `SceneObject`): 1 to 4, of distinct classes and colours, which do not overlap.
        background (`tuple` of 3 `int`): mean colour behind them.
        texture_seed (`int`): of the background's texture and of the noise below the sounds.
    """

    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]
    texture_seed: int


def sample_scene(rng: np.random.Generator, *, unseen: bool = False, silent: bool | None = None) -> Scene:
    """
    Draw a scene at random.

    Args:
        rng (`np.random.Generator`): all chance comes from it.
        unseen (`bool`, *optional*, defaults to False): whether classes that are never trained on take part; at least
            one then does.
        silent (`bool`, *optional*): True for a clip in which nothing sounds, False for one in which something does;
            left to chance where it is None.

    Returns:
        `Scene`.
    """
    count = 1 + int(rng.choice(4, p=_OBJECT_COUNTS))
    if unseen:
        count = max(2, count)
    class_names = _sample_classes(rng, count, unseen)
    colours = _sample_colours(rng, class_names)
    sizes = [str(rng.choice(list(SIZES))) for _ in range(count)]
    radii = [_draw(rng, SIZES[size]) for size in sizes]
    places = _sample_places(rng, radii)
    sounds = _sample_sounds(rng, count, silent)
    objects = tuple(
        SceneObject(
            number=i + 1,
            class_name=class_names[i],
            colour=colours[i],
            size=sizes[i],
            radius=radii[i],
            x=places[i][0],
            y=places[i][1],
            path=_sample_path(rng, *places[i]),
            sound=sounds[i],
        )
        for i in range(count)
    )
    red, green, blue = (int(level) for level in rng.integers(40, 85, 3))
    return Scene(objects, (red, green, blue), int(rng.integers(2**31)))


def _draw(rng: np.random.Generator, span: tuple[float, float]) -> float:
    # Rounded, so that the truth on disk is exactly what was drawn.
    return round(float(rng.uniform(*span)), 4)


def _sample_classes(rng: np.random.Generator, count: int, unseen: bool) -> list[str]:
    num_unseen = int(rng.integers(1, min(count, len(UNSEEN_CLASSES)) + 1)) if unseen else 0
    while True:
        names = rng.permutation(list(UNSEEN_CLASSES))[:num_unseen].tolist()
        names += rng.permutation(list(SEEN_CLASSES))[: count - num_unseen].tolist()
        if not CONFUSABLE.issubset(names):
            return [str(name) for name in rng.permutation(names)]


def _sample_colours(rng: np.random.Generator, class_names: list[str]) -> list[str]:
    """Distinct colours, mostly the typical ones."""
    colours: list[str] = []
    for name in class_names:
        free = [colour for colour in COLOURS if colour not in colours]
        typical = TYPICAL_COLOURS[name]
        keep = typical in free and rng.random() < _TYPICAL_SHARE
        colours.append(typical if keep else free[int(rng.integers(len(free)))])
    return colours


def _sample_places(rng: np.random.Generator, radii: list[float]) -> list[tuple[float, float]]:
    for _ in range(10_000):
        places: list[tuple[float, float]] = []
        for radius in radii:
            border = radius + _SWAY + _EDGE
            # One object after the other, each where it still fits: all at once, four large ones hardly ever do.
            for _ in range(50):
                place = (_draw(rng, (border, 1 - border)), _draw(rng, (border, 1 - border)))
                distances = [np.hypot(place[0] - x, place[1] - y) for x, y in places]
                needed = [radius + other + 2 * _SWAY + _GAP for other in radii[: len(places)]]
                if all(distance >= need for distance, need in zip(distances, needed, strict=True)):
                    places.append(place)
                    break
            else:
                break
        if len(places) == len(radii):
            return places
    raise RuntimeError("no room for the objects of a scene")  # four of the largest fit in some hundred tries


def _sample_path(rng: np.random.Generator, x: float, y: float) -> tuple[tuple[float, float], ...]:
    sway = rng.uniform(0.3, 1.0, 2) * _SWAY / np.sqrt(2)
    phase = rng.uniform(0, 2 * np.pi, 2)
    # A whole turn in ten frames, so that the mean of the path is its centre.
    turn = 2 * np.pi * np.arange(NUM_FRAMES) / NUM_FRAMES
    xs, ys = x + sway[0] * np.sin(turn + phase[0]), y + sway[1] * np.sin(turn + phase[1])
    return tuple((round(float(a), 4), round(float(b), 4)) for a, b in zip(xs, ys, strict=True))


def _sample_sounds(rng: np.random.Generator, count: int, silent: bool | None) -> list[Sound | None]:
    shares = np.array(_SOUND_COUNTS[count - 1])
    if silent is not None:
        shares[0], shares[1:] = (1.0, 0.0) if silent else (0.0, shares[1:])
    num_sounds = int(rng.choice(4, p=shares / shares.sum()))
    sounding = rng.permutation(count)[:num_sounds]
    # No two sounds share a step, so that "the loudest", "the first" and the like are clear.
    while True:
        steps = {name: rng.permutation(list(spans))[:num_sounds].tolist() for name, spans in STEPS.items()}
        pairs = list(zip(steps["onset"], steps["duration"], strict=True))
        # The clip ends before these would.
        if ("late", "long") not in pairs and ("late", "medium") not in pairs:
            break
    sounds: list[Sound | None] = [None] * count
    for i, index in enumerate(sounding):
        names = {name: str(values[i]) for name, values in steps.items()}
        sounds[index] = Sound(
            **names,
            rms=_draw(rng, LOUDNESS[names["loudness"]]),
            onset_seconds=_draw(rng, ONSETS[names["onset"]]),
            duration_seconds=_draw(rng, DURATIONS[names["duration"]]),
            pulses_per_second=_draw(rng, RHYTHMS[names["rhythm"]]),
        )
    return sounds
