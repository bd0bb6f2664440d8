"""Where frames and masks lie in the mask decoder's square."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.masks import NO_TARGET


@dataclass(frozen=True)
class MaskGeometry:
    """
    The square of a mask decoder: the longest side resized, the rest padded, as in segment-anything; or both sides
    resized, as in SAM 2.

    Attributes:
        image_size (`int`): side of the decoder's input, S, in pixels.
        target_size (`int`): side of the masks that losses and rewards compare, M, in pixels.
        pixel_mean, pixel_std (`list[float]`): normalisation per channel, for pixels in [0, 255].
        keep_aspect_ratio (`bool`): pad frames to a square; otherwise they are stretched to one.
    """

    image_size: int
    target_size: int
    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    keep_aspect_ratio: bool

    def process_frames(self, frames: np.ndarray) -> torch.Tensor:
        """Frames `(T, H, W, 3)` uint8 as the mask decoder sees them: `(T, 3, S, S)` float32, normalised, padded."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
        size = self._size_in_square(frames.shape[1:3], self.image_size)
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        mean = torch.tensor(self.pixel_mean).view(3, 1, 1)
        std = torch.tensor(self.pixel_std).view(3, 1, 1)
        return _pad_square((pixels - mean) / std, self.image_size)

    def process_masks(self, masks: np.ndarray) -> torch.Tensor:
        """Masks `(T, H, W)` in {0, 1} in the decoder's geometry: `(T, M, M)` uint8, `NO_TARGET` in the padding."""
        planes = torch.from_numpy(np.ascontiguousarray(masks))[:, None].float()
        size = self._size_in_square(masks.shape[1:3], self.target_size)
        planes = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)
        return _pad_square((planes >= 0.5).to(torch.uint8), self.target_size, NO_TARGET)[:, 0]

    def process_points(self, points: Sequence[Any], frame_size: tuple[int, int]) -> torch.Tensor:
        """
        Points in the decoder's square.

        Args:
            points (`list`): one list per frame, of `[x, y]` or `[x, y, 0 or 1]` in pixels; or None.
            frame_size (`tuple[int, int]`): height and width of the frames, in pixels.

        Returns:
            `torch.Tensor` of shape `(T, M, M)`, uint8: 1 at a point on the object, 0 at one off it, else `NO_TARGET`.
        """
        planes = torch.full((len(points), self.target_size, self.target_size), NO_TARGET, dtype=torch.uint8)
        height, width = self._size_in_square(frame_size, self.target_size)
        for plane, of_frame in zip(planes, points, strict=True):
            for x, y, *label in of_frame or ():
                row = min(max(int(y * height / frame_size[0]), 0), height - 1)
                column = min(max(int(x * width / frame_size[1]), 0), width - 1)
                plane[row, column] = int(label[0]) if label else 1
        return planes

    def place(self, shares: torch.Tensor, frame_size: tuple[int, int]) -> torch.Tensor:
        """
        Places in a frame as pixels of the decoder's square input, as its authors' predictors place prompts.

        Args:
            shares (`torch.Tensor` of shape `(..., 2)`): x and y, in shares of the frame's width and height.
            frame_size (`tuple[int, int]`): height and width of the frames, in pixels.

        Returns:
            `torch.Tensor` of shape `(..., 2)`: x and y.
        """
        height, width = self._size_in_square(frame_size, self.image_size)
        return shares * shares.new_tensor([width, height])

    def restore_masks(self, mask_logits: torch.Tensor, frame_size: tuple[int, int]) -> torch.Tensor:
        """
        Mask logits in the geometry of the frame: upsampled to the decoder's input, padding cut off.

        Args:
            mask_logits (`torch.Tensor` of shape `(T, h, w)`): from the decoder.
            frame_size (`tuple[int, int]`): height and width of the frames, in pixels.

        Returns:
            `torch.Tensor` of shape `(T, H', W')`: logits with the frame's aspect ratio, longest side S.
        """
        height, width = _longest_side(frame_size, self.image_size)
        size = (self.image_size, self.image_size) if self.keep_aspect_ratio else (height, width)
        logits = F.interpolate(mask_logits[:, None].float(), size, mode="bilinear", align_corners=False)
        return logits[:, 0, :height, :width]

    def _size_in_square(self, size: tuple[int, ...], target: int) -> tuple[int, int]:
        """Height and width that a frame takes in the decoder's square of this side."""
        return _longest_side(size, target) if self.keep_aspect_ratio else (target, target)

    # Files


def _longest_side(size: tuple[int, ...], target: int) -> tuple[int, int]:
    """Height and width after the longest side was scaled to `target`; of a strip the other one is a pixel."""
    scale = target / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _pad_square(planes: torch.Tensor, size: int, value: int = 0) -> torch.Tensor:
    """Pad `(N, C, H, W)` at the bottom and on the right to a square."""
    return F.pad(planes, (0, size - planes.shape[-1], 0, size - planes.shape[-2]), value=value)
