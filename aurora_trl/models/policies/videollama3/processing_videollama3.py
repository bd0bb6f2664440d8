"""Processor of VideoLLaMA3 as a policy: frames in its own format, one clip at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, VideoLlama3Processor

from ..timing import extend_seconds
from .configuration_videollama3 import VideoLlama3PolicyConfig


class VideoLlama3PolicyProcessor(VideoLlama3Processor):
    r"""
    Processor of [`VideoLlama3Policy`]. It does not hear. Each frame of a clip stands in the prompt after the time in
    words. A part of a frame that looks as it did in the frame before has no place, unless `use_token_compression` of
    the published video processor is off.

    Args:
        image_processor, tokenizer, video_processor, chat_template: as in transformers.
        seconds_per_frame (`float`, *optional*, defaults to 1.0): between the frames that the policy sees, of a clip
            that has no times: a list of images without sound.
        video_max_pixels (`int`, *optional*): that a clip's frame has at most; 784 make a place, where patches have 14
            pixels. By default the frames share what the published video processor gives a whole clip.
    """

    sampling_rate = None

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | None = None,
        seconds_per_frame: float = 1.0,
        video_max_pixels: int | None = None,
    ):
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        self.seconds_per_frame = seconds_per_frame
        self.video_max_pixels = video_max_pixels
        if chat_template is not None:  # published beside the tokenizer, which is asked for it here
            self.tokenizer.chat_template = chat_template

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        See [`~aurora_trl.models.policies.base.PolicyProcessor`]; the sound is left out. Behind the grid stands the
        millisecond at which each frame is shown.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        if len(pixels) == 1:
            made = self.image_processor(images=[pixels[0]], return_tensors="pt")
            patches, grid, merged = (made[name] for name in ("pixel_values", "image_grid_thw", "image_merge_sizes"))
            kept = torch.ones(int(grid.prod()) // int(merged) ** 2, dtype=torch.bool)
        else:
            size = self._clip_size(len(pixels))
            made = self.video_processor(videos=[pixels], do_sample_frames=False, size=size, return_tensors="pt")
            names = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes", "video_compression_mask")
            patches, grid, merged, kept = (made[name] for name in names)
        seconds = extend_seconds(frame_seconds, len(frames), self.seconds_per_frame)
        moments = [round(1000 * moment) for moment in seconds]
        return {
            "pixel_patches": patches,
            "pixel_grid": torch.tensor([*grid[0].tolist(), int(merged), *moments]),
            "pixel_kept": kept,
        }

    def _clip_size(self, num_frames: int) -> dict[str, int]:
        """Pixels that a frame has at least, and that a clip has at most."""
        size = self.video_processor.size
        shortest, longest = size["shortest_edge"], size["longest_edge"]
        if self.video_max_pixels is not None:
            shortest = min(shortest, self.video_max_pixels)
            longest = min(longest, self.video_max_pixels * num_frames)
        return {"shortest_edge": shortest, "longest_edge": longest}

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]; one frame takes the places of an image."""
        steps, _, _, _, *moments = media["pixel_grid"].tolist()
        counts = media["pixel_kept"].view(steps, -1).sum(dim=1).tolist()
        if steps == 1:
            places = [self.image_token_id] * counts[0]
        else:
            places = []
            for number, (moment, count) in enumerate(zip(moments, counts, strict=True)):
                time = f"{',' if number else ''}Time {moment / 1000:.1f}s:"
                places += self.tokenizer(time, add_special_tokens=False)["input_ids"]
                places += [self.video_token_id] * count
        return [expanded for token in ids for expanded in (places if token == self.video_token_id else [token])]


AutoProcessor.register(VideoLlama3PolicyConfig, VideoLlama3PolicyProcessor)
