"""Masks as text: COCO's run lengths, and outlines."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from ..errors import DataError
from ..text_files import parse_json

Polygons = Sequence[Sequence[Sequence[float]]]
# What a mask may take, and how far from its frame's corner an outline may go.
_MOST_PIXELS, _FARTHEST_PIXELS = 1 << 28, 100_000
# Of a run in COCO's text, which that many pixels do not exceed.
_MOST_CHARACTERS = 7


def encode_rle(mask: np.ndarray) -> str:
    """A mask `(H, W)` in {0, 1} as a COCO run-length encoding in JSON."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return json.dumps({"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")})


def decode_rle(text: str) -> np.ndarray:
    """
    The mask `(H, W)` uint8 in {0, 1} of a COCO run-length encoding in JSON, whose runs are text or a list of numbers.

    COCO's own code takes runs that do not fill the size, and leaves the rest of the memory as it was.

    Raises:
        `DataError`: where the text is no such encoding, or its runs do not fill its size.
    """
    try:
        rle = parse_json(text)
        size, counts = _whole_numbers(rle["size"], "size"), rle["counts"]
        if len(size) != 2 or not 1 <= size.prod() <= _MOST_PIXELS:
            raise ValueError(f"`size` must be height and width in pixels, got {rle['size']}")
        runs = _whole_numbers(_expand_runs(counts) if isinstance(counts, str) else counts, "counts")
        if runs.sum() != size.prod():
            raise ValueError(f"its runs add up to {runs.sum()} pixels, not {size[0]} x {size[1]}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a COCO run-length encoding: {text[:60]!r} ({error})") from None
    # Runs of 0 and 1 in turn, down the columns.
    return np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(size, order="F")


def _whole_numbers(values: Any, key: str) -> np.ndarray:
    """Numbers `(N,)` int64 from 0 to `_MOST_PIXELS`, or a `ValueError`."""
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError(f"`{key}` must be a list of numbers")
    if not ((numbers >= 0) & (numbers <= _MOST_PIXELS) & (numbers == np.floor(numbers))).all():
        raise ValueError(f"`{key}` must be whole numbers from 0 to {_MOST_PIXELS}")
    return numbers.astype(np.int64)


def _expand_runs(counts: str) -> np.ndarray:
    """
    The runs that COCO's compressed text holds: numbers in parts of five bits, the lowest first, a character for each.

    From the fourth on they are differences from the run two places before.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    outside = ((codes < 0) | (codes > 63)).any()
    if outside or not len(ends) or ends[-1] != len(codes) - 1 or lengths.max() > _MOST_CHARACTERS:
        raise ValueError("`counts` is cut short, or not COCO's text")
    starts = ends + 1 - lengths
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    # The highest bit of a number is its sign.
    runs = np.add.reduceat((codes & 31) << shifts, starts) - (((codes[ends] >> 4) & 1) << (5 * lengths))
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def encode_polygons(polygons: Polygons, holes: Polygons = ()) -> str:
    """
    A mask that is drawn from outlines, as JSON; its size is that of the frame it belongs to.

    Args:
        polygons (`Sequence`): of `(x, y)` pairs in pixels, all of them filled.
        holes (`Sequence`, *optional*): what is cut out again.

    Returns:
        `str`: `{"polygons": [[x1, y1, x2, y2, ...], ...]}`, and `holes` in the same form where there are any.
    """
    content = {"polygons": polygons, **({"holes": holes} if holes else {})}
    flat = {key: [[float(v) for pair in outline for v in pair] for outline in parts] for key, parts in content.items()}
    return json.dumps(flat)


def decode_polygons(text: str, size: tuple[int, int]) -> np.ndarray:
    """
    The mask `(H, W)` uint8 in {0, 1} that outlines enclose.

    Args:
        text (`str`): from `encode_polygons`.
        size (`tuple[int, int]`): height and width of the frame, in pixels.

    Raises:
        `DataError`: where the text is no such JSON, or its corners are no places in pixels.
    """
    plane = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(plane)
    for value, outlines in zip((1, 0), read_polygons(text), strict=True):
        for outline in outlines:
            pen.polygon(outline, fill=value, outline=value)
    return np.asarray(plane)


def read_polygons(text: str) -> tuple[list[list[float]], list[list[float]]]:
    """The outlines and the holes of `encode_polygons`, each as x and y in turn; raises as `decode_polygons`."""
    try:
        content = parse_json(text)
        return _read_outlines(content["polygons"]), _read_outlines(content.get("holes", []), holes=True)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"not polygons: {text[:60]!r} ({error})") from None


def decode_outlines(outlines: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """
    The mask `(H, W)` uint8 in {0, 1} of COCO's outlines, as COCO's own code fills them.

    Args:
        outlines (`list[list[float]]`): each as x and y in turn, in pixels.
        size (`tuple[int, int]`): height and width of the frame, in pixels.

    Raises:
        `DataError`: as `decode_polygons`.
    """
    try:
        read = _read_outlines(outlines)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"not outlines: {error}") from None
    return coco.decode(coco.merge(coco.frPyObjects(read, *size))) if read else np.zeros(size, np.uint8)


def flat_outline(outline: Any) -> Any:
    """x and y in turn, of an outline that has them in pairs, too."""
    pairs = len(outline) > 0 and all(isinstance(corner, list) and len(corner) == 2 for corner in outline)
    return [value for corner in outline for value in corner] if pairs else outline


def _read_outlines(outlines: Any, *, holes: bool = False) -> list[list[float]]:
    """The outlines of a mask as numbers, all in pixels; a `ValueError` where one is not."""
    read = [[float(v) for v in flat_outline(outline)] for outline in outlines]
    if any(len(outline) < 6 or len(outline) % 2 for outline in read):
        raise ValueError("an outline is three or more pairs x, y")
    corners = [v for outline in read for v in outline]
    if not all(abs(v) <= _FARTHEST_PIXELS for v in corners):  # NaN, too
        raise ValueError(f"a corner is no number, or beyond {_FARTHEST_PIXELS} pixels")
    if not holes and all(0 <= v <= 1 for v in corners) and any(0 < v < 1 for v in corners):
        raise ValueError("all corners lie between 0 and 1; give them in pixels, not as shares of the frame")
    return read
