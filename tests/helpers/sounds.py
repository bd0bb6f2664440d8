"""Sound in files: a tone that begins when it is told to, in any container."""

from fractions import Fraction

import av
import numpy as np


def tone(seconds, rate, frequency=440, level=0.5):
    """A sine `(N,)`, float32."""
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_clip_with_sound(
    path, waves, *, codecs=("libx264", "aac"), rate=48000, layout="mono", picture_start=0.0, num_frames=40
):
    """
    Pictures at 10 frames a second from `picture_start` on, and sound.

    Args:
        path: the file; its ending is the container.
        waves: `(when it begins in seconds, samples (N,) or (N, channels))`, one after the other.
        codecs: of pictures and of sound; None leaves one out.
    """
    packets = []
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=10) if codecs[0] else None
        sound = container.add_stream(codecs[1], rate=rate, layout=layout)
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for number in range(num_frames):
                plane = np.full((48, 64, 3), 20 + 5 * number % 200, np.uint8)
                frame = av.VideoFrame.from_ndarray(plane, format="rgb24")
                frame.pts, frame.time_base = number + round(10 * picture_start), Fraction(1, 10)
                packets += video.encode(frame)
            packets += video.encode()
        for start, wave in waves:
            wave = wave if wave.ndim == 2 else wave[:, None]
            size = sound.codec_context.frame_size or 1024
            for first in range(0, len(wave), size):
                piece = np.ascontiguousarray(wave[first : first + size]).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = first + round(start * rate)
                for part in _as_wanted(frame, sound):
                    packets += sound.encode(part)
        packets += sound.encode()
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return str(path)


def _as_wanted(frame, sound):
    wanted = sound.codec_context.format.name
    resampler = av.AudioResampler(format=wanted, layout=frame.layout, rate=frame.sample_rate)
    return resampler.resample(frame)
