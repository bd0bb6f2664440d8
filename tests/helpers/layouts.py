"""Writes each dataset's official layout, small, with real files."""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from aurora_trl.data.formats.avsbench import class_palette

SIZE = (24, 32)  # height, width


def write_image(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


def write_mask(path, plane, mode="L", palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(plane.astype(np.uint8), mode) if plane.ndim == 2 else Image.fromarray(plane)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def write_sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.sin(np.arange(5 * 16000) / 20), 16000)


def blob(number, value=1):
    plane = np.zeros(SIZE, np.uint8)
    plane[4:12, 4 + number : 14 + number] = value
    return plane


def write_table(path, header, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def write_s4(root: Path) -> Path:
    lines = [[f"{split}_video_1", 3, "playing_acoustic-guitar", split] for split in ("train", "val", "test")]
    write_table(root / "s4_meta_data.csv", ["name", "start", "category", "split"], lines)
    for name, _, category, split in lines:
        data, inside = root / "s4_data", Path(split) / category
        for i in range(1, 6):
            write_image(data / "visual_frames" / inside / name / f"{name}_{i}.png")
            if split != "train" or i == 1:
                write_mask(data / "gt_masks" / inside / name / f"{name}_{i}.png", blob(i, 255))
        write_sound(data / "audio_wav" / inside / f"{name}.wav")
    return root


def write_ms3(root: Path) -> Path:
    lines = [[f"clip {split}", split] for split in ("train", "val", "test")]
    write_table(root / "ms3_meta_data.csv", ["video_id", "split"], lines)
    for name, split in lines:
        data = root / "ms3_data"
        for i in range(1, 6):
            write_image(data / "visual_frames" / name / f"{name}.mp4_{i}.png")
            # A palette: the value is a class, and its colour may be black.
            path = data / "gt_masks" / split / name / f"{name}_{i}.png"
            write_mask(path, blob(i, 5), mode="P", palette=[0] * 768)
        write_sound(data / "audio_wav" / split / f"{name}.wav")
    return root


def write_avss(root: Path) -> Path:
    lines = [
        ["one", "v1s", "train"],
        ["two", "v1m", "train"],
        ["three", "v2", "test"],
        ["four", "v1s", "test"],
    ]
    write_table(root / "metadata.csv", ["uid", "label", "split"], lines)
    palette = class_palette()
    for name, label, split in lines:
        folder, count = root / label / name, 10 if label == "v2" else 5
        for i in range(count):
            write_image(folder / "frames" / f"{i}.jpg")
            if (label, split) != ("v1s", "train") or i == 0:
                write_mask(folder / "labels_rgb" / f"{i}.png", palette[blob(i, 9)])
        write_sound(folder / "audio.wav")
    classes = {"background": 0, **{f"class {i}": i for i in range(1, 71)}}
    (root / "label2idx.json").write_text(json.dumps(classes))
    return root


def write_reasonseg(root: Path) -> Path:
    shapes = [
        {"label": "target", "points": [[4, 4], [20, 4], [20, 12], [4, 12]]},
        {"label": "ignore", "points": [[6, 6], [8, 6], [8, 8], [6, 8]]},
        {"label": "flag", "points": [[0, 0]]},
    ]
    for split in ("train", "val"):
        write_image(root / split / "1.jpg")
        content = {"text": ["the thing that melts", "what is cold"], "is_sentence": False, "shapes": shapes}
        (root / split / "1.json").write_text(json.dumps(content))
    (root / "train" / "1.json").write_bytes(
        json.dumps({**content, "text": ["the café", "b"]}, ensure_ascii=False).encode("cp1252")
    )
    return root
