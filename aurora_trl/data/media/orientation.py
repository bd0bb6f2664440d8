"""How a player turns the stored pictures of a video."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from ...errors import DataError
from .containers import REENCODE

# FFmpeg's kinds of what comes with a frame are numbered from 0 on; there are fewer than these.
_KINDS = range(64)


@dataclass(frozen=True)
class Orientation:
    """
    How stored pictures are turned to stand upright.

    Attributes:
        transposed (`bool`): rows and columns change places; then
        flips_rows, flips_columns (`bool`): their order is turned round.
    """

    transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """The frame `(H, W, 3)` as a player shows it; a view."""
        turned = frame.swapaxes(0, 1) if self.transposed else frame
        return turned[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Height and width of a decoded frame, upright."""
        return (frame.width, frame.height) if self.transposed else (frame.height, frame.width)


def orientation_of(frame: Any, path: str) -> Orientation:
    """
    What a file asks a player for, with the first frame of it (a telephone's video is stored as the sensor lay, or
    mirrored).

    Raises:
        `DataError`: names the file that is to be turned by less than a quarter.
    """
    matrix = _side_data(frame).get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return Orientation()
    # Rows of (a, b, u), (c, d, v), (x, y, w): a stored point goes to (a x + c y, b x + d y).
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    slack = max(map(abs, (a, b, c, d))) // 100
    if max(abs(b), abs(c)) <= slack < min(abs(a), abs(d)):
        return Orientation(False, flips_rows=d < 0, flips_columns=a < 0)
    if max(abs(a), abs(d)) <= slack < min(abs(b), abs(c)):
        return Orientation(True, flips_rows=b < 0, flips_columns=c < 0)
    raise DataError(
        f"{path}: it asks to be turned by {frame.rotation} degrees, and only quarter turns are known; {REENCODE}"
    )


def _side_data(frame: Any) -> Mapping[SideData, Any]:
    """What comes with a frame; without the kinds that PyAV has no name for, one of which is an error there (18.1)."""
    try:
        return frame.side_data
    except ValueError:
        pass  # such as a camera's EXIF, and the views of a spatial video
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    named = {kind.value for kind in SideData}
    unnamed = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in _KINDS if kind not in named]
    chain = [source, *unnamed, graph.add("buffersink")]
    for one, following in zip(chain, chain[1:], strict=False):
        one.link_to(following)
    graph.configure()
    source.push(frame)
    pulled: Any = chain[-1].pull()
    return pulled.side_data
