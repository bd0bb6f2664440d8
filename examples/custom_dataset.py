"""
A dataset from outside the package: `python examples/custom_dataset.py outputs/custom_data`.

The library reads rows with the columns of `aurora_trl/data/schema.py`. To bring a layout of your own, write one
function that returns such rows. This layout has a table of questions, a folder of numbered frames and a sound per
clip, and one PNG per frame that holds a number per object:

    labels.csv               clip,question,object,number
    frames/CLIP/00.png ...   frames in order
    sounds/CLIP.wav
    objects/CLIP/00.png ...  0 is background, 1 the first object, 2 the second
"""

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile
from datasets import Dataset
from PIL import Image, ImageDraw

from aurora_trl.data import load_json, save_json
from aurora_trl.data.validation import require_valid

COLOURS = ("red", "blue")


def load_labels(root: str | Path) -> list[dict]:
    """
    The rows of a folder in this layout.

    Args:
        root (`str` or `Path`): the folder with `labels.csv`.

    Returns:
        `list[dict]`: one row per question; media are paths, and are read when a batch needs them.
    """
    root = Path(root)
    rows = []
    with (root / "labels.csv").open(newline="") as table:
        for number, entry in enumerate(csv.DictReader(table)):
            clip = entry["clip"]
            rows.append(
                {
                    "id": f"{clip}/{number}",
                    "split": "train",
                    "reference": entry["question"],
                    "class_name": entry["object"],
                    "frames": [str(path) for path in sorted((root / "frames" / clip).glob("*.png"))],
                    "audio": str(root / "sounds" / f"{clip}.wav"),
                    "masks": [str(path) for path in sorted((root / "objects" / clip).glob("*.png"))],
                    "mask_value": int(entry["number"]),  # which number in the PNG files is this row's object
                }
            )
    return rows


def write_labels(root: str | Path, clips: int = 4) -> Path:
    """Draw a small dataset in this layout: a red and a blue square that move, and a tone."""
    root, random = Path(root), np.random.default_rng(0)
    lines = [["clip", "question", "object", "number"]]
    for number in range(clips):
        clip = f"clip_{number}"
        for kind in ("frames", "objects"):
            (root / kind / clip).mkdir(parents=True)
        (root / "sounds").mkdir(exist_ok=True)
        corners = random.integers(0, 10, (2, 2))
        for step in range(10):
            frame, objects = Image.new("RGB", (64, 48), "grey"), Image.new("L", (64, 48))
            for value, (colour, (x, y)) in enumerate(zip(COLOURS, corners.tolist(), strict=True), 1):
                box = (x + 30 * (value - 1) + step, y + step, x + 30 * (value - 1) + step + 12, y + step + 12)
                ImageDraw.Draw(frame).rectangle(box, fill=colour)
                ImageDraw.Draw(objects).rectangle(box, fill=value)
            frame.save(root / "frames" / clip / f"{step:02d}.png")
            objects.save(root / "objects" / clip / f"{step:02d}.png")
        soundfile.write(root / "sounds" / f"{clip}.wav", 0.1 * np.sin(np.arange(32_000) / 10), 16_000)
        lines += [[clip, f"the {colour} square", f"{colour} square", str(i)] for i, colour in enumerate(COLOURS, 1)]
    with (root / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows(lines)
    return root


def main(output_dir: str) -> Dataset:
    """
    Write a dataset in this layout, and its rows beside it as JSON lines.

    `dataset_path: outputs/custom_data/rows.jsonl` in a recipe reads the file, and so do `aurora check-data` and
    `aurora evaluate`. A trainer takes the rows as `train_dataset`.
    """
    folder = Path(output_dir)
    rows = load_labels(write_labels(folder / "labels"))
    dataset = load_json(save_json(rows, folder / "rows.jsonl"))
    require_valid(dataset)
    return dataset


if __name__ == "__main__":
    print(f"{len(main(sys.argv[1]))} rows")
