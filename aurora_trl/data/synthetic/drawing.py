"""Frames and masks of a scene."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .scene import COLOURS, NUM_FRAMES, Scene, SceneObject

_SUPERSAMPLING = 4

# A part is (kind, coordinates in [-1, 1] from the left and from the top, 1 for ink or 0 for a hole, width of a line).
_Part = tuple[str, tuple[float, ...], int, float]


def _box(*corners: float, ink: int = 1) -> _Part:
    return ("box", corners, ink, 0.0)


def _disc(*corners: float, ink: int = 1) -> _Part:
    return ("disc", corners, ink, 0.0)


def _area(*points: float, ink: int = 1) -> _Part:
    return ("area", points, ink, 0.0)


def _line(*points: float, width: float, ink: int = 1) -> _Part:
    return ("line", points, ink, width)


SILHOUETTES: dict[str, tuple[_Part, ...]] = {
    "drum": (_box(-1, -0.5, 1, 0.5), _disc(-1, -0.85, 1, -0.15), _disc(-1, 0.15, 1, 0.85)),
    "piano": (_box(-1, -0.7, 1, 0.05), _box(-1, 0, -0.62, 1), _box(0.62, 0, 1, 1)),
    "guitar": (
        _disc(-0.78, 0, 0.78, 1),
        _disc(-0.52, -0.45, 0.52, 0.35),
        _box(-0.15, -1, 0.15, -0.2),
        _box(-0.3, -1, 0.3, -0.78),
        _disc(-0.22, 0.2, 0.22, 0.6, ink=0),
    ),
    "trumpet": (
        _box(-1, -0.22, 0.6, 0.12),
        _area(1, -0.85, 1, 0.75, 0.25, 0.12, 0.25, -0.22),
        _box(-0.55, -0.6, -0.35, 0),
        _box(-0.2, -0.6, 0, 0),
        _box(-1, -0.4, -0.82, 0.3),
    ),
    "violin": (_area(-0.85, -1, 0.85, -1, 0.16, 0, 0.85, 1, -0.85, 1, -0.16, 0),),
    "flute": (_line(-0.84, 0.62, 0.84, -0.62, width=0.44),),
    "hand-bell": (
        _area(-0.9, -1, 0.9, -1, 0.35, 0.05, -0.35, 0.05),
        _disc(-0.48, 0.05, 0.48, 1),
        _disc(-0.22, 0.31, 0.22, 0.74, ink=0),
    ),
    "bell": (
        _disc(-0.6, -1, 0.6, 0.4),
        _area(-0.6, -0.3, 0.6, -0.3, 1, 0.65, -1, 0.65),
        _disc(-0.26, 0.45, 0.26, 1),
    ),
    "harp": (_area(-0.95, 1, -0.95, -1, 1, 1), _area(-0.58, 0.66, -0.58, -0.12, 0.2, 0.66, ink=0)),
    "saxophone": (
        _line(0.85, -0.85, 0.42, -0.75, 0.36, 0.3, 0.12, 0.7, -0.25, 0.75, -0.55, 0.45, width=0.38),
        _area(-1, -0.2, -0.2, -0.2, -0.38, 0.6, -0.74, 0.55),
    ),
    "tambourine": (_disc(-1, -1, 1, 1), _disc(-0.55, -0.55, 0.55, 0.55, ink=0)),
}


@lru_cache(maxsize=512)
def silhouette(class_name: str, side: int) -> np.ndarray:
    """
    The shape of a class.

    Args:
        class_name (`str`): from `CLASSES`.
        side (`int`): of the box around it, in pixels.

    Returns:
        `np.ndarray` of shape `(side, side)`, float32: the share of each pixel that the shape covers, in [0, 1].
    """
    full = side * _SUPERSAMPLING
    image = Image.new("L", (full, full), 0)
    pen = ImageDraw.Draw(image)
    for kind, coordinates, ink, width in SILHOUETTES[class_name]:
        points = [(value + 1) / 2 * (full - 1) for value in coordinates]
        if kind == "box":
            pen.rectangle(points, fill=255 * ink)
        elif kind == "disc":
            pen.ellipse(points, fill=255 * ink)
        elif kind == "area":
            pen.polygon(points, fill=255 * ink)
        else:
            pen.line(points, fill=255 * ink, width=round(width / 2 * full), joint="curve")
    shape = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
    shape.flags.writeable = False  # shared by all who ask for it
    return shape


def visible_area(scene_object: SceneObject) -> float:
    """Area of an object as a share of the image's."""
    return float(silhouette(scene_object.class_name, 64).mean()) * (2 * scene_object.radius) ** 2


def draw_clip(scene: Scene, image_size: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """
    Draw all frames of a scene.

    Args:
        scene (`Scene`): what to draw.
        image_size (`int`): side of the frames, in pixels.

    Returns:
        frames (`np.ndarray` of shape `(10, H, W, 3)`, uint8, RGB) and, for each object's number, its masks
        (`np.ndarray` of shape `(10, H, W)`, uint8, 0 or 255).
    """
    frames = np.repeat(_background(scene, image_size)[None], NUM_FRAMES, axis=0)  # (10, H, W, 3)
    masks = {}
    for scene_object in scene.objects:
        side = max(4, round(2 * scene_object.radius * image_size))
        shape = silhouette(scene_object.class_name, side)
        # Lighter at the top: a plain fill would make the sizes of pixels visible and nothing else.
        shade = np.linspace(1.04, 0.84, side, dtype=np.float32)[:, None, None]
        fill = np.minimum(shade * np.array(COLOURS[scene_object.colour], np.float32), 255)  # (side, 1, 3)
        object_masks = np.zeros((NUM_FRAMES, image_size, image_size), np.uint8)
        for frame, mask, (x, y) in zip(frames, object_masks, scene_object.path, strict=True):
            left, top = round(x * image_size - side / 2), round(y * image_size - side / 2)
            window = (slice(top, top + side), slice(left, left + side))
            frame[window] += shape[..., None] * (fill - frame[window])
            mask[window] = np.where(shape >= 0.5, 255, 0)
        masks[scene_object.number] = object_masks
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8), masks


def _background(scene: Scene, image_size: int) -> np.ndarray:
    """Soft blotches of low contrast with fine grain, `(H, W, 3)` float32."""
    rng = np.random.default_rng(scene.texture_seed)
    coarse = rng.uniform(0, 255, (7, 7)).astype(np.uint8)
    blotches = Image.fromarray(coarse).resize((image_size, image_size), Image.Resampling.BICUBIC)
    texture = (np.asarray(blotches, np.float32) / 255 - 0.5) * 36
    texture = texture + rng.normal(0, 3, (image_size, image_size)).astype(np.float32)
    return texture[..., None] + np.array(scene.background, np.float32)
