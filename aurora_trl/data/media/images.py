"""Images of any kind as pixels: upright, of 8 bits, and one to a file."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ...errors import DataError

# What Pillow's readers of many formats raise where bytes are not those that they expect.
_REFUSALS = (
    *(OSError, SyntaxError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)
# Of files that hold several pictures, those whose first one is the picture: behind it are a camera's previews, and
# layers.
_FIRST_IS_ALL = ("MPO", "PSD")
_SUBFILE_TYPE, _PREVIEW_OR_MASK = 254, 1 | 4  # of TIFF
# Of 16 bits; where nothing is brighter, they are 8 to 12 bits that nobody scaled: 8 bits of them would be black.
_DARKEST, _MOST_LEVELS = 1 << 12, 1 << 16


@contextmanager
def open_image(path: str, what: str = "frame") -> Iterator[Image.Image]:
    """
    An image, to be read in the block.

    Args:
        path (`str`): the file.
        what (`str`, *optional*, defaults to `"frame"`): what it is, for the message.

    Raises:
        `DataError`: names the file that is missing, holds several pictures, or that Pillow refuses, in the block too:
            of a damaged file by almost any exception.
    """
    try:
        with Image.open(path) as image:
            count = _count_pictures(image)
            if count > 1:
                raise DataError(
                    f"{path}: it holds {count} pictures in place of one {what}; save each as a file of its own, or "
                    "give an animation as `video`"
                )
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise DataError(f"{path}: it has more than {most:.0f} megapixels; make it smaller") from None
    except _REFUSALS as error:
        raise DataError(f"{path}: can not be read as an image: {error or type(error).__name__}") from None


def _count_pictures(image: Image.Image) -> int:
    """How many pictures a file holds, each of which is one of its own: an animation's, or the pages of a TIFF."""
    count = 1 if image.format in _FIRST_IS_ALL else getattr(image, "n_frames", 1)
    if count == 1 or image.format != "TIFF":
        return count
    kinds = []
    for page in range(count):
        image.seek(page)
        kinds.append(image.tag_v2.get(_SUBFILE_TYPE, 0))  # type: ignore[attr-defined]
    image.seek(0)
    return 1 + sum(not kind & _PREVIEW_OR_MASK for kind in kinds[1:])


def is_animation(image: Image.Image) -> bool:
    """Whether a file's pictures follow one another in time; the pages of a TIFF do not."""
    return image.format != "TIFF" and _count_pictures(image) > 1


def read_image(path: str) -> np.ndarray:
    """
    The pixels of an image.

    Args:
        path (`str`): the file.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8, RGB, as `rgb_pixels` gives them.

    Raises:
        `DataError`: names the file that is missing or can not be read.
    """
    with open_image(path) as image:
        require_undamaged(image, path)
        return rgb_pixels(image, path)


def require_undamaged(image: Image.Image, path: str) -> None:
    """Raise, in the block of `open_image`, where the checksums in a file differ, at which Pillow does not look."""
    if image.format == "PNG":
        with Image.open(path) as again:
            again.verify()


def rgb_pixels(image: Image.Image, name: str) -> np.ndarray:
    """
    The pixels of an image as a viewer shows it: upright, and on white where it is transparent.

    Args:
        image (`Image.Image`): of any mode.
        name (`str`): what it is called, for the message.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8, RGB.

    Raises:
        `DataError`: where its pixels are fractions, or numbers that do not use the 16 bits that they have.
    """
    picture = upright(image)
    if picture.mode == "F":
        raise DataError(f"{name}: its pixels are fractions; save it with 8 bits per channel")
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off above 255
        levels = np.asarray(picture)
        lowest, peak = int(levels.min()), int(levels.max())
        if lowest < 0 or 0 < peak < _DARKEST or peak >= _MOST_LEVELS:
            raise DataError(
                f"{name}: its numbers go from {lowest:,} to {peak:,}, and those of 16 bits to 65,535; scale them, or "
                "save it with 8 bits per channel"
            )
        return np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        return on_white(np.asarray(picture.convert("RGBA")))
    return np.asarray(picture.convert("RGB"))


def on_white(pixels: np.ndarray) -> np.ndarray:
    """
    Pixels `(H, W, 4)`, uint8, RGBA, as they look on white: `(H, W, 3)`. What is transparent hides any colour.

    Where all of them are, it means nothing: BMP, TGA and screen recordings have a fourth byte that is left at 0.
    """
    if not pixels[..., 3].any() or (pixels[..., 3] == 255).all():
        return pixels[..., :3]
    share = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def upright(image: Image.Image) -> Image.Image:
    """A photograph as a viewer shows it: cameras store it as the sensor lay, mirrored too, and say so in its EXIF."""
    if _orientation(image) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width in pixels of an image as a viewer shows it, from its header."""
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """The place of EXIF for it; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and not any("exif" in str(key).lower() for key in image.info):
        return 1  # its EXIF stands before the pixels, and asking for it would decode them
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, struct.error):
        return 1  # not EXIF, as viewers see it
