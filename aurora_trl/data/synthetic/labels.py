"""What is true about a clip, as numbers: what stands in each place of a grid, and which sounds there are."""

from collections.abc import Sequence

import torch

from .scene import COLOURS, SEEN_CLASSES, SIZES, STEPS, SceneObject

IGNORED = -100  # nothing is asked there

# Number 0 of each is "no object".
PLACE_LABELS: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "class": SEEN_CLASSES, "size": tuple(SIZES)}
SOUND_LABELS = SEEN_CLASSES
SOUND_STEPS: dict[str, tuple[str, ...]] = {name: tuple(steps) for name, steps in STEPS.items()}


def place_labels(objects: Sequence[SceneObject], side: int) -> torch.Tensor:
    """
    What stands in each place of a grid over the image.

    Args:
        objects (`Sequence[SceneObject]`): all objects of a clip.
        side (`int`): rows and columns of the grid.

    Returns:
        `torch.Tensor` of shape `(3, side, side)`, long: colour, class and size of the object whose middle half reaches
        into the place, counted from 1; 0 where there is none. A class that is never trained on is `IGNORED`.
    """
    labels = torch.zeros(len(PLACE_LABELS), side, side, dtype=torch.long)
    centres = (torch.arange(side) + 0.5) / side
    for o in objects:
        reach = 0.5 / side + 0.5 * o.radius
        inside = ((centres - o.y).abs() < reach)[:, None] & ((centres - o.x).abs() < reach)
        for values, label, value in zip(PLACE_LABELS.values(), labels, (o.colour, o.class_name, o.size), strict=True):
            label[inside] = values.index(value) + 1 if value in values else IGNORED
    return labels


def sound_labels(objects: Sequence[SceneObject]) -> torch.Tensor:
    """
    Which classes sound, and how.

    Args:
        objects (`Sequence[SceneObject]`): all objects of a clip.

    Returns:
        `torch.Tensor` of shape `(K, 1 + 4)`, long, for the classes of `SOUND_LABELS`: 1 where it sounds, else 0; then
        the numbers of its `SOUND_STEPS`, `IGNORED` where it does not.
    """
    labels = torch.full((len(SOUND_LABELS), 1 + len(SOUND_STEPS)), IGNORED)
    labels[:, 0] = 0
    for o in objects:
        if o.sound is not None and o.class_name in SOUND_LABELS:
            steps = [values.index(getattr(o.sound, name)) for name, values in SOUND_STEPS.items()]
            labels[SOUND_LABELS.index(o.class_name)] = torch.tensor([1, *steps])
    return labels
