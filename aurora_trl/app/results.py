"""What the page shows of an answer and offers for download."""

import base64
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from ..generation.pipeline import Segmentation
from ..generation.segment import mask_note, write_segmentation
from ..prompts import SEG_TOKEN
from .examples import Example
from .uploads import ShownClip

# Places of the waveform's picture, which is as wide as the video.
_WAVE_COLUMNS, _WAVE_HEIGHT = 480, 60
_THUMBNAIL = 120  # pixels


@dataclass(frozen=True)
class ResultFiles:
    """
    The files of an answer.

    Attributes:
        strip (`Path`): PNG: frames as they are, and with the masks.
        masks (`Path`): ZIP of a PNG per frame, 0 or 255.
        coco (`Path`): JSON, run lengths per frame.
        video (`Path` or `None`): MP4 with the masks and the sound; None for a picture without sound.
    """

    strip: Path
    masks: Path
    coco: Path
    video: Path | None


def write_result(result: Segmentation, clip: ShownClip, folder: Path) -> ResultFiles:
    """
    Write the files of an answer.

    Args:
        result (`Segmentation`): from [`AuroraPipeline`].
        clip (`ShownClip`): what was asked about.
        folder (`Path`): empty.
    """
    written = folder / "segmentation"
    write_segmentation(result, clip.row, written)
    names = ["masks", "objects"]
    pictures = sorted(path for name in names for path in (written / name).rglob("*.png"))
    with zipfile.ZipFile(folder / "masks.zip", "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed
        for path in pictures:
            archive.write(path, path.relative_to(written))
    coco = folder / "masks.json"
    runs = {"reference": result.reference, "reasoning": result.reasoning, "num_frames": result.num_frames}
    for name in names:
        file = written / f"{name}.json"
        if file.is_file():
            runs[name] = json.loads(file.read_text(encoding="utf-8"))
    coco.write_text(json.dumps(runs, ensure_ascii=False) + "\n", encoding="utf-8")
    masks = result.masks if result.object_masks is None else result.object_masks
    clip.draw(masks).save(folder / "strip.png")
    video = None if len(result.masks) == 1 and clip.waveform is None else written / "overlay.mp4"
    return ResultFiles(folder / "strip.png", folder / "masks.zip", coco, video)


def answer_html(title: str, text: str, state: str, *, below: str = "") -> str:
    """
    A checkpoint's column on the page.

    Args:
        title (`str`): its name.
        text (`str`): what it has written so far.
        state (`str`): `ready`, `waits`, `writes`, `draws`, `done` or `stopped`.
        below (`str`, *optional*): HTML of what it drew.
    """
    shown = escape(text).replace(escape(SEG_TOKEN), f'<b class="seg">{escape(SEG_TOKEN)}</b>')
    cursor = '<span class="cursor"></span>' if state == "writes" else ""
    return (
        f'<section class="answer" data-state="{escape(state)}"><header><b>{escape(title)}</b>'
        f'<span class="state">{escape(state)}</span></header>'
        f'<p class="reasoning">{shown}{cursor}</p>{below}</section>'
    )


def result_html(result: Segmentation, clip: ShownClip, files: ResultFiles) -> str:
    """The drawn part of the column: the video over the waveform, the strip, and what can be downloaded."""
    parts = [_verdict(result)]
    if files.video is not None:
        parts.append(
            f'<div class="player"><video controls playsinline preload="auto" src="{_address(files.video)}"></video>'
            f"{_wave_html(clip)}</div>"
        )
    parts.append(f'<img class="strip" src="{_address(files.strip)}" alt="frames as they are, and with the masks">')
    links = [("masks (PNG)", files.masks, "masks.zip"), ("run lengths (COCO)", files.coco, "masks.json")]
    if files.video is not None:
        links.append(("video", files.video, "overlay.mp4"))
    links.append(("strip", files.strip, "strip.png"))
    parts.append('<nav class="downloads">')
    for text, path, name in links:
        parts.append(f'<a href="{_address(path)}" download="{name}" data-file="{name}">↓ {text}</a>')
    return "".join([*parts, "</nav>"])


def picture_html(path: Path, title: str) -> str:
    """A picture of a session's folder with a title above it."""
    picture = f'<img class="strip" src="{_address(path)}" alt="">'
    return f'<figure class="seen"><figcaption>{escape(title)}</figcaption>{picture}</figure>'


def examples_html(examples: Sequence[Example]) -> str:
    """Clips to try; `choose.js` says which one was clicked."""
    cards = "".join(
        f'<button type="button" data-index="{number}"><img src="{_thumbnail(example.picture)}" alt="">'
        f"<span>{escape(example.reference)}</span></button>"
        for number, example in enumerate(examples)
    )
    return f'<div class="examples"><p>Clips to try</p>{cards}</div>'


def _thumbnail(path: str) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return data_address(small)


def data_address(image: Image.Image) -> str:
    """A picture as an address that holds it: nothing is written, and nothing is left."""
    content = BytesIO()
    image.save(content, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _address(path: Path) -> str:
    # Relative, so that it holds behind a proxy, too.
    return f"gradio_api/file={quote(str(path))}"


def _verdict(result: Segmentation) -> str:
    drawn = int((result.masks.reshape(len(result.masks), -1).any(axis=1)).sum())
    found = f"class <b>{escape(result.class_name)}</b>" if result.class_name else "no class named"
    if result.has_seg:
        found += f", drawn in {drawn} of {len(result.masks)} frames"
    if not result.has_seg or len(result.masks) < result.num_frames:
        found += f"; {escape(mask_note(result))}"
    return f'<p class="verdict">{found}</p>'


def _wave_html(clip: ShownClip) -> str:
    """The sound over its time, with a tick for each frame; `player.js` moves the head."""
    if clip.waveform is None or clip.sound_seconds is None:
        return ""
    moments = clip.seconds or []
    seconds = max(clip.sound_seconds, *moments)
    ticks = "".join(f'<i class="tick" style="left:{100 * moment / seconds:.2f}%"></i>' for moment in moments)
    middle = _WAVE_HEIGHT / 2
    highest, lowest = _envelope(clip.waveform, int(_WAVE_COLUMNS * clip.sound_seconds / seconds))
    upper = [f"{x},{middle - value * middle:.1f}" for x, value in enumerate(highest)]
    lower = [f"{x},{middle - value * middle:.1f}" for x, value in enumerate(lowest)]
    return (
        f'<div class="wave" data-seconds="{seconds:.3f}" title="click to go there">'
        f'<svg viewBox="0 0 {_WAVE_COLUMNS} {_WAVE_HEIGHT}" preserveAspectRatio="none">'
        f'<polygon points="{" ".join(upper + lower[::-1])}"/></svg>{ticks}<i class="head"></i>'
        f'<span class="time">0.0 / {seconds:.1f} s</span></div>'
    )


def _envelope(waveform: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest and the lowest sample of equal parts of a sound, as shares of its loudest."""
    pieces = np.array_split(waveform, max(1, min(columns, len(waveform))))
    loudest = max(float(np.abs(waveform).max()), 1e-6)
    return np.array([piece.max() for piece in pieces]) / loudest, np.array([piece.min() for piece in pieces]) / loudest


def message_html(text: str, *, is_error: bool = False) -> str:
    """A line about what was dropped, or what is wrong with it."""
    return f'<div class="message{" error" * is_error}" role="status">{escape(text)}</div>'
