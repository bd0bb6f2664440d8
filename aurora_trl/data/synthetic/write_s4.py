"""Writes clips of the synthetic world in the layout of AVSBench's S4: one object sounds, and no reference names it."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from ...errors import DataError
from .drawing import draw_clip
from .scene import Scene, sample_scene
from .sound import SAMPLING_RATE, render_sound

_SECONDS = 5  # and frames
_LATEST_ONSET = 4.0  # seconds: what begins later is not heard
_SHARES = (("val", 0.1), ("test", 0.2))


def write_s4_world(root: str | Path, *, clips: int, seed: int = 0, image_size: int = 128) -> Path:
    """
    Write single-source clips in AVSBench's layout (Zhou et al., 2022): five frames, five seconds, the first mask only
    in the training split.

    Args:
        root (`str` or `Path`): new folder.
        clips (`int`): in all splits together, at least 10.
        seed (`int`, *optional*, defaults to 0): of everything drawn at random.
        image_size (`int`, *optional*, defaults to 128): side of the frames, in pixels.

    Returns:
        `Path`: the folder, which appears when it is complete.

    Raises:
        `DataError`: where the folder exists and is not empty, or a number is too small.
    """
    root = Path(root)
    if clips < 10 or image_size < 48:
        raise DataError(f"synthetic S4: {clips} clips of {image_size} pixels; give at least 10 of at least 48")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: exists already and is not empty; name a new folder")
    names = [name for name, share in _SHARES for _ in range(round(share * clips))]
    names += ["train"] * (clips - len(names))
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        lines = ["name,start,category,split"]
        for index, split in enumerate(names):
            # A generator for each clip, as in the other world.
            rng = np.random.default_rng([seed, 2, index])
            lines.append(f"clip_{index:05d},0,{_write_clip(folder, index, split, rng, image_size)},{split}")
        (folder / "s4_meta_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # `mkdtemp` makes it private
        os.replace(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return root


def _write_clip(folder: Path, index: int, split: str, rng: np.random.Generator, image_size: int) -> str:
    """Write one clip; returns the class of what sounds."""
    scene = _single_source(rng)
    (sounding,) = (item for item in scene.objects if item.sound is not None)
    frames, masks = draw_clip(scene, image_size)
    name, data = f"clip_{index:05d}", folder / "s4_data"
    inside = Path(split) / sounding.class_name / name
    for kind in ("visual_frames", "gt_masks"):
        (data / kind / inside).mkdir(parents=True)
    for i in range(_SECONDS):
        Image.fromarray(frames[i]).save(data / "visual_frames" / inside / f"{name}_{i + 1}.png")
        if split != "train" or i == 0:
            Image.fromarray(masks[sounding.number][i]).save(data / "gt_masks" / inside / f"{name}_{i + 1}.png")
    sound = data / "audio_wav" / split / sounding.class_name / f"{name}.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(sound, render_sound(scene)[: _SECONDS * SAMPLING_RATE], SAMPLING_RATE, subtype="PCM_16")
    return sounding.class_name


def _single_source(rng: np.random.Generator) -> Scene:
    """A scene with one sound, which begins while the clip lasts."""
    while True:
        scene = sample_scene(rng, silent=False)
        sounds = [item.sound for item in scene.objects if item.sound is not None]
        if len(sounds) == 1 and sounds[0].onset_seconds < _LATEST_ONSET:
            return scene
