"""Images as a viewer shows them, and files that are more than one picture."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from aurora_trl.data.masks import load_masks
from aurora_trl.data.media.images import read_image
from aurora_trl.data.media.loading import load_frames
from aurora_trl.data.schema import DataError
from aurora_trl.data.validation import find_problems


def pictures():
    return [Image.new("RGB", (32, 24), (60 * i, 9, 9)) for i in range(4)]


def row_of(path, **columns):
    return {"id": "a", "reference": "x", "is_null": True, "frames": [str(path)], **columns}


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff", "avif"])
def test_a_file_with_several_pictures_is_no_frame_and_no_mask(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    first, *others = pictures()
    first.save(path, save_all=True, append_images=others, duration=100)
    said = f"a.{suffix}: it holds 4 pictures"
    with pytest.raises(DataError, match=f"{said} in place of one frame"):
        load_frames(row_of(path), num_frames=1)
    assert said in find_problems([row_of(path)], thorough=False)[0].text
    first.save(tmp_path / "frame.png")
    masked = row_of(tmp_path / "frame.png", is_null=False, masks=[str(path)])
    with pytest.raises(DataError, match=f"{said} in place of one mask"):
        load_masks(masked)


def test_a_preview_behind_a_picture_is_no_other_picture(tmp_path):
    """Cameras write them into JPEG, and viewers of large slides into TIFF."""
    _, other, large, _ = pictures()
    small = other.resize((8, 6))
    large.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[small])
    with (tmp_path / "b.tiff").open("w+b") as file, TiffImagePlugin.AppendingTiffWriter(file, new=True) as pages:
        large.save(pages, "TIFF")
        pages.newFrame()
        small.save(pages, "TIFF", tiffinfo={254: 1})
        pages.newFrame()
    for name in ("a.jpg", "b.tiff"):
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
        assert np.abs(read_image(str(tmp_path / name)).astype(int) - (120, 9, 9)).max() < 4
        assert find_problems([row_of(tmp_path / name)]) == []


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_whatever_colour_it_hides(kind, tmp_path):
    opacity = np.repeat([[0, 51, 255, 255]], 2, axis=0).astype(np.uint8)
    grey = np.full((2, 4), 100, np.uint8)
    if kind == "P":
        image = Image.fromarray(np.array([[0, 1, 1, 1]] * 2, np.uint8), "P")
        image.putpalette([7, 7, 7, 100, 100, 100])
        image.save(tmp_path / "a.png", transparency=0)
        expected = [255, 100, 100, 100]
    else:
        Image.fromarray(np.dstack([grey] * (3 if kind == "RGBA" else 1) + [opacity])).save(tmp_path / "a.png")
        expected = [255, 224, 100, 100]  # a fifth of 100, and four of 255
    read = read_image(str(tmp_path / "a.png"))
    assert read.shape == (2, 4, 3)
    assert read[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("suffix", ["bmp", "tga", "png"])
def test_a_fourth_byte_that_nobody_set_hides_nothing(suffix, tmp_path):
    pixels = np.full((6, 8, 4), 90, np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert (read_image(str(tmp_path / f"a.{suffix}")) == 90).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize(("peak", "fits"), [(0, True), (255, False), (4095, False), (4096, True), (65535, True)])
def test_numbers_that_do_not_use_their_16_bits(suffix, peak, fits, tmp_path):
    """Of 8 or 12 bits that nobody scaled the upper 8 are black."""
    grey = np.zeros((6, 8), np.uint16)
    grey[2:4] = peak
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey).save(path)
    if fits:
        assert read_image(str(path))[3, 3].tolist() == [peak >> 8] * 3
        assert find_problems([row_of(path)]) == []
    else:
        with pytest.raises(DataError, match=rf"a.{suffix}: its numbers go from 0 to {peak:,}, .* scale them"):
            read_image(str(path))
        assert [problem.kind for problem in find_problems([row_of(path)])] == ["unreadable"]


def test_numbers_beyond_16_bits(tmp_path):
    Image.fromarray(np.full((6, 8), 1 << 20, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="go from 1,048,576 to 1,048,576, and those of 16 bits to 65,535"):
        read_image(str(tmp_path / "a.tiff"))


def test_a_damaged_png_is_no_other_picture(tmp_path):
    """Pillow decodes most damage to other pixels, and the file has checksums."""
    path = tmp_path / "a.png"
    rows, columns = np.mgrid[:120, :160]
    Image.fromarray(((rows + columns) // 2).astype(np.uint8)).save(path)
    Image.new("RGB", (160, 120)).save(tmp_path / "frame.png")
    content = path.read_bytes()
    silent = 0
    for place in range(60, len(content) - 40, 8):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            np.asarray(Image.open(path))
            silent += 1
        except OSError:
            pass
        with pytest.raises(DataError, match="a.png: can not be read as an image: broken "):
            read_image(str(path))
    assert silent > 2
    assert [problem.kind for problem in find_problems([row_of(path)])] == ["unreadable"]
    masked = row_of(tmp_path / "frame.png", is_null=False, masks=[str(path)])
    with pytest.raises(DataError, match="a.png: can not be read as an image: broken "):
        load_masks(masked)
    assert "broken " in find_problems([masked])[0].text
