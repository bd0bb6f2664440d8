"""What `aurora segment` leaves: the answer, its masks as PNG and COCO run lengths, and an overlay with the sound."""

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..data.masks import encode_rle
from ..data.media.loading import frame_seconds, load_audio, load_frames
from ..data.schema import Row
from .overlay import overlay_masks
from .pipeline import Segmentation

OVERLAY_FPS = 10
SOUND_RATE = 44_100
# A clip that is a list of images without sound has no times; Ref-AVS takes one frame per second.
SECONDS_PER_IMAGE = 1.0


def write_segmentation(result: Segmentation, row: Row, output_dir: str | Path) -> dict[str, Any]:
    """
    Write an answer to a new folder.

    Args:
        result (`Segmentation`): from [`AuroraPipeline`].
        row (`dict`): `video` or `frames`, and `audio`: the clip that was asked about.
        output_dir (`str` or `Path`): afterwards holds `reasoning.txt`, `result.json`, `masks/{frame}.png` (0 or 255),
            `masks.json` (COCO run lengths) and `overlay.mp4`. Where the answer draws several objects, `masks` holds
            all together, and `objects/{number}/{frame}.png` and `objects.json` each apart.

    Returns:
        `dict`: what `result.json` holds.
    """
    output_dir = Path(output_dir)
    (output_dir / "masks").mkdir(parents=True, exist_ok=True)
    files = [f"masks/{index:06d}.png" for index in result.frame_indices]
    for file, mask in zip(files, result.masks, strict=True):
        Image.fromarray(mask * 255).save(output_dir / file)
    objects = [] if result.object_masks is None else list(result.object_masks)
    for number, masks in enumerate(objects):
        folder = output_dir / "objects" / str(number)
        folder.mkdir(parents=True)
        for index, mask in zip(result.frame_indices, masks, strict=True):
            Image.fromarray(mask * 255).save(folder / f"{index:06d}.png")
    record = {
        "reference": result.reference,
        "reasoning": result.reasoning,
        "class_name": result.class_name,
        "has_seg": result.has_seg,
        "video": row.get("video"),
        "frames": row.get("frames"),
        "audio": row.get("audio"),
        "num_frames": result.num_frames,
        "masks": [
            {
                "frame": index,
                "seconds": None if result.frame_seconds is None else round(result.frame_seconds[i], 3),
                "file": files[i],
                "area": int(result.masks[i].sum()),
            }
            for i, index in enumerate(result.frame_indices)
        ],
        "note": mask_note(result),
    }
    if objects:
        record["num_objects"] = len(objects)
        runs = [{"object": n, **run} for n, masks in enumerate(objects) for run in _run_lengths(result, masks)]
        (output_dir / "objects.json").write_text(json.dumps(runs) + "\n")
    (output_dir / "reasoning.txt").write_text(result.reasoning + "\n", encoding="utf-8")
    (output_dir / "masks.json").write_text(json.dumps(_run_lengths(result, result.masks)) + "\n")
    (output_dir / "result.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_overlay(result, row, output_dir / "overlay.mp4")
    return record


def _run_lengths(result: Segmentation, masks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"frame": index, "segmentation": json.loads(encode_rle(mask))}
        for index, mask in zip(result.frame_indices, masks, strict=True)
    ]


def mask_note(result: Segmentation) -> str:
    """Which frames have a mask, in a sentence."""
    count = len(result.masks)
    note = f"masks of {count} of the clip's {result.num_frames} frames"
    if count < result.num_frames:
        note += ", evenly chosen: the model takes no more; the overlay holds each until the next"
    if not result.has_seg:
        note += "; all are empty, since the model wrote no [SEG]"
    return note


def write_overlay(result: Segmentation, row: Row, path: str | Path) -> None:
    """
    Write an MP4 of the frames that have a mask, each until the middle of the way to the next, with the sound. Of
    several objects each has its own tint.

    The pictures are those that the masks belong to: a mask held over a moving picture would lie beside its object.

    Args:
        result (`Segmentation`), row (`dict`): as in `write_segmentation`.
        path (`str` or `Path`): the file.
    """
    frames = load_frames(row, num_frames=max(len(result.masks), 1), pad=False)
    planes = result.masks if result.object_masks is None else result.object_masks.swapaxes(0, 1)
    pictures = [overlay_masks(frame, masks) for frame, masks in zip(frames, planes, strict=True)]
    height, width = (side - side % 2 for side in pictures[0].shape[:2])  # yuv420p wants even sides
    wave = load_audio(row, sampling_rate=SOUND_RATE)
    seconds = result.frame_seconds
    if seconds is None:
        clip_seconds = result.num_frames * SECONDS_PER_IMAGE if wave is None else len(wave) / SOUND_RATE
        starts = frame_seconds(row, result.frame_indices, sound_seconds=clip_seconds) or [0.0]
        seconds = [start + clip_seconds / result.num_frames / 2 for start in starts]
    step = 2 * seconds[0] if len(seconds) == 1 else seconds[-1] - seconds[-2]
    end = seconds[-1] + max(step / 2, 1 / OVERLAY_FPS)
    changes = [(a + b) / 2 for a, b in zip(seconds, seconds[1:], strict=False)]
    with av.open(str(path), "w") as container:
        video = container.add_stream("h264", rate=OVERLAY_FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = None if wave is None else container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number in range(max(1, round(end * OVERLAY_FPS))):
            shown = int(np.searchsorted(changes, number / OVERLAY_FPS, side="right"))
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pictures[shown][:height, :width]), "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, OVERLAY_FPS)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if sound is not None and wave is not None:
            _mux_sound(container, sound, wave[: int(end * SOUND_RATE)])


def _mux_sound(container: Any, stream: Any, wave: np.ndarray) -> None:
    """Encode mono float32 samples, in the pieces that AAC takes."""
    size = 1024
    for start in range(0, len(wave), size):
        piece = np.ascontiguousarray(wave[None, start : start + size], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
