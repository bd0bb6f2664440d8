"""Rows with one modality taken from another clip: what a model does not use, it does not miss."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ..data.hints import HINTS
from ..data.media.sound import open_track
from ..data.schema import REFERENCE_MEDIA, Row, clip_key

MODALITIES = ("audio", "video", "reference")
# Which frames of a clip are taken is up to what marks its object.
_PICTURE = ("frames", "video", "masks", *HINTS)
_REFERENCE = ("reference", *REFERENCE_MEDIA)


def swap_modality(rows: Sequence[Row], modality: str) -> list[dict[str, Any]]:
    """
    The rows with one modality taken from another row's clip.

    The sound of a row is its `audio`, or else the track of its `video`; a row without one keeps its silence.

    Args:
        rows (`list[dict]`): dataset rows of at least two clips.
        modality (`str`): `"audio"`, `"video"` or `"reference"`.

    Returns:
        `list[dict]`: new rows; row i has the modality of the next row, half the list further on, with another clip
            that has one to give.

    Raises:
        `ValueError`: for an unknown modality, or where a row finds no clip to take it from.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; use one of {', '.join(MODALITIES)}")
    if len({clip_key(row) for row in rows}) < 2:
        raise ValueError(f"{modality} can not be swapped: all {len(rows)} rows show one clip")
    has_track = cache(_has_track)  # of this call: a file may be another one in the next
    sounds = [row.get("audio") or (row["video"] if has_track(row.get("video")) else None) for row in rows]
    if modality == "audio" and not any(sounds):
        raise ValueError(f"audio can not be swapped: none of the {len(rows)} rows has sound")
    swapped: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if modality == "audio" and sounds[i] is None:
            swapped.append(dict(row))
            continue

        def fits(other: int, own: int = i) -> bool:
            if clip_key(rows[other]) == clip_key(rows[own]):
                return False
            if modality == "audio":
                return sounds[other] is not None
            if modality == "reference":
                return any(rows[other].get(name) != rows[own].get(name) for name in _REFERENCE)
            # A row without sound can take no video that brings its own.
            return sounds[own] is not None or not has_track(rows[other].get("video"))

        other = _next(len(rows), i, fits)
        if other is None:
            raise ValueError(f"{modality} can not be swapped: {_WHY_NOT[modality].format(id=row.get('id'))}")
        if modality == "audio":
            taken: dict[str, Any] = {"audio": sounds[other]}
        elif modality == "video":
            taken = {**{name: rows[other].get(name) for name in _PICTURE if name in row}, "audio": sounds[i]}
        else:
            taken = {name: rows[other].get(name) for name in _REFERENCE if name in row}
        swapped.append({**row, **taken})
    return swapped


_WHY_NOT = {
    "audio": "no clip but that of row {id!r} has sound",
    "video": "row {id!r} has no sound, and each other clip is a video with a sound of its own",
    "reference": "no row about another clip than that of {id!r} asks for anything else",
}


def _next(count: int, own: int, fits: Callable[[int], bool]) -> int | None:
    """The first row that fits, half the list behind a row and then on."""
    places = ((own + count // 2 + step) % count for step in range(count))
    return next((place for place in places if fits(place)), None)


def _has_track(video: str | None) -> bool:
    if not video:
        return False
    with open_track(video) as track:
        return track is not None
