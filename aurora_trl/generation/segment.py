"""What `aurora segment` leaves: the answer, its masks as PNG, COCO run lengths and video, pictures with the sound."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from PIL import Image

from ..data.masks import encode_rle
from ..data.media.loading import frame_seconds, load_audio, load_frames, pixel_aspect
from ..data.media.streaming import cut_stream, open_sound, resample_stream
from ..data.schema import Row
from ..disk import written_whole
from .every_frame import FrameMasks
from .overlay import overlay_masks
from .picture import draw_clip
from .pipeline import Segmentation
from .video_writer import MaskVideoWriter, VideoWriter

OVERLAY_FPS = 10
SOUND_RATE = 44_100
# A clip that is a list of images without sound has no times; Ref-AVS takes one frame per second.
SECONDS_PER_IMAGE = 1.0


def write_segmentation(
    result: Segmentation,
    row: Row,
    output_dir: str | Path,
    drawn: Iterable[FrameMasks] | None = None,
    span: tuple[float, float | None] = (0.0, None),
) -> dict[str, Any]:
    """
    Write an answer to a new folder.

    Args:
        result (`Segmentation`): from [`AuroraPipeline`].
        row (`dict`): `video` or `frames`, and `audio`: the clip that was asked about.
        output_dir (`str` or `Path`): afterwards holds `reasoning.txt`, `result.json`, `masks/{frame}.png` (0 or 255),
            `masks.json` (COCO run lengths), `overlay.mp4` and `picture.png`. Where the answer draws several objects,
            `masks` holds all together, and `objects/{number}/{frame}.png` and `objects.json` each apart.
        drawn (`Iterable[FrameMasks]`, *optional*): the masks of more frames, from [`AuroraPipeline.every_frame`], in
            place of those of the result. They are written as they come, and `masks.mkv` is their video.
        span (`tuple[float, float | None]`, *optional*): seconds of the clip that `drawn` is from; all by default.

    Returns:
        `dict`: what `result.json` holds.
    """
    output_dir = Path(output_dir)
    with ExitStack() as stack:
        files = stack.enter_context(mask_files(output_dir))
        if drawn is None:
            for frame in _own_frames(result, row):
                files.add(frame)
            write_overlay(result, row, output_dir / "overlay.mp4")
        else:
            overlay = stack.enter_context(_ClipVideo(output_dir, row, span))
            for frame in drawn:
                files.add(frame)
                overlay.add(frame)
    draw_result(result, row).save(output_dir / "picture.png", optimize=True)
    record = {
        "reference": result.reference,
        "reasoning": result.reasoning,
        "class_name": result.class_name,
        "has_seg": result.has_seg,
        "video": row.get("video"),
        "frames": row.get("frames"),
        "audio": row.get("audio"),
        "num_frames": result.num_frames,
        "masks": files.records,
        "note": mask_note(result, None if drawn is None else len(files.records)),
    }
    if files.num_objects > 1:
        record["num_objects"] = files.num_objects
    if result.cost is not None:
        record["choice"] = {"score": result.score, **asdict(result.cost)}
    (output_dir / "reasoning.txt").write_text(result.reasoning + "\n", encoding="utf-8")
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    # Paths may be in any encoding: what is no text there is escaped, as JSON does it.
    (output_dir / "result.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    return record


def _own_frames(result: Segmentation, row: Row) -> Iterator[FrameMasks]:
    """The frames that the model read."""
    frames = load_frames(row, num_frames=max(len(result.masks), 1), pad=False)
    planes = result.masks[None] if result.object_masks is None else result.object_masks
    for i, number in enumerate(result.frame_indices):
        seconds = None if result.frame_seconds is None else result.frame_seconds[i]
        yield FrameMasks(number, seconds, frames[i], result.masks[i], planes[:, i])


def mask_note(result: Segmentation, num_drawn: int | None = None) -> str:
    """Which frames have a mask, in a sentence; `num_drawn` of them, where they are not those that the model read."""
    count = len(result.masks) if num_drawn is None else num_drawn
    note = f"masks of {count} of the clip's {result.num_frames} frames"
    if count < result.num_frames and num_drawn is None:
        note += ", evenly chosen: the model takes no more; the overlay holds each until the next"
    if not result.has_seg:
        note += "; all are empty, since the answer asks for no mask"
    return note


def draw_result(result: Segmentation, row: Row) -> Image.Image:
    """The picture of an answer: frames, masks and sound, with the sentence above and the reasoning below."""
    waveform = load_audio(row, sampling_rate=16_000)
    sound_seconds = None if waveform is None else len(waveform) / 16_000
    return draw_clip(
        load_frames(row, num_frames=max(len(result.masks), 1), pad=False),
        result.masks if result.object_masks is None else result.object_masks,
        seconds=frame_seconds(row, result.frame_indices, sound_seconds=sound_seconds),
        numbers=result.frame_indices,
        waveform=waveform,
        title=f"“{result.reference}”",
        text=result.reasoning,
    )


@contextmanager
def mask_files(output_dir: Path) -> Iterator["MaskFiles"]:
    """
    Where the masks of frames go that come in the block: PNG files, and COCO run lengths in JSON.

    Args:
        output_dir (`Path`): for `masks`, `masks.json`, and with several objects `objects`, `objects.json`.
    """
    with _json_list(output_dir / "masks.json") as add_runs, ExitStack() as spools:
        files = MaskFiles(output_dir, add_runs, spools)
        yield files
        if files.spools:
            with _json_list(output_dir / "objects.json") as add_object:
                for spool in files.spools:
                    spool.seek(0)
                    for line in spool:
                        add_object(line.rstrip("\n"))


class MaskFiles:
    """
    The masks of a folder, see `mask_files`.

    Attributes:
        records (`list[dict]`): frame, time, file and area of each mask.
        num_objects (`int`): of the frames so far.
        spools (`list[IO[str]]`): the run lengths of each of several objects, which follow one another in their file.
    """

    def __init__(self, output_dir: Path, add_runs: Callable[[str], None], stack: ExitStack):
        self._output_dir, self._add_runs, self._stack = output_dir, add_runs, stack
        self.records: list[dict[str, Any]] = []
        self.num_objects = 0
        self.spools: list[IO[str]] = []

    def add(self, frame: FrameMasks) -> None:
        """Write the masks of a frame."""
        self.num_objects = len(frame.masks)
        name = f"masks/{frame.number:06d}.png"
        self._save(frame.mask, name)
        self._add_runs(_run_lengths(frame.number, frame.mask))
        seconds = None if frame.seconds is None else round(frame.seconds, 3)
        area = int(frame.mask.sum())
        self.records.append({"frame": frame.number, "seconds": seconds, "file": name, "area": area})
        for number, mask in enumerate(frame.masks if self.num_objects > 1 else ()):
            self._save(mask, f"objects/{number}/{frame.number:06d}.png")
            if number == len(self.spools):
                self.spools.append(self._stack.enter_context(tempfile.TemporaryFile("w+")))  # noqa: SIM115
            self.spools[number].write(_run_lengths(frame.number, mask, object=number) + "\n")

    def _save(self, mask: np.ndarray, name: str) -> None:
        path = self._output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask * np.uint8(255)).save(path)


def _run_lengths(number: int, mask: np.ndarray, **others: int) -> str:
    return json.dumps({**others, "frame": number, "segmentation": json.loads(encode_rle(mask))})


@contextmanager
def _json_list(path: Path) -> Iterator[Callable[[str], None]]:
    """A JSON list of which nothing is kept in memory: gives a function that adds a value, in JSON."""
    with written_whole(path) as file:
        separator = "[\n"

        def add(value: str) -> None:
            nonlocal separator
            file.write(separator + value)
            separator = ",\n"

        yield add
        file.write("]\n" if separator == ",\n" else "[]\n")


class _ClipVideo:
    """
    The overlay of a whole clip and the video of its masks, written as the frames come, each at its time; the sound
    comes along. A context manager.

    Args:
        output_dir (`Path`): for `overlay.mp4` and `masks.mkv`.
        row (`dict`): the clip.
        span (`tuple[float, float | None]`): seconds of it that the frames are from.
    """

    def __init__(self, output_dir: Path, row: Row, span: tuple[float, float | None]):
        self._output_dir, self._row, self._span = output_dir, row, span
        self._stack = ExitStack()
        self._overlay: VideoWriter | None = None
        self._masks: MaskVideoWriter | None = None
        self._sound: Iterator[np.ndarray] = iter(())
        self._heard, self._shown, self._last = 0, 0, (0.0, 1 / OVERLAY_FPS)

    def __enter__(self) -> "_ClipVideo":
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._hear(sum(self._last))
        self._stack.__exit__(kind, error, trace)

    def _open(self, frame: FrameMasks) -> tuple[VideoWriter, MaskVideoWriter]:
        size = frame.frame.shape[:2]
        sound = self._stack.enter_context(open_sound(self._row))
        if sound is not None:
            parts, rate = sound
            self._sound = cut_stream(resample_stream(parts, rate, SOUND_RATE), SOUND_RATE, *self._span)
        overlay = self._stack.enter_context(written_whole(self._output_dir / "overlay.mp4", "wb"))
        masks = self._stack.enter_context(written_whole(self._output_dir / "masks.mkv", "wb"))
        aspect, heard = pixel_aspect(self._row), None if sound is None else SOUND_RATE
        return (
            self._stack.enter_context(VideoWriter(overlay, size, sampling_rate=heard, pixel_aspect=aspect)),
            self._stack.enter_context(MaskVideoWriter(masks, size)),
        )

    def add(self, frame: FrameMasks) -> None:
        """The next frame."""
        if self._overlay is None or self._masks is None:
            self._overlay, self._masks = self._open(frame)
        moment = self._shown * SECONDS_PER_IMAGE if frame.seconds is None else frame.seconds - self._span[0]
        self._hear(moment)
        self._overlay.add(overlay_masks(frame.frame, frame.masks), moment)
        self._masks.add(frame.mask, moment)
        self._last = (moment, moment - self._last[0] if self._shown else self._last[1])
        self._shown += 1

    def _hear(self, until: float) -> None:
        """Sound up to a moment: a file whose pictures all come first can not be played as it is read."""
        while self._overlay is not None and self._heard < until * SOUND_RATE:
            part = next(self._sound, None)
            if part is None:
                return
            self._heard += len(part)
            self._overlay.add_sound(part)


def write_overlay(result: Segmentation, row: Row, path: str | Path) -> None:
    """
    Write an MP4 of the frames that have a mask, each until the middle of the way to the next, with the sound. Of
    several objects each has its own tint.

    The pictures are those that the masks belong to: a mask held over a moving picture would lie beside its object.

    Args:
        result (`Segmentation`), row (`dict`): as in `write_segmentation`.
        path (`str` or `Path`): the file.
    """
    pictures = [overlay_masks(frame.frame, frame.masks) for frame in _own_frames(result, row)]
    wave = load_audio(row, sampling_rate=SOUND_RATE)
    seconds = result.frame_seconds
    if seconds is None:
        clip_seconds = result.num_frames * SECONDS_PER_IMAGE if wave is None else len(wave) / SOUND_RATE
        starts = frame_seconds(row, result.frame_indices, sound_seconds=clip_seconds) or [0.0]
        seconds = [start + clip_seconds / result.num_frames / 2 for start in starts]
    step = 2 * seconds[0] if len(seconds) == 1 else seconds[-1] - seconds[-2]
    end = seconds[-1] + max(step / 2, 1 / OVERLAY_FPS)
    changes = [(a + b) / 2 for a, b in zip(seconds, seconds[1:], strict=False)]
    rate = None if wave is None else SOUND_RATE
    size, aspect = pictures[0].shape[:2], pixel_aspect(row)
    with (
        written_whole(path, "wb") as file,
        VideoWriter(file, size, frame_rate=OVERLAY_FPS, sampling_rate=rate, pixel_aspect=aspect) as writer,
    ):
        for number in range(max(1, round(end * OVERLAY_FPS))):
            shown = int(np.searchsorted(changes, number / OVERLAY_FPS, side="right"))
            writer.add(pictures[shown], number / OVERLAY_FPS)
        if wave is not None:
            writer.add_sound(wave[: int(end * SOUND_RATE)])
