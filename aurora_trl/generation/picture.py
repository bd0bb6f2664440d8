"""One picture of a clip and an answer: the frames as they are, the masks over them, the sound below."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .overlay import CASING_COLOR, MASK_COLORS, TINT, TRUTH_COLOR, overlay_masks

_INK, _FAINT, _WAVE, _TIME = (30, 30, 30), (120, 120, 120), (110, 110, 110), (0, 114, 178)
_MAX_ROW_SHARE = 0.75  # of the picture's width: frames that stand upright would fill a page


def draw_clip(
    frames: np.ndarray,
    masks: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    *,
    seconds: Sequence[float] | None = None,
    numbers: Sequence[int] | None = None,
    waveform: np.ndarray | None = None,
    sampling_rate: int = 16_000,
    title: str | None = None,
    text: str | None = None,
    max_frames: int = 5,
    width: int = 1000,
) -> Image.Image:
    """
    Draw a clip: a row of frames as they are, a row with the masks over them, and the sound below with the time of each
    frame. Of a single frame the two stand side by side. The picture ends where its content ends, and its letters are
    readable when it is as wide as a column of a paper.

    Args:
        frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB, at least one.
        masks (`np.ndarray` of shape `(T, H, W)` or `(N, T, H, W)`, *optional*): the predicted ones, in {0, 1}; each of
            N objects has its colour. Only the frames are drawn without it.
        targets (`np.ndarray` of shape `(T, H, W)`, *optional*): the true ones, in {0, 1}; `NO_TARGET` where nobody
            annotated.
        seconds (`Sequence[float]`, *optional*): when each frame is shown.
        numbers (`Sequence[int]`, *optional*): of the frames, which are shown where there are no `seconds`.
        waveform (`np.ndarray` of shape `(samples,)`, *optional*): mono sound in [-1, 1]; no strip without it.
        sampling_rate (`int`, *optional*, defaults to 16000): of the sound, in hertz.
        title (`str`, *optional*): stands above, such as the reference.
        text (`str`, *optional*): stands below, such as what the model wrote.
        max_frames (`int`, *optional*, defaults to 5): how many to show; of more, some that are spread evenly.
        width (`int`, *optional*, defaults to 1000): of the picture, in pixels.

    Returns:
        `Image.Image`: RGB.

    Raises:
        `ValueError`: where there is no frame, or not one mask for each.
    """
    objects = None if masks is None else masks.reshape(-1, *masks.shape[-3:])
    _check(frames, objects, targets)
    shown = np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int).tolist()
    canvas = _Canvas(width)
    if title:
        canvas.write(title, bold=True)
    cells = {"seen": [frames[i] for i in shown]}
    size = canvas.cell_size(frames.shape[1:3], 2 if len(shown) == 1 and objects is not None else len(shown))
    if objects is not None:
        cells["drawn"] = [
            overlay_masks(frames[i], objects[:, i], None if targets is None else targets[i], size=size) for i in shown
        ]
    if len(shown) == 1:
        centers = canvas.place_side_by_side(cells, size)
    else:
        centers = [canvas.place_row(name, row, size) for name, row in cells.items()][-1]
    times = None if seconds is None else [seconds[i] for i in shown]
    labels = [] if times is None else [f"{moment:.1f} s" for moment in times]
    if times is None and numbers is not None:
        labels = [f"frame {numbers[i]}" for i in shown]
    canvas.write_below(labels, centers)
    if waveform is not None and len(waveform):
        canvas.draw_sound(waveform, sampling_rate, times, centers)
    if objects is not None:
        has_truth = targets is not None and bool((targets <= 1).any())
        canvas.write_key(len(objects), has_truth)
    if text:
        canvas.write(text)
    return canvas.finish()


def _check(frames: np.ndarray, objects: np.ndarray | None, targets: np.ndarray | None) -> None:
    if frames.ndim != 4 or not len(frames):
        raise ValueError(f"`frames` must have the shape (T, H, W, 3) with T of at least 1, got {frames.shape}")
    for name, value in (("masks", None if objects is None else objects[0]), ("targets", targets)):
        if value is not None and value.shape != frames.shape[:3]:
            raise ValueError(f"`{name}` must be one per frame, {frames.shape[:3]}, got {value.shape}")


@lru_cache(maxsize=16)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


class _Canvas:
    """A white page that is filled from the top; its parts are measured in thousandths of its width."""

    def __init__(self, width: int):
        self.width = width
        self.unit = width / 1000
        self.gap = max(2, round(6 * self.unit))
        self.font = _font(max(8, round(24 * self.unit)), False)
        self.bold = _font(max(8, round(25 * self.unit)), True)
        self.small = _font(max(8, round(21 * self.unit)), False)
        self.left = self._line(self.small) + self.gap  # the rows' names stand here, turned
        self.bands: list[Image.Image] = []

    def _line(self, font: ImageFont.FreeTypeFont) -> int:
        return round(1.25 * font.size)

    def _band(self, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """A new strip of the page's width below what is there."""
        self.bands.append(Image.new("RGB", (self.width, height), "white"))
        return self.bands[-1], ImageDraw.Draw(self.bands[-1])

    def finish(self) -> Image.Image:
        """The page, cut off below its last strip."""
        page = Image.new("RGB", (self.width, sum(band.height for band in self.bands)), "white")
        top = 0
        for band in self.bands:
            page.paste(band, (0, top))
            top += band.height
        return page

    def write(self, text: str, bold: bool = False) -> None:
        """A paragraph over the whole width."""
        font = self.bold if bold else self.font
        lines = _wrap(text, font, self.width - self.gap)
        _, pen = self._band(self._line(font) * len(lines) + self.gap)
        for number, line in enumerate(lines):
            pen.text((0, number * self._line(font)), line, _INK, font)

    def cell_size(self, frame: tuple[int, ...], columns: int) -> tuple[int, int]:
        """Height and width of a frame's picture, of which so many stand in a row."""
        height, width = frame
        wide = (self.width - self.left - (columns - 1) * self.gap) // columns
        tall = round(wide * height / width)
        highest = round(_MAX_ROW_SHARE * self.width)
        return (tall, wide) if tall <= highest else (highest, max(1, round(highest * width / height)))

    def _cell_lefts(self, count: int, wide: int) -> list[int]:
        """Where the cells of a row begin; the last one ends at the page's edge where they fill the row."""
        room = self.width - self.left
        spare = room - count * wide
        gap = min(spare / max(1, count - 1), max(self.gap, 4 * self.gap if spare > count * wide else spare))
        return [self.left + round(number * (wide + gap)) for number in range(count)]

    def _name(self, band: Image.Image, name: str, height: int, left: int = 0) -> None:
        tag = Image.new("RGB", (height, self._line(self.small)), "white")
        ImageDraw.Draw(tag).text((height / 2, 0), name, _FAINT, self.small, anchor="ma")
        band.paste(tag.rotate(90, expand=True), (left, 0))

    def place_row(self, name: str, cells: Sequence[np.ndarray], size: tuple[int, int]) -> list[float]:
        """A row of frames with its name; the middle of each."""
        band, _ = self._band(size[0] + self.gap)
        self._name(band, name, size[0])
        lefts = self._cell_lefts(len(cells), size[1])
        for cell, left in zip(cells, lefts, strict=True):
            band.paste(_picture(cell, size), (left, 0))
        return [left + size[1] / 2 for left in lefts]

    def place_side_by_side(self, rows: dict[str, list[np.ndarray]], size: tuple[int, int]) -> list[float]:
        """A single frame as it is and with the masks; the middle of the first."""
        band, _ = self._band(size[0] + self.gap)
        lefts = self._cell_lefts(len(rows), size[1])
        self._name(band, " / ".join(rows), size[0])
        for (cell,), left in zip(rows.values(), lefts, strict=True):
            band.paste(_picture(cell, size), (left, 0))
        return [lefts[0] + size[1] / 2]

    def write_below(self, labels: Sequence[str], centers: Sequence[float]) -> None:
        """A short text below each frame."""
        if not labels:
            return
        _, pen = self._band(self._line(self.small))
        for label, center in zip(labels, centers, strict=True):
            pen.text((center, 0), label, _TIME, self.small, anchor="ma")

    def draw_sound(
        self, waveform: np.ndarray, sampling_rate: int, times: Sequence[float] | None, centers: Sequence[float]
    ) -> None:
        """The sound's envelope over its whole length, and a line from each frame to its time."""
        lead, tall = round((16 if times else 0) * self.unit), round(70 * self.unit)
        band, pen = self._band(lead + tall + self.gap)
        columns = self.width - self.left
        duration = max(len(waveform) / sampling_rate, *(times or [0.0]), 1e-6)
        places = np.arange(columns) * duration * sampling_rate / columns
        starts = np.minimum(places.astype(np.int64), len(waveform) - 1)
        highest = np.maximum.reduceat(waveform, starts)
        lowest = np.minimum.reduceat(waveform, starts)
        loudest = max(float(np.abs(waveform).max()), 1e-6)
        middle = lead + tall / 2
        heard = int(columns * len(waveform) / sampling_rate / duration)
        for column in range(min(columns, heard)):
            upper = middle - max(highest[column] / loudest * tall / 2, 0.5)
            lower = middle - min(lowest[column] / loudest * tall / 2, -0.5)
            pen.line((self.left + column, upper, self.left + column, lower), _WAVE)
        for moment, center in zip(times or (), centers, strict=False):
            x = self.left + moment / duration * (columns - 1)
            pen.line((center, 0, x, lead, x, lead + tall), _TIME, max(1, round(2 * self.unit)))
        self._name(band, "sound", lead + tall)

    def write_key(self, num_objects: int, has_truth: bool) -> None:
        """What tint and line mean."""
        line = self._line(self.small)
        _, pen = self._band(line + self.gap)
        names = ["mask"] if num_objects == 1 else [f"object {number}" for number in range(1, num_objects + 1)]
        keys = [(name, MASK_COLORS[number % len(MASK_COLORS)], True) for number, name in enumerate(names)] + [
            ("truth", TRUTH_COLOR, False)
        ] * has_truth
        x, side, stroke = float(self.left), round(0.75 * line), max(2, round(3 * self.unit))
        for name, color, filled in keys:
            box = (x, (line - side) // 2, x + 1.6 * side, (line - side) // 2 + side)
            inner = tuple(round(160 + TINT * (c - 160)) for c in color) if filled else (160, 160, 160)
            pen.rectangle(box, inner, CASING_COLOR, stroke + 2)
            pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), None, color, stroke)
            pen.text((box[2] + 2 * self.gap, line / 2), name, _INK, self.small, anchor="lm")
            x = box[2] + 5 * self.gap + self.small.getlength(name)


def _picture(cell: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(cell)
    return picture if cell.shape[:2] == size else picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines that are no wider than this many pixels; a word that is wider is broken."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split() or [""]:
            while font.getlength(word) > width and len(word) > 1:
                fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
                lines += [line, word[:fits]] if line else [word[:fits]]
                line, word = "", word[fits:]
            longer = f"{line} {word}".strip()
            if font.getlength(longer) > width and line:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines
