"""Processor of VideoLLaMA2.1-AV: frames as SigLIP sees them, sound as a kaldi filter bank, places in the text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.audio_utils import mel_filter_bank

from ....prompts import AUDIO_TOKEN, VIDEO_TOKEN
from ....text_files import read_json
from ..timing import nearest_sound
from .configuration_videollama2 import VideoLlama2Config

SETTINGS_FILE = "processor_config.json"
EPSILON = 1.1920928955078125e-07  # kaldi's floor under the logarithm: the smallest float32 step at 1


class VideoLlama2Processor(ProcessorMixin):
    r"""
    Frames, sound and placeholders of [`VideoLlama2ForConditionalGeneration`]. The defaults are the published model's.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): knows `<video>` and `<audio>` as single tokens.
        image_size, patch_size (`int`): the vision tower's input and patch, in pixels.
        image_mean, image_std (`float`): normalisation of pixels in [0, 1].
        sampling_rate (`int`): of the sound, in Hz.
        audio_seconds (`float`): of a longer sound this much is heard, see
            [`~aurora_trl.models.policies.timing.nearest_sound`].
        pad_audio (`bool`): and zero-padded to it, as the checkpoint has heard it. Otherwise a clip's sound keeps its
            own length and silence takes no places, which is cheaper and a little different.
        num_mel_bins, audio_patch_size (`int`): the audio tower's bins and patch.
        frame_length_ms, frame_shift_ms (`float`): window and step of the filter bank, in milliseconds.
        audio_mean, audio_std (`float`): the bank is normalised as `(x - mean) / (2 std)`.

    Raises:
        `ValueError`: where the tokenizer lacks a placeholder.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int = 384,
        patch_size: int = 14,
        image_mean: float = 0.5,
        image_std: float = 0.5,
        sampling_rate: int = 16000,
        audio_seconds: float = 30.0,
        num_mel_bins: int = 128,
        audio_patch_size: int = 16,
        frame_length_ms: float = 25.0,
        frame_shift_ms: float = 10.0,
        audio_mean: float = 15.41663,
        audio_std: float = 6.55582,
        pad_audio: bool = True,
    ):
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.patch_size = patch_size
        self.image_mean = image_mean
        self.image_std = image_std
        self.sampling_rate = sampling_rate
        self.audio_seconds = audio_seconds
        self.num_mel_bins = num_mel_bins
        self.audio_patch_size = audio_patch_size
        self.frame_length_ms = frame_length_ms
        self.frame_shift_ms = frame_shift_ms
        self.audio_mean = audio_mean
        self.audio_std = audio_std
        self.pad_audio = pad_audio
        self._filters: torch.Tensor | None = None
        vocabulary = tokenizer.get_vocab()
        for token in (VIDEO_TOKEN, AUDIO_TOKEN):
            if token not in vocabulary:
                raise ValueError(f"the tokenizer has no {token} token: add it as a special token")

    def __repr__(self) -> str:
        return f"VideoLlama2Processor({self.settings()})"

    @property
    def video_token_id(self) -> int:
        """Id of `<video>`."""
        return self.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)

    @property
    def audio_token_id(self) -> int:
        """Id of `<audio>`."""
        return self.tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)

    @property
    def longest_sound(self) -> int:
        """How much of a sound is heard, in samples."""
        return int(self.audio_seconds * self.sampling_rate)

    def process_video(self, frames: np.ndarray) -> torch.Tensor:
        """
        Pad to a square with the mean colour, resize, normalise.

        Args:
            frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB.

        Returns:
            `torch.Tensor` of shape `(T, 3, image_size, image_size)`.
        """
        height, width = frames.shape[1:3]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        edges = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
        squares = np.pad(frames, edges, constant_values=int(self.image_mean * 255))
        # Pillow, as upstream: torchvision's bicubic differs by a grey level here and there.
        size = (self.image_size, self.image_size)
        images = (Image.fromarray(square).resize(size, Image.Resampling.BICUBIC) for square in squares)
        resized = np.stack([np.asarray(image) for image in images])
        pixels = torch.from_numpy(resized).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - self.image_mean) / self.image_std

    def process_audio(self, waveform: np.ndarray) -> torch.Tensor:
        """
        Args:
            waveform (`np.ndarray` of shape `(samples,)`, float32): mono, in [-1, 1], at `sampling_rate`.

        Returns:
            `torch.Tensor` of shape `(frames, num_mel_bins)`: a normalised kaldi filter bank.
        """
        wave = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        longest = self.longest_sound
        # A breath of sound still fills one patch.
        patch_ms = self.frame_length_ms + (self.audio_patch_size - 1) * self.frame_shift_ms
        shortest = longest if self.pad_audio else int(self.sampling_rate * patch_ms / 1000)
        wave = F.pad(wave[:longest], (0, max(0, shortest - min(longest, wave.numel()))))
        return (self._filter_bank(wave * 2**15) - self.audio_mean) / (2 * self.audio_std)

    def _filter_bank(self, wave: torch.Tensor) -> torch.Tensor:
        """Kaldi's log mel filter bank with its defaults, no dither, `(frames, bins)`: all windows in one transform."""
        length = int(self.sampling_rate * self.frame_length_ms / 1000)
        shift = int(self.sampling_rate * self.frame_shift_ms / 1000)
        size = 1 << (length - 1).bit_length()
        windows = wave.unfold(0, length, shift)
        windows = windows - windows.mean(dim=1, keepdim=True)
        windows = windows - 0.97 * torch.cat([windows[:, :1], windows[:, :-1]], dim=1)  # pre-emphasis
        windows = windows * torch.hann_window(length, periodic=False).pow(0.85)  # the Povey window
        power = torch.fft.rfft(windows, n=size).abs().pow(2)
        if self._filters is None:
            filters = mel_filter_bank(
                num_frequency_bins=size // 2 + 1,
                num_mel_filters=self.num_mel_bins,
                min_frequency=20,
                max_frequency=self.sampling_rate / 2,
                sampling_rate=self.sampling_rate,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
            self._filters = torch.from_numpy(filters).float()
        return (power @ self._filters).clamp(min=EPSILON).log()

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB.
            waveform (`np.ndarray` of shape `(samples,)`, float32, or `None`): see `process_audio`; None: no sound.
            frame_seconds (`Sequence[float]`, *optional*): when the frames are shown, for a sound that is too long.

        Returns:
            `dict`: `pixel_values_videos` `(T, 3, P, P)` and, where there is sound, `audio_values` `(F, M)`, with its
            length `audio_lengths` `()` where sounds are not padded to one.
        """
        # The connector joins frames in pairs, and would leave out an odd one.
        media = {
            "pixel_values_videos": self.process_video(np.concatenate([frames, frames[-1:]][: 1 + len(frames) % 2]))
        }
        if waveform is not None:
            waveform = nearest_sound(waveform, self.longest_sound, self.sampling_rate, frame_seconds, len(frames))
            media["audio_values"] = self.process_audio(waveform)
            if not self.pad_audio:
                media["audio_lengths"] = torch.tensor(len(media["audio_values"]))
        return media

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """
        Give each feature its place.

        Args:
            ids (`list[int]`): a prompt with one `<video>` and at most one `<audio>`.
            media (`dict`): from `process_media`; without `audio_values` the place of sound is taken out.

        Returns:
            `list[int]`: the prompt as the model sees it.
        """
        side = self.image_size // self.patch_size // 2
        counts = {self.video_token_id: len(media["pixel_values_videos"]) // 2 * side * side}
        patch = self.audio_patch_size
        num_audio_frames = len(media["audio_values"]) if "audio_values" in media else 0
        counts[self.audio_token_id] = num_audio_frames // patch * (self.num_mel_bins // patch)
        return [token for token in ids for _ in range(counts.get(token, 1))]

    def settings(self) -> dict[str, Any]:
        """What `processor_config.json` holds."""
        return {k: v for k, v in vars(self).items() if k != "tokenizer" and not k.startswith("_")}

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Write the tokenizer and `processor_config.json`."""
        directory = Path(save_directory)
        self.tokenizer.save_pretrained(directory)
        settings = {"processor_class": type(self).__name__, **self.settings()}
        (directory / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        return [str(directory / SETTINGS_FILE)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "VideoLlama2Processor":
        """Load from a folder or a Hub repository."""
        from transformers.utils import cached_file

        file = cached_file(str(pretrained_model_name_or_path), SETTINGS_FILE, **kwargs)
        settings = read_json(file)
        settings.pop("processor_class", None)
        return cls(AutoTokenizer.from_pretrained(str(pretrained_model_name_or_path), **kwargs), **settings)


AutoProcessor.register(VideoLlama2Config, VideoLlama2Processor)
