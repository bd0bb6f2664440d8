"""Masks over frames."""

from itertools import cycle

import numpy as np

# Of the objects that an answer draws: orange where there is one. None is near the outline's green.
_TINTS = ((255, 120, 0), (0, 140, 255), (230, 60, 200), (255, 225, 0), (130, 80, 255), (255, 60, 60))
_OUTLINE = (0, 220, 60)


def overlay_masks(frame: np.ndarray, predicted: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """
    A frame with the predicted mask tinted, orange where there is one, and the true one outlined in green.

    Args:
        frame (`np.ndarray` of shape `(H, W, 3)`, uint8): RGB.
        predicted (`np.ndarray` of shape `(H, W)` or `(N, H, W)`): in {0, 1}; of several objects each has its colour,
            and where they overlap the first one's lies on top.
        target (`np.ndarray` of shape `(H, W)`, *optional*): in {0, 1}; no outline without it.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`, uint8.
    """
    image = frame.astype(np.float32)
    masks = predicted.astype(bool).reshape(-1, *predicted.shape[-2:])
    free = np.ones_like(masks[0])
    for mask, tint in zip(masks, cycle(_TINTS), strict=False):
        image[mask & free] = 0.4 * image[mask & free] + 0.6 * np.array(tint, np.float32)
        free &= ~mask
    if target is not None:
        solid = target.astype(bool)
        padded = np.pad(solid, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        image[solid & ~core] = _OUTLINE
    return image.round().astype(np.uint8)
