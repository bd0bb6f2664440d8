"""Masks as editors, tools and data sets write them: each is the object and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_json
from aurora_trl.data.masks import decode_rle, load_masks

SIZE = (96, 64)


def ellipse(fill, mode="L", background=0):
    image = Image.new(mode, SIZE, background)
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), fill=fill)
    return image


TRUE = np.asarray(ellipse(255)) > 0


def with_alpha(color, background):
    image = Image.new("RGBA", SIZE, background)
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), fill=color)
    return image


def with_palette(transparency=None):
    image = Image.fromarray(TRUE.astype(np.uint8)).convert("P")
    image = Image.fromarray(np.where(TRUE, 1, 3 if transparency else 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 0, 250, 250, 250])
    return image


KINDS = {
    "white": ("png", ellipse(255), {}),
    "class index": ("png", ellipse(3), {}),
    "one bit": ("png", ellipse(1, "1"), {}),
    "16 bit": ("png", Image.fromarray((TRUE * 40000).astype(np.uint16)), {}),
    "RGB": ("png", ellipse((200, 0, 0), "RGB"), {}),
    "white on nothing": ("png", with_alpha((255, 255, 255, 255), (255, 255, 255, 0)), {}),
    "black on nothing": ("png", with_alpha((0, 0, 0, 255), (255, 255, 255, 0)), {}),
    "white on black, opaque": ("png", with_alpha((255, 255, 255, 255), (0, 0, 0, 255)), {}),
    "grey with alpha": ("png", with_alpha((255, 255, 255, 255), (255, 255, 255, 0)).convert("LA"), {}),
    "palette": ("png", with_palette(), {}),
    "palette, transparent": ("png", with_palette(3), {"transparency": 3}),
    "bmp": ("bmp", ellipse(255), {}),
    "tiff": ("tiff", ellipse(255), {}),
    "jpeg": ("jpg", ellipse(255), {"quality": 90}),
    "jpeg of 100": ("jpg", ellipse(100), {"quality": 75}),
    "webp": ("webp", ellipse(255), {"quality": 80}),
}


def write(folder, name, **more):
    Image.new("RGB", SIZE, (90, 90, 90)).save(folder / "frame.png")
    row = {"id": "1", "reference": "the ball", "class_name": "ball", "frames": ["frame.png"], "masks": [name], **more}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_object_is_drawn(kind, tmp_path):
    suffix, image, settings = KINDS[kind]
    image.save(tmp_path / f"mask.{suffix}", **settings)
    (mask,) = load_masks(load_json(write(tmp_path, f"mask.{suffix}"))[0])
    wrong = (mask.astype(bool) != TRUE).sum()
    assert wrong <= (0.02 * TRUE.sum() if suffix in ("jpg", "webp") else 0)


def test_an_empty_jpeg_is_empty(tmp_path):
    Image.new("L", SIZE, 3).save(tmp_path / "mask.jpg")
    assert not load_masks(load_json(write(tmp_path, "mask.jpg"))[0]).any()


def test_one_number_per_object(tmp_path, capsys):
    numbers = np.zeros((64, 96), np.uint8)
    numbers[5:20, 5:30], numbers[30:50, 40:90] = 2, 7
    Image.fromarray(numbers).save(tmp_path / "mask.png")
    assert main(["check-data", str(write(tmp_path, "mask.png"))]) == 1
    said = capsys.readouterr().out
    assert "mask.png: it holds several numbers (2, 7), and all that are not 0 are drawn" in said
    assert "set `mask_value` to the row's" in said
    for value, count in ((2, 15 * 25), (7, 20 * 50)):
        rows = load_json(write(tmp_path, "mask.png", mask_value=value))
        assert load_masks(rows[0]).sum() == count
        assert main(["check-data", str(tmp_path / "rows.jsonl")]) == 0
    assert main(["check-data", str(write(tmp_path, "mask.png", mask_value=5))]) == 1
    assert "no pixel of its masks is 5, its `mask_value`" in capsys.readouterr().out


def test_a_number_needs_numbers(tmp_path):
    ellipse(255).save(tmp_path / "mask.jpg")
    with pytest.raises(DataError, match=r"mask\.jpg: `mask_value` needs an image of one number per pixel"):
        load_masks(load_json(write(tmp_path, "mask.jpg", mask_value=2))[0])


def test_runs_as_numbers():
    runs, last, run = [], 0, 0
    for value in TRUE.flatten(order="F").astype(int).tolist():
        if value != last:
            runs.append(run)
            last, run = value, 0
        run += 1
    runs.append(run)
    assert (decode_rle(json.dumps({"size": [64, 96], "counts": runs})) == TRUE).all()
    with pytest.raises(DataError, match="its runs add up to"):
        decode_rle(json.dumps({"size": [64, 96], "counts": runs[:-1]}))
