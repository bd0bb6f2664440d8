"""Video files that say in their grey levels which frame is which."""

from fractions import Fraction

import av
import numpy as np


def write_clip(path, levels, stamps=None, gop=12, size=(48, 64), container_options=None):
    """One grey level per frame; `stamps` in hundredths of a second, 10 frames a second by default."""
    stamps = stamps or [10 * i for i in range(len(levels))]
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream("libx264", rate=100)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        stream.options = {"crf": "1", "g": str(gop), "bf": "2"}
        for level, stamp in zip(levels, stamps, strict=True):
            plane = np.full((*size, 3), level, np.uint8)
            plane[: size[0] // 4] = 250  # the upper edge
            frame = av.VideoFrame.from_ndarray(plane, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)
