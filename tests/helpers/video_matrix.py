"""Videos of every kind: codec, container, groups of pictures, B-frames, rate, and how they are turned."""

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_FRAMES, GOP = 24, 6
_CODECS = {
    "h264": ("libx264", {"preset": "ultrafast"}),
    "h264-open": ("libx264", {"x264-params": "open-gop=1:b-adapt=0"}),
    "h264-refresh": ("libx264", {"x264-params": "intra-refresh=1"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:pools=1", "preset": "ultrafast"}),  # its groups are open
    "hevc-closed": ("libx265", {"x265-params": "log-level=none:pools=1:open-gop=0", "preset": "ultrafast"}),
    "vp8": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "10", "svtav1-params": "lp=1"}),
    "mpeg1": ("mpeg1video", {}),
    "mpeg2": ("mpeg2video", {}),
    "mpeg4": ("mpeg4", {}),
    "h263": ("h263", {}),
    "flv1": ("flv", {}),
    "wmv2": ("wmv2", {}),
    "mjpeg": ("mjpeg", {}),
    "ffv1": ("ffv1", {}),
    "prores": ("prores_ks", {}),
    "png": ("png", {}),
}
_PIXELS = {"mjpeg": "yuvj420p", "prores": "yuv422p10le", "png": "rgb24"}


@dataclass(frozen=True)
class Kind:
    """
    A kind of video.

    Attributes:
        codec (`str`): a key of `_CODECS`.
        suffix (`str`): of the file.
        b_frames (`int`): in a row; None: the encoder's own.
        gop (`int`): frames from one key frame to the next.
        varies (`bool`): the rate varies.
        size (`tuple[int, int]`): height and width.
        options (`dict`): of the container.
        num_frames (`int`): how many.
    """

    codec: str
    suffix: str
    b_frames: int | None = None
    gop: int = GOP
    varies: bool = False
    size: tuple[int, int] = (48, 64)
    options: dict[str, str] = field(default_factory=dict, hash=False)
    num_frames: int = NUM_FRAMES

    def __str__(self) -> str:
        parts = [self.codec, self.suffix, f"g{self.gop}"]
        parts += [] if self.b_frames is None else [f"b{self.b_frames}"]
        parts += ["varies"] * self.varies + [f"{self.size[1]}x{self.size[0]}"] * (self.size != (48, 64))
        return "-".join([*parts, *self.options, *([f"n{self.num_frames}"] if self.num_frames != NUM_FRAMES else [])])


def stamps_of(kind: Kind) -> list[int]:
    """When its frames are shown, in hundredths of a second."""
    even = 100 // _rate_of(kind)
    steps = np.random.default_rng(5).integers(2, 60, kind.num_frames) if kind.varies else [even] * kind.num_frames
    return np.cumsum([0, *steps[1:]]).tolist()


def _rate_of(kind: Kind) -> int:
    return 25 if kind.codec == "mpeg1" else 10  # which knows few rates


def draw_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame that is like no other: its number in large bits, over a texture that moves."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    texture = ((rows * 3 + columns * 5 + number * 11) % 97).astype(np.uint8)
    frame = np.stack([texture + 60, texture + 20, texture + 90], axis=-1)
    for bit in range(5):
        left, right = bit * width // 5, (bit + 1) * width // 5
        frame[: height // 3, left:right] = 250 if number >> bit & 1 else 5
    return frame


def write_kind(path: Path, kind: Kind) -> str:
    """Encode a video of a kind."""
    encoder, options = _CODECS[kind.codec]
    with av.open(str(path), "w", options=kind.options) as container:
        stream = container.add_stream(encoder, rate=100 if kind.varies else _rate_of(kind))
        stream.height, stream.width = kind.size
        stream.pix_fmt = _PIXELS.get(kind.codec, "yuv420p")
        if kind.varies:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        b_frames = {} if kind.b_frames is None else {"bf": str(kind.b_frames)}
        stream.options = {**options, "g": str(kind.gop), **b_frames}
        for number, stamp in enumerate(stamps_of(kind)):
            frame = av.VideoFrame.from_ndarray(draw_frame(number, kind.size), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def set_display_matrix(path: str | Path, turn: tuple[float, float, float, float]) -> None:
    """Write `(a, b, c, d)` into the header of an MP4's track: a stored point goes to `(a x + c y, b x + d y)`."""

    def pack(a: float, b: float, c: float, d: float) -> bytes:
        numbers = [round(value * (1 << 16)) for value in (a, b, 0, c, d, 0, 0, 0)]
        return struct.pack(">9i", *numbers, 1 << 30)

    data = Path(path).read_bytes()
    place = data.index(pack(1, 0, 0, 1), data.index(b"tkhd"))
    Path(path).write_bytes(data[:place] + pack(*turn) + data[place + 36 :])


def set_edits(path: str | Path, edits: list[tuple[float, float | None]]) -> None:
    """
    Write the edit list of an MP4 whose header stands at its end: what a player shows of the track.

    Args:
        path: the file.
        edits: how many seconds from which second on; None: nothing is shown.
    """
    with av.open(str(path)) as container:
        clock = container.streams.video[0].time_base.denominator
    data = Path(path).read_bytes()
    place = data.index(b"elst") - 4
    size, _, _, _, _, start = struct.unpack(">I4sIIIi", data[place : place + 24])
    entries = [(round(1000 * long), -1 if at is None else start + round(at * clock)) for long, at in edits]
    box = struct.pack(">I4sII", 16 + 12 * len(edits), b"elst", 0, len(edits))
    box += b"".join(struct.pack(">IiI", long, at, 1 << 16) for long, at in entries)
    changed = bytearray(data[:place] + box + data[place + size :])
    for name in (b"edts", b"trak", b"moov"):
        outer = data.rindex(name, 0, place) - 4
        longer = struct.unpack(">I", data[outer : outer + 4])[0] + len(box) - size
        changed[outer : outer + 4] = struct.pack(">I", longer)
    Path(path).write_bytes(changed)


# Of each pair of codec and container that is in use, with what makes jumping hard in it.
MATRIX = [
    *[Kind("h264", suffix, b) for suffix in ("mp4", "mkv", "avi", "ts", "mpg", "flv") for b in (0, 2)],
    *[Kind("h264-open", suffix, 2, varies=v) for suffix in ("mp4", "mkv", "ts") for v in (False, True)],
    Kind("h264", "mp4", 2, varies=True),
    Kind("h264", "mov", 3, gop=250),
    Kind("h264", "3gp", 0, gop=1),
    Kind("h264", "mp4", 2, options={"movflags": "frag_keyframe+empty_moov"}),
    Kind("h264", "mp4", 2, options={"movflags": "faststart"}),
    Kind("h264", "mkv", 2, options={"live": "1"}),  # no duration, no index
    Kind("h264", "mp4", 2, size=(46, 62)),
    Kind("h264", "mp4", num_frames=1),
    Kind("h264", "ts", num_frames=1),
    Kind("h264-refresh", "mp4", 0),
    *[Kind("hevc", suffix, 3, varies=v) for suffix in ("mp4", "mkv", "ts") for v in (False, True)],
    Kind("hevc", "mp4", gop=250),
    Kind("hevc-closed", "mp4", 2),
    *[Kind("vp8", suffix) for suffix in ("webm", "avi")],
    *[Kind("vp9", suffix, varies=v) for suffix in ("webm", "mp4") for v in (False, True)],
    Kind("vp9", "webm", size=(47, 63)),
    *[Kind("mpeg4", suffix, 2) for suffix in ("mp4", "mov", "mkv", "avi", "ts", "mpg")],
    Kind("mpeg4", "avi", 0, varies=True),
    *[Kind("mpeg2", suffix, 2) for suffix in ("mpg", "ts", "mkv", "avi", "wmv")],
    *[Kind("av1", suffix, size=(96, 128)) for suffix in ("mp4", "webm")],
    Kind("mpeg1", "mpg", 2),
    Kind("h263", "3gp", size=(96, 128)),
    Kind("flv1", "flv"),
    Kind("wmv2", "wmv"),
    Kind("mjpeg", "avi"),
    Kind("mjpeg", "mov", varies=True),
    Kind("ffv1", "mkv", size=(47, 63)),
    Kind("prores", "mov"),
    Kind("png", "mov", size=(47, 63)),
]
