"""Masks of a row: images, run lengths or outlines; and the official geometry of the score."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError
from .json_values import names_values, read_named
from .mask_images import read_mask_image
from .mask_text import decode_outlines, decode_polygons, decode_rle, encode_rle
from .media.images import open_image, upright_size
from .media.loading import NO_FRAME, count_frames, split_moment, taken_frames
from .media.video import index_video
from .schema import MASK_COLUMNS, Row, count_objects, split_mask

OFFICIAL_SIZE = 256
# In a batch's target masks, pixels that nothing is compared with: those outside the frame, in the padding of the
# decoder's square, and all of a frame that nobody annotated or that stands past the end of a short clip.
NO_TARGET = 255


def has_target(masks: torch.Tensor) -> torch.Tensor:
    """Which frames of target masks `(..., H, W)` are annotated: bool `(...)`. The frame begins at the top left."""
    return masks[..., 0, 0] != NO_TARGET


def frame_extents(masks: torch.Tensor) -> list[tuple[int, int]]:
    """
    How much of the decoder's square the frames of each clip take.

    Args:
        masks (`torch.Tensor` of shape `(B, T, M, M)`): targets in {0, 1} or `NO_TARGET`.

    Returns:
        `list[tuple[int, int]]`: height and width of each; the square's where none of its frames is annotated.
    """
    inside = (masks != NO_TARGET).any(dim=1)
    sizes = torch.stack([inside[..., 0].sum(dim=1), inside[:, 0].sum(dim=1)], dim=1).tolist()
    return [(height or masks.size(-2), width or masks.size(-1)) for height, width in sizes]


def mask_indices(row: Row, num_frames: int) -> list[int]:
    """
    Which mask belongs to each frame that a model sees.

    Args:
        row (`dict`): a dataset row.
        num_frames (`int`): frames that the model takes of a clip.

    Returns:
        `list[int]`: `num_frames` indices into the row's masks, which are the frames' numbers; -1 past the end of a
        short clip, and where a frame is not annotated.

    Raises:
        `DataError`: where the row has too few masks, or names a video that can not be read.
    """
    names = None if row.get("is_null") else row.get("masks")
    taken = taken_frames(row, num_frames)
    if names:
        require_mask_count(row, len(names))
    taken += [NO_FRAME] * (num_frames - len(taken))
    return [NO_FRAME if i == NO_FRAME or (names and names[i] is None) else i for i in taken]


def require_annotated(rows: Iterable[Row], why: str) -> None:
    """Raise `DataError` where a row that matches something has no mask in any frame; `why` says what needs one."""
    row = next((row for row in rows if not any(row.get("masks") or ()) and not row.get("is_null")), None)
    if row is not None:
        raise DataError(f"row {row['id']!r}: it has no masks, and {why} with them; leave such rows out")


def require_mask_count(row: Row, count: int, what: str = "masks") -> None:
    """Raise `DataError` where a row has not one mask for each frame of its clip: they go by frames' numbers."""
    total = count_frames(row)
    if count != total:
        raise DataError(
            f"row {row.get('id')!r}: {count} {what} for {total} frames; give one per frame, null for one that is not "
            "annotated" + ("" if row.get("frames") else f", or name moments in `frames`, as in {row['video']}#t=1.5")
        )


def load_masks(row: Row, indices: Sequence[int] | None = None) -> np.ndarray:
    """
    The target masks of a row.

    Args:
        row (`dict`): a dataset row. No mask file of a null row is ever read: its masks are empty.
        indices (`Sequence[int]`, *optional*): which frames, -1 for one that is not there; all by default. The mask of
            a frame that is not annotated is empty.

    Returns:
        `np.ndarray` of shape `(T, H, W)`, uint8, 0 or 1.

    Raises:
        `DataError`: names the row without masks, or the file that is missing or differs in size.
    """
    if row.get("is_null"):
        height, width = frame_size(row)
        count = len(indices) if indices is not None else len(row.get("frames") or ()) or 1
        return np.zeros((count, height, width), np.uint8)
    if not row.get("masks"):
        raise DataError(f"row {row.get('id')!r}: it has no masks")
    return _read_masks(row["masks"], row, indices)


def load_object_masks(row: Row, indices: Sequence[int] | None = None) -> np.ndarray | None:
    """
    The masks of a row's objects, each apart.

    Args:
        row (`dict`): a dataset row.
        indices (`Sequence[int]`, *optional*): as in `load_masks`.

    Returns:
        `np.ndarray` of shape `(N, T, H, W)`, uint8, 0 or 1; None where the row has them together, or none.

    Raises:
        `DataError`: as `load_masks`, and where the frames do not list the same objects.
    """
    listed = [None if name is None else split_mask(name) for name in row.get("masks") or ()]
    if row.get("is_null") or not any(listed):
        return None
    each = [[None if objects is None else objects[n] for objects in listed] for n in range(count_objects(row))]
    planes = [_read_masks(masks, row, indices) for masks in each]
    if len({masks.shape for masks in planes}) > 1:
        raise DataError(f"row {row.get('id')!r}: the masks of its objects differ in size")
    return np.stack(planes)


def _read_masks(names: Sequence[str | None], row: Row, indices: Sequence[int] | None) -> np.ndarray:
    """The named masks `(T, H, W)`; the others are empty."""
    wanted = range(len(names)) if indices is None else indices
    named = {i: name for i in wanted if i != NO_FRAME and (name := names[i]) is not None}
    found = {i: _read_mask(name, row) for i, name in named.items()}
    first = next(iter(found.values())) if found else np.zeros(frame_size(row), np.uint8)
    for i, mask in found.items():
        if mask.shape != first.shape:
            raise DataError(
                f"{_shown(named[i], row)}: {mask.shape[1]}x{mask.shape[0]} pixels, but the row's first mask has "
                f"{first.shape[1]}x{first.shape[0]}"
            )
    blank = np.zeros_like(first)
    return np.stack([found.get(i, blank) for i in wanted])


def frame_size(row: Row) -> tuple[int, int]:
    """Height and width of a row's upright frames in pixels, from the first one's header."""
    path, seconds = split_moment(row["frames"][0]) if row.get("frames") else (row["video"], 0.0)
    if seconds is not None:
        return index_video(path).size
    with open_image(path) as image:
        return upright_size(image)


def require_frame_size(row: Row, shape: tuple[int, ...]) -> None:
    """Raise `DataError` where a row's masks have another height and width in pixels than its frames."""
    size = frame_size(row)
    if not row.get("is_null") and tuple(shape) != size:
        raise DataError(
            f"row {row.get('id')!r}: its masks have {shape[1]}x{shape[0]} pixels, but the clip's frames have "
            f"{size[1]}x{size[0]}"
        )


def _read_mask(name: str, row: Row) -> np.ndarray:
    targets = split_mask(name)
    if targets is not None:
        drawn = [_read_mask(target, row) for target in targets if target is not None]
        if not drawn:
            return np.zeros(frame_size(row), np.uint8)
        if len({mask.shape for mask in drawn}) > 1:
            raise DataError(f"row {row.get('id')!r}: the masks of its objects differ in size")
        return np.bitwise_or.reduce(drawn)
    if name.startswith("{"):
        try:
            return decode_rle(name) if "polygons" not in name else decode_polygons(name, frame_size(row))
        except DataError as error:
            raise DataError(f"row {row.get('id')!r}: {error}") from None
    if names_values(name):
        return _read_annotations(name, row)
    return read_mask_image(name, row.get("mask_value"), f"mask (row {row.get('id')!r})")


def _read_annotations(name: str, row: Row) -> np.ndarray:
    """The union of the masks that stand in a JSON file: COCO's annotations, run lengths or outlines, or null."""
    drawn = []
    for value in read_named(name):
        value = value["segmentation"] if isinstance(value, dict) and "segmentation" in value else value
        if value is None:
            continue
        size = frame_size(row) if isinstance(value, list) else None
        try:
            drawn.append(decode_rle(json.dumps(value)) if size is None else decode_outlines(value, size))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    if len({mask.shape for mask in drawn}) > 1:
        raise DataError(f"{name}: its masks differ in size")
    return np.bitwise_or.reduce(drawn) if drawn else np.zeros(frame_size(row), np.uint8)


def mask_shape(name: str, row: Row) -> tuple[int, int]:
    """Height and width of a mask that stands in a JSON file."""
    height, width = _read_annotations(name, row).shape
    return height, width


def with_masks_inside(row: Row) -> Row:
    """The row with the masks that stand in a JSON file as run lengths of its own."""

    def inside(name: str) -> str:
        objects = split_mask(name)
        if objects is not None:
            return json.dumps([None if mask is None else inside(mask) for mask in objects])
        return encode_rle(_read_annotations(name, row)) if names_values(name) else name

    columns = {column: names for column in MASK_COLUMNS if (names := row.get(column))}
    return {**row, **{column: [name and inside(name) for name in names] for column, names in columns.items()}}


def _shown(name: str, row: Row) -> str:
    return f"row {row.get('id')!r}" if name.startswith("{") or split_mask(name) else name


def resize_masks_official(masks: np.ndarray, size: int = OFFICIAL_SIZE) -> torch.Tensor:
    """
    Masks as the official Ref-AVS score compares them: scaled bilinearly on uint8 without antialiasing, then `> 0`.

    Args:
        masks (`np.ndarray` of shape `(T, H, W)`): in {0, 1}.
        size (`int`, *optional*, defaults to 256): side of the result, in pixels.

    Returns:
        `torch.Tensor` of shape `(T, size, size)`, uint8, 0 or 1; the same bits as OpenCV's.
    """
    planes = torch.from_numpy(np.ascontiguousarray(masks))[:, None].float() * 255
    scaled = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False)
    return (torch.floor(scaled + 0.5) > 0).to(torch.uint8)[:, 0]
