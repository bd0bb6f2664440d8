"""Masks as images: which of their pixels are the object."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from ..errors import DataError
from .media.images import open_image, require_undamaged, upright

# Modes of images that hold one number per pixel.
_NUMBERS = ("L", "P", "1", "I;16", "I;16B", "I", "F")
# Formats, and compressions of TIFF, whose pixels are not those that were saved.
_LOSSY, _LOSSY_TIFF = ("JPEG", "MPO", "AVIF"), ("jpeg", "tiff_jpeg", "webp")
_LEAST_LOSSY = 32  # below it there is nothing but noise
_MOST_LABELS = 16  # of an image with colours; more shades of them are soft edges


def read_mask_image(path: str, value: int | None = None, what: str = "mask") -> np.ndarray:
    """
    The pixels of an image that are the object: all that are not 0, or black, or those of one number.

    Args:
        path (`str`): the image. What is transparent in it is background. A palette is an index, too, where its colour
            0 is black; otherwise its colours are looked at. A format that loses detail leaves noise around 0: there
            it is what is nearer to the brightest.
        value (`int`, *optional*): the number of the object; some copies hold a class index, or one per object.
        what (`str`, *optional*, defaults to `"mask"`): what it is, for the message.

    Returns:
        `np.ndarray` of shape `(H, W)`, uint8, 0 or 1.

    Raises:
        `DataError`: names the file that can not be read, or in which nothing tells the object from the background.
    """
    with open_image(path, what) as image:
        require_undamaged(image, path)
        return _drawn(upright(image), path, value, lossy=_loses_detail(image, path))


def mask_values(path: str) -> list[int]:
    """
    The numbers above 0 that are drawn of a mask's file, where it holds one per pixel; of one with colours how bright
    they are, where these are so many that they show soft edges. Empty for any other.
    """
    with open_image(path, "mask") as image:
        if _loses_detail(image, path):
            return []
        drawn = _drawn(image, path, None, lossy=False) > 0
        if not _has_colours(image):
            return [int(value) for value in np.unique(np.asarray(image)[drawn]) if value]
        shades = [int(value) for value in np.unique(_brightness(image)[drawn]) if value]
        return shades if len(shades) > _MOST_LABELS else []


def _brightness(image: Image.Image) -> np.ndarray:
    red, green, blue, *_ = image.convert("RGBA" if image.has_transparency_data else "RGB").split()
    return np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))


def _loses_detail(image: Image.Image, path: str) -> bool:
    if image.format == "TIFF":
        return image.info.get("compression") in _LOSSY_TIFF
    if image.format == "WEBP":
        return b"VP8L" not in Path(path).read_bytes()
    if image.format == "JPEG2000":
        content = Path(path).read_bytes()
        style = content.find(b"\xff\x52", content.find(b"\xff\x4f\xff\x51"))  # after the start of its stream
        return content[style + 13 : style + 14] != b"\1"  # the wavelets that whole numbers come back from
    return image.format in _LOSSY


def _has_colours(image: Image.Image) -> bool:
    """Whether an image's background is a colour, black, and not the number 0."""
    return image.mode not in _NUMBERS or (image.mode == "P" and any((image.getpalette() or [])[:3]))


def _drawn(image: Image.Image, path: str, value: int | None, *, lossy: bool) -> np.ndarray:
    if value is not None:
        if lossy or image.mode not in _NUMBERS:
            raise DataError(f"{path}: `mask_value` needs an image of one number per pixel, such as a grey PNG")
        return (np.asarray(image) == value).astype(np.uint8)
    colours = _has_colours(image)
    plane = _brightness(image) if colours else np.asarray(image)
    if image.mode == "F" and (plane != np.floor(plane)).any():
        raise DataError(f"{path}: its pixels are fractions; save it with whole numbers, 0 for the background")
    drawn = plane > 0
    if lossy:
        brightest = int(plane.max())
        drawn = (plane > brightest // 2) & (brightest >= _LEAST_LOSSY)
    opaque = _opaque(image)
    if not opaque.all():
        # Black on nothing is an object, too; black on white is none, where black is not noise.
        return (opaque & (drawn if (drawn & opaque).any() and not lossy else True)).astype(np.uint8)
    if colours and drawn.all() and not lossy and _shows_two_things(image):
        what = "its palette has" if image.mode == "P" else "its colours have"
        raise DataError(f"{path}: {what} no black for the background; save it in grey, with 0 for the background")
    return drawn.astype(np.uint8)


def _shows_two_things(image: Image.Image) -> bool:
    """
    Whether an image without black may have its background in a colour, as matplotlib's `imsave` draws it. The colours
    of labels, in the palettes of VOC and AVSS, are multiples of 32, and may fill a frame.
    """
    if image.mode == "P":
        return len(np.unique(np.asarray(image))) > 1
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[0, 0]).any() and (pixels % 32).any())


def _opaque(image: Image.Image) -> np.ndarray:
    if not image.has_transparency_data:
        return np.ones((), bool)
    if image.mode.startswith("I"):  # whose only transparent number Pillow does not convert
        return np.asarray(image) != image.info["transparency"]
    return np.asarray(image.convert("RGBA").getchannel("A")) > 127
