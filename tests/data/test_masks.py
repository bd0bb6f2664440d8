"""Masks as editors, tools and data sets write them: each is the object and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, features
from pycocotools import mask as coco

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_json
from aurora_trl.data.masks import decode_rle, encode_rle, load_masks
from aurora_trl.data.validation import find_problems

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


def numbered(thing, background, colours):
    image = Image.fromarray(np.where(TRUE, thing, background).astype(np.uint8), "P")
    image.putpalette(sum(colours, []))
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
    "dark colour": ("png", ellipse((0, 0, 3), "RGB"), {}),
    "four inks": ("tiff", ellipse((0, 0, 0, 0), "CMYK", (0, 0, 0, 255)), {}),
    "numbers as fractions": ("tiff", Image.fromarray(TRUE.astype(np.float32)), {}),
    "grey, transparent white": ("png", ellipse(0, "L", 255), {"transparency": 255}),
    "grey, transparent grey": ("png", ellipse(100, "L", 200), {"transparency": 200}),
    "one bit, transparent white": ("png", ellipse(0, "1", 1), {"transparency": 1}),
    "16 bit, transparent": ("png", Image.fromarray((TRUE * 900 + 7).astype(np.uint16)), {"transparency": 7}),
    "palette, object at 0": ("png", numbered(0, 1, [[250, 250, 250], [0, 0, 0]]), {}),
    "palette, all black": ("png", numbered(1, 0, [[0, 0, 0], [0, 0, 0]]), {}),
    "palette, transparent beside 0": ("png", numbered(0, 1, [[250, 0, 0], [0, 0, 0]]), {"transparency": 1}),
    "palette, several alphas": ("png", numbered(0, 1, [[0, 9, 0], [0, 0, 0]]), {"transparency": bytes([255, 0, 99])}),
    "colours quantized": ("png", ellipse((255, 0, 0), "RGB").quantize(16), {}),
    "adaptive palette": ("png", ellipse(255).convert("P", palette=Image.Palette.ADAPTIVE, colors=4), {}),
    "gif": ("gif", ellipse((255, 255, 255), "RGB"), {}),
    "gif, grey": ("gif", ellipse(255), {}),
    "gif, transparent": ("gif", with_alpha((255, 255, 255, 255), (0, 0, 0, 0)), {}),
    "webp of class index": ("webp", ellipse(1), {"lossless": True}),
    "webp, white on nothing": ("webp", with_alpha((255, 255, 255, 255), (255, 255, 255, 0)), {"quality": 80}),
    "webp, dark on nothing": ("webp", with_alpha((9, 0, 0, 255), (255, 255, 255, 0)), {"quality": 80}),
    "jpeg of blue": ("jpg", ellipse((0, 0, 255), "RGB"), {"quality": 90}),
    "tiff, jpeg": ("tiff", ellipse(255), {"compression": "jpeg"}),
    "jpeg 2000": ("jp2", ellipse(255), {"quality_mode": "rates", "quality_layers": [9], "irreversible": True}),
    "jpeg 2000 of class index": ("jp2", ellipse(1), {}),
    "avif": ("avif", ellipse(255), {"quality": 30}),
}
NEEDED = {"jp2": "jpg_2000", "avif": "avif", "webp": "webp"}


def write(folder, name, **more):
    Image.new("RGB", SIZE, (90, 90, 90)).save(folder / "frame.png")
    row = {"id": "1", "reference": "the ball", "class_name": "ball", "frames": ["frame.png"], "masks": [name], **more}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


def in_file(folder, size):
    """A row whose mask is the whole of a JSON file."""
    return {"id": "1", "frames": [str(folder / "frame.png")], "masks": [f"{folder}/masks.json#json=0-{size}"]}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_object_is_drawn(kind, tmp_path):
    suffix, image, settings = KINDS[kind]
    if suffix in NEEDED and not features.check(NEEDED[suffix]):
        pytest.skip("this Pillow has no such format")
    image.save(tmp_path / f"mask.{suffix}", **settings)
    row = load_json(write(tmp_path, f"mask.{suffix}"))[0]
    (mask,) = load_masks(row)
    wrong = (mask.astype(bool) != TRUE).sum()
    assert wrong <= (0.02 * TRUE.sum() if suffix in ("jpg", "webp", "avif", "jp2") or "jpeg" in kind else 0)
    assert find_problems([row]) == []


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


def test_a_background_that_nothing_shows_is_named(tmp_path):
    grey = numbered(0, 1, [[120, 120, 120], [200, 0, 0]])
    grey.save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png: its palette has no black for the background; save it in grey"):
        load_masks(load_json(write(tmp_path, "mask.png"))[0])
    assert (load_masks(load_json(write(tmp_path, "mask.png", mask_value=1))[0])[0] != TRUE).all()
    Image.fromarray(TRUE.astype(np.float32) * 0.4).save(tmp_path / "mask.tiff")
    with pytest.raises(DataError, match=r"mask\.tiff: its pixels are fractions; save it with whole numbers"):
        load_masks(load_json(write(tmp_path, "mask.tiff"))[0])


def test_numbers_of_a_palette_stay_numbers(tmp_path):
    """DAVIS and Ref-YouTube-VOS: black at 0, and a number that no object has around the objects."""
    Image.new("RGB", SIZE).save(tmp_path / "frame.png")
    numbers = np.zeros(SIZE[::-1], np.uint8)
    numbers[5:20, 5:30], numbers[30:50, 40:90], numbers[0] = 1, 2, 255
    image = Image.fromarray(numbers, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 0, 0] + [0] * 756 + [224, 224, 192])
    image.save(tmp_path / "mask.png")
    for value, drawn in ((None, numbers > 0), (1, numbers == 1), (2, numbers == 2), (255, numbers == 255)):
        assert (load_masks(load_json(write(tmp_path, "mask.png", mask_value=value))[0])[0] == drawn).all()


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


WHOLE = json.loads(encode_rle(TRUE))
COUNTS = WHOLE["counts"]


@pytest.mark.parametrize("density", [0, 0.001, 0.1, 0.5, 1])
def test_run_lengths_are_what_coco_draws(density):
    planes = np.random.default_rng(0).random((37, 53)) < density
    encoded = encode_rle(planes)
    decoded = decode_rle(encoded)
    assert (decoded == planes).all()
    rle = json.loads(encoded)
    assert (decoded == coco.decode({**rle, "counts": rle["counts"].encode()})).all()
    assert (decoded.dtype, decoded.flags.f_contiguous) == (np.uint8, True)


@pytest.mark.parametrize(
    ("rle", "said"),
    [
        ({"counts": COUNTS[: len(COUNTS) // 2]}, "its runs add up to [0-9]+ pixels, not 64 x 96"),
        ({"counts": ""}, "`counts` is cut short"),
        ({"counts": "hello world"}, "`counts` is cut short, or not COCO's text"),
        ({"counts": "o" * 40}, "`counts` is cut short, or not COCO's text"),
        ({"counts": [1000.5, 5143.5]}, "`counts` must be whole numbers"),
        ({"counts": [-1, 6145]}, "`counts` must be whole numbers"),
        ({"counts": None}, "`counts` must be a list of numbers"),
        ({"size": [64, 128]}, "its runs add up to 6144 pixels, not 64 x 128"),
        ({"size": [64, 48]}, "its runs add up to 6144 pixels, not 64 x 48"),
        ({"size": [-64, 96]}, "`size` must be whole numbers"),
        ({"size": [64.9, 96.9]}, "`size` must be whole numbers"),
        ({"size": [10**12, 96]}, "`size` must be whole numbers from 0 to"),
        ({"size": [2**20, 2**20]}, "`size` must be height and width"),
        ({"size": [10**40, 96]}, "`size` must be a list of numbers"),
        ({"size": [64, 96, 1]}, "`size` must be height and width"),
        ({"size": [0, 0]}, "`size` must be height and width"),
    ],
)
def test_run_lengths_that_do_not_fill_their_size_are_named(rle, said, tmp_path, capsys):
    rows = write(tmp_path, {**WHOLE, **rle})
    with pytest.raises(DataError, match=rf"row '1': not a COCO run-length encoding: .*{said}"):
        load_masks(load_json(rows)[0])
    assert main(["check-data", str(rows)]) == 1
    assert "1 problems (1 unreadable)" in capsys.readouterr().out
    (tmp_path / "masks.json").write_text(text := json.dumps({"segmentation": {**WHOLE, **rle}}))
    with pytest.raises(DataError, match=rf"masks\.json.*: not a COCO run-length encoding: .*{said}"):
        load_masks(in_file(tmp_path, len(text)))


@pytest.mark.parametrize("corner", ["NaN", "Infinity", "-1e30", "1" + "0" * 400])
def test_corners_that_are_no_pixels_are_named(corner, tmp_path):
    outlines = f"[[{corner}, 1, 30, 1, 30, 30]]"
    with pytest.raises(DataError, match=r"row '1': not polygons"):
        load_masks(load_json(write(tmp_path, f'{{"polygons": {outlines}}}'))[0])
    (tmp_path / "masks.json").write_text(outlines)
    with pytest.raises(DataError, match=r"masks\.json.*: not outlines"):
        load_masks(in_file(tmp_path, len(outlines)))


def test_shares_of_the_frame_and_outlines_outside_it(tmp_path, capsys):
    rows = write(tmp_path, {"polygons": [[0.2, 0.2, 0.8, 0.2, 0.8, 0.8]]})
    with pytest.raises(DataError, match=r"row '1': not polygons: .*give them in pixels, not as shares of the frame"):
        load_masks(load_json(rows)[0])
    assert main(["check-data", str(rows), "--quick"]) == 1
    # A part of the frame's corner, and an object that leaves the frame, are honest.
    for outline, pixels in (([0, 0, 1, 0, 1, 1, 0, 1], 4), ([90, 10, 120, 10, 120, 20, 90, 20], 6 * 11)):
        rows = write(tmp_path, {"polygons": [outline]})
        assert load_masks(load_json(rows)[0]).sum() == pixels
        assert main(["check-data", str(rows)]) == 0
    capsys.readouterr()
    for outline in ([96, 10, 120, 10, 120, 20], [10, 64, 40, 64, 40, 90], [-9, 5, -1, 5, -1, 9]):
        rows = write(tmp_path, {"polygons": [outline]})
        assert main(["check-data", str(rows)]) == 1
        assert "all outlines of a mask lie outside its frame of 96x64 pixels" in capsys.readouterr().out


VIRIDIS = np.where(TRUE[..., None], [253, 231, 37], [68, 1, 84]).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_without_black_are_named(mode, tmp_path):
    """What matplotlib's `imsave` writes, unless it is told to be grey."""
    Image.fromarray(VIRIDIS).convert(mode).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png: its colours have no black for the background; save it in grey"):
        load_masks(load_json(write(tmp_path, "mask.png"))[0])
    # One colour, and the colours of labels, may fill a frame.
    for colours in ([[9, 9, 9], [9, 9, 9]], [[128, 0, 0], [0, 64, 128]]):
        Image.fromarray(np.where(TRUE[..., None], *colours).astype(np.uint8)).save(tmp_path / "mask.png")
        assert load_masks(load_json(write(tmp_path, "mask.png"))[0]).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "LA"])
def test_soft_edges_are_told(mode, tmp_path):
    large = Image.new("L", (8 * SIZE[0], 8 * SIZE[1]))
    ImageDraw.Draw(large).ellipse((160, 80, 560, 400), fill=255)
    large.resize(SIZE, Image.Resampling.BILINEAR).convert(mode).save(tmp_path / "mask.png")
    (problem,) = find_problems(load_json(write(tmp_path, "mask.png")).to_list())
    assert (problem.kind, problem.stops_training) == ("mask values", False)
    assert "where they are soft edges, save 0 and 255 alone" in problem.text


@pytest.mark.parametrize("suffix", ["tiff", "gif", "png"])
def test_a_file_of_several_masks_is_named(suffix, tmp_path):
    more = {"save_all": True, "append_images": [ellipse(0), ellipse(99)]}
    ellipse(255).save(tmp_path / f"mask.{suffix}", **more)
    with pytest.raises(DataError, match=rf"mask\.{suffix}: it holds 3 pictures in place of one mask"):
        load_masks(load_json(write(tmp_path, f"mask.{suffix}"))[0])


def test_object_and_background_swapped_are_told(tmp_path):
    encoded = json.loads(encode_rle(~TRUE))
    ellipse(0, "1", 1).save(tmp_path / "mask.png")
    for mask in ("mask.png", encoded):
        (problem,) = find_problems(load_json(write(tmp_path, mask)).to_list())
        assert (problem.kind, problem.stops_training) == ("inverted mask", False)
        assert problem.text.startswith("row '1': its masks draw what lies around something")
    # What fills the frame, but for a crumb, or leaves one edge free, is an object.
    crumb, beside = np.ones(SIZE[::-1], bool), ~TRUE
    crumb[20:25, 20:25], beside[0] = False, False
    for mask in (crumb, beside, np.ones(SIZE[::-1], bool)):
        assert find_problems(load_json(write(tmp_path, json.loads(encode_rle(mask)))).to_list()) == []


def test_outlines_of_pairs(tmp_path):
    flat = {"polygons": [[10, 10, 30, 10, 30, 30]]}
    pairs = {"polygons": [[[10, 10], [30, 10], [30, 30]]]}
    drawn = [load_masks(load_json(write(tmp_path, mask))[0]) for mask in (flat, pairs)]
    assert drawn[0].any()
    assert (drawn[0] == drawn[1]).all()
