"""Masks over a frame: a tint that leaves the object visible, a contour, and the true contour."""

from itertools import cycle
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageFilter

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart: one for each object of an answer.
MASK_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
)
# The truth differs in form too: a white line between dark ones, with nothing inside, is seen on any picture.
TRUTH_COLOR = (255, 255, 255)
CASING_COLOR = (0, 0, 0)
TINT = 0.4
# Lines are one pixel wide, and one more for so many pixels of a picture's longer side.
_PIXELS_PER_LINE = 350


def overlay_masks(
    frame: np.ndarray,
    predicted: np.ndarray,
    target: np.ndarray | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """
    A frame with the predicted mask tinted and outlined, and the true one outlined in white.

    Args:
        frame (`np.ndarray` of shape `(H, W, 3)`, uint8): RGB.
        predicted (`np.ndarray` of shape `(H, W)` or `(N, H, W)`): in {0, 1}; each of several objects has its colour,
            and where they overlap the first one lies on top.
        target (`np.ndarray` of shape `(H, W)`, *optional*): in {0, 1}; other values, such as `NO_TARGET`, are no
            object. No white line without it.
        size (`tuple[int, int]`, *optional*): height and width of the picture in pixels; the frame's by default. Masks
            are scaled smoothly, and lines are drawn at this size.

    Returns:
        `np.ndarray` of shape `(H, W, 3)` or `(*size, 3)`, uint8.
    """
    height, width = size or frame.shape[:2]
    picture = Image.fromarray(frame)
    if (height, width) != frame.shape[:2]:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    line = 1 + max(height, width) / _PIXELS_PER_LINE
    planes = [*predicted.reshape(-1, *predicted.shape[-2:]), *([] if target is None else [target])]
    scaled = [_scale(plane == 1, (height, width)) for plane in planes]
    box = _bounds(scaled, margin=int(3 * line) + 2)
    if box is None:
        return np.array(picture)
    inside = np.array(picture.crop(box), np.float32)
    parts = [plane.crop(box) for plane in scaled]
    drawn = list(zip(parts[: len(planes) - (target is not None)], cycle(MASK_COLORS), strict=False))
    free = np.ones((*inside.shape[:2], 1), np.float32)
    for part, color in drawn:
        share = free * (np.asarray(part, np.float32) / 255)[..., None]
        inside += TINT * share * (np.array(color, np.float32) - inside)
        free -= share
    lines = [*reversed(drawn), *([] if target is None else [(parts[-1], TRUTH_COLOR)])]
    for part, color in lines:
        for reach, paint in ((line / 2 + line / 3, CASING_COLOR), (line / 2, color)):
            inside += _band(part, line, reach)[..., None] * (np.array(paint, np.float32) - inside)
    picture.paste(Image.fromarray(inside.round().astype(np.uint8)), box[:2])
    return np.array(picture)


def _scale(plane: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A mask as a grey picture of this height and width."""
    image = Image.fromarray(plane.astype(np.uint8) * 255)
    return image if plane.shape == size else image.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _bounds(planes: list[Image.Image], margin: int) -> tuple[int, int, int, int] | None:
    """Left, upper, right and lower edge of all that is drawn, with a margin; None where nothing is."""
    boxes = [box for plane in planes if (box := plane.getbbox()) is not None]
    if not boxes:
        return None
    left, upper, right, lower = zip(*boxes, strict=True)
    width, height = planes[0].size
    return (
        max(0, min(left) - margin),
        max(0, min(upper) - margin),
        min(width, max(right) + margin),
        min(height, max(lower) + margin),
    )


def _band(plane: Image.Image, sigma: float, reach: float) -> np.ndarray:
    """
    How much each pixel belongs to a line along a mask's edge: `(H, W)` in [0, 1].

    A mask that is blurred by a Gaussian tells how far its edge is: sigma times the inverse of the normal distribution.

    Args:
        plane (`Image.Image`): the mask, 0 to 255.
        sigma (`float`): of the blur, in pixels.
        reach (`float`): half of the line's width, in pixels.
    """
    normal = NormalDist(sigma=sigma)
    distances = [np.inf, *(abs(normal.inv_cdf(value / 255)) for value in range(1, 255)), np.inf]
    shares = np.clip(reach + 0.5 - np.array(distances), 0, 1).astype(np.float32)
    return shares[np.asarray(plane.filter(ImageFilter.GaussianBlur(sigma)))]
