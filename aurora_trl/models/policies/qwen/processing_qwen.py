"""Processors of the Qwen policies: frames and sound in Qwen's own format, one clip at a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

from ..base import RELATIVE_SIZE
from ..timing import extend_seconds, nearest_sound
from .configuration_qwen import Qwen3OmniPolicyConfig, Qwen3VLPolicyConfig, QwenOmniPolicyConfig, QwenVLPolicyConfig


class QwenFrames:
    """Mixed into a processor of transformers, whose image and video processors it runs."""

    tokenizer: Any
    image_processor: Any
    video_processor: Any
    image_token_id: int
    video_token_id: int
    seconds_per_frame: float

    @property
    def video_max_pixels(self) -> int:
        """Pixels that a clip's frame has at most; 784 of two frames make a place, where patches have 14 pixels."""
        return self.video_processor.size["longest_edge"]

    @video_max_pixels.setter
    def video_max_pixels(self, value: int) -> None:
        size = self.video_processor.size
        self.video_processor.size = {"shortest_edge": min(size["shortest_edge"], value), "longest_edge": value}

    def process_frames(
        self, frames: np.ndarray, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB; one frame is an image.
            frame_seconds (`Sequence[float]`, *optional*): when they are shown.

        Returns:
            `dict`: `pixel_patches` `(N, P)` and `pixel_grid` `(4,)`, see [`QwenBackbone.encode_media`].
        """
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        if len(pixels) == 1:
            made = self.image_processor(images=[pixels[0]], return_tensors="pt")
            patches, grid, milliseconds = made["pixel_values"], made["image_grid_thw"][0], 0
        else:
            made = self.video_processor(videos=[pixels], do_sample_frames=False, return_tensors="pt")
            patches, grid = made["pixel_values_videos"], made["video_grid_thw"][0]
            seconds = extend_seconds(frame_seconds, len(frames), self.seconds_per_frame)
            step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
            # Whole milliseconds: a float would be rounded where a trainer casts its inputs to half precision.
            milliseconds = max(1, round(1000 * step * self.video_processor.temporal_patch_size))
        return {"pixel_patches": patches, "pixel_grid": torch.tensor([*grid.tolist(), milliseconds])}

    def coordinate_size(self, media: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Height and width of a frame as Qwen2.5 speaks of places in it: in pixels, after it was resized."""
        _, rows, columns, *_ = media["pixel_grid"].tolist()
        side = self.video_processor.patch_size
        return rows * side, columns * side

    def expand_frames(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """The prompt with one place per visual feature; an image takes the places that Qwen has for images."""
        *grid, milliseconds = media["pixel_grid"].tolist()
        place = self.video_token_id if milliseconds else self.image_token_id
        places = [place] * (int(np.prod(grid)) // self.video_processor.merge_size**2)
        return [expanded for token in ids for expanded in (places if token == self.video_token_id else [token])]

    def _share_chat_template(self, chat_template: str | None) -> None:
        """Published processors keep the template beside the tokenizer, which is asked for it here."""
        if chat_template is not None:
            self.tokenizer.chat_template = chat_template


class QwenSilentProcessor(QwenFrames):
    """Mixed into a processor of transformers for a policy that sees and does not hear."""

    sampling_rate = None

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | None = None,
        seconds_per_frame: float = 1.0,
    ):
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)  # type: ignore[call-arg]
        self.seconds_per_frame = seconds_per_frame
        self._share_chat_template(chat_template)


class QwenVLPolicyProcessor(QwenSilentProcessor, Qwen2_5_VLProcessor):
    r"""
    Processor of [`QwenVLPolicy`]. It does not hear.

    Args:
        image_processor, tokenizer, video_processor, chat_template: as in transformers.
        seconds_per_frame (`float`, *optional*, defaults to 1.0): between the frames that the policy sees, of a clip
            that has no times: a list of images without sound.
    """

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]; the sound is left out."""
        return self.process_frames(frames, frame_seconds)

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]."""
        return self.expand_frames(ids, media)


class Qwen3VLPolicyProcessor(QwenSilentProcessor, Qwen3VLProcessor):
    r"""
    Processor of [`Qwen3VLPolicy`]. It does not hear. Each step in time of a clip stands between ends of its own in the
    prompt, after the time in words.

    Args:
        image_processor, tokenizer, video_processor, chat_template: as in transformers.
        seconds_per_frame (`float`, *optional*, defaults to 1.0): between the frames that the policy sees, of a clip
            that has no times: a list of images without sound.
    """

    def coordinate_size(self, media: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Qwen3 speaks of places in thousandths of the frame."""
        return RELATIVE_SIZE

    @property
    def video_max_pixels(self) -> int:
        """Pixels that a clip's frame has at most; 1,024 of two frames make a place, where patches have 16 pixels."""
        return self.video_processor.max_video_tokens * self._pixels_per_place

    @video_max_pixels.setter
    def video_max_pixels(self, value: int) -> None:
        self.video_processor.max_video_tokens = value // self._pixels_per_place

    @property
    def _pixels_per_place(self) -> int:
        return (self.video_processor.patch_size * self.video_processor.merge_size) ** 2

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        See [`~aurora_trl.models.policies.base.PolicyProcessor`]; behind the grid stands the number of frames, and
        behind that the millisecond at which each is shown, where that is known.
        """
        media = self.process_frames(frames, frame_seconds)
        known = extend_seconds(frame_seconds, len(frames), self.seconds_per_frame) if frame_seconds else []
        moments = [len(frames), *(round(1000 * seconds) for seconds in known)]
        return {**media, "pixel_grid": torch.cat([media["pixel_grid"], torch.tensor(moments)])}

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]."""
        steps, height, width, milliseconds, num_frames, *moments = media["pixel_grid"].tolist()
        num_places = height * width // self.video_processor.merge_size**2
        if not milliseconds:
            places = [self.image_token_id] * num_places
        else:
            frames_per_step = self.video_processor.temporal_patch_size
            moments = moments or [number * milliseconds / frames_per_step for number in range(num_frames)]
            places = []
            for first in range(0, steps * frames_per_step, frames_per_step):
                # An odd last frame stands twice in its step.
                last = min(first + frames_per_step, num_frames) - 1
                time = f"<{(moments[first] + moments[last]) / 2000:.1f} seconds>"
                places += self.tokenizer(time, add_special_tokens=False)["input_ids"]
                places += [self.vision_start_token_id, *[self.video_token_id] * num_places, self.vision_end_token_id]
        return [expanded for token in ids for expanded in (places if token == self.video_token_id else [token])]


class QwenHearingProcessor(QwenFrames):
    """Mixed into a processor of transformers for a policy that sees and hears."""

    feature_extractor: Any
    audio_token: str
    audio_token_id: int
    audio_bos_token: str
    audio_eos_token: str

    def __init__(
        self,
        image_processor: Any = None,
        video_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        seconds_per_frame: float = 1.0,
        audio_seconds: float | None = None,
    ):
        super().__init__(image_processor, video_processor, feature_extractor, tokenizer, chat_template=chat_template)  # type: ignore[call-arg]
        self.seconds_per_frame = seconds_per_frame
        self.audio_seconds = audio_seconds
        self._share_chat_template(chat_template)

    @property
    def sampling_rate(self) -> int:
        """Of the sound, in Hz."""
        return self.feature_extractor.sampling_rate

    @property
    def longest_sound(self) -> int:
        """How much of a sound is heard, in samples."""
        extractor = self.feature_extractor
        if self.audio_seconds is None:
            return extractor.n_samples
        return min(extractor.n_samples, round(self.audio_seconds * extractor.sampling_rate))

    def _padded_length(self, length: int) -> int:
        """Samples of which the spectrogram of so many is made; what is padded is masked."""
        raise NotImplementedError

    def _num_audio_places(self, num_frames: int) -> int:
        """How many features the audio tower makes of so many frames of a spectrogram."""
        raise NotImplementedError

    def process_audio(self, waveform: np.ndarray) -> torch.Tensor:
        """
        Args:
            waveform (`np.ndarray` of shape `(samples,)`, float32): mono, in [-1, 1], at `sampling_rate`.

        Returns:
            `torch.Tensor` of shape `(F, M)`: the log mel spectrogram, as long as the sound.
        """
        extractor = self.feature_extractor
        waveform = waveform[: self.longest_sound]
        made = extractor(
            waveform,
            sampling_rate=extractor.sampling_rate,
            max_length=self._padded_length(len(waveform)),
            return_attention_mask=True,
            return_tensors="pt",
        )
        return made["input_features"][0].T[made["attention_mask"][0].bool()]

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]."""
        media = self.process_frames(frames, frame_seconds)
        if waveform is not None:
            rate = self.sampling_rate
            waveform = nearest_sound(waveform, self.longest_sound, rate, frame_seconds, len(frames))
            media["audio_features"] = self.process_audio(waveform)
            media["audio_lengths"] = torch.tensor(len(media["audio_features"]))
        return media

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]; the place of sound goes with its two ends."""
        ids = self.expand_frames(ids, media)
        # A breath of sound may leave nothing.
        places = [self.audio_token_id] * self._num_audio_places(int(media.get("audio_lengths", torch.tensor(0))))
        if not places:
            return self._without_sound(ids)
        return [expanded for token in ids for expanded in (places if token == self.audio_token_id else [token])]

    @property
    def _audio_ends(self) -> list[int]:
        """The ids of the two tokens around a sound."""
        return self.tokenizer.convert_tokens_to_ids([self.audio_bos_token, self.audio_eos_token])

    def _without_sound(self, ids: list[int]) -> list[int]:
        """A prompt without the place of sound and its two ends."""
        sound = {self.audio_token_id, *self._audio_ends}
        return [token for token in ids if token not in sound]


class QwenOmniPolicyProcessor(QwenHearingProcessor, Qwen2_5OmniProcessor):
    r"""
    Processor of [`QwenOmniPolicy`].

    Args:
        image_processor, video_processor, feature_extractor, tokenizer, chat_template: as in transformers.
        seconds_per_frame (`float`, *optional*, defaults to 1.0): between the frames that the policy sees, of a clip
            that has no times: a list of images without sound.
        audio_seconds (`float`, *optional*): of a longer sound this much is heard, see
            [`~aurora_trl.models.policies.timing.nearest_sound`]; by default what the feature extractor takes. Nothing
            is padded.
    """

    def _padded_length(self, length: int) -> int:
        # Transformers pads to five minutes, computes the spectrogram and masks it. A window of silence is enough.
        extractor = self.feature_extractor
        return -(-(length + extractor.n_fft) // extractor.hop_length) * extractor.hop_length

    def _num_audio_places(self, num_frames: int) -> int:
        # A strided convolution, then pooling in pairs.
        return max(0, ((num_frames - 1) // 2 - 1) // 2 + 1)


class Qwen3OmniPolicyProcessor(QwenHearingProcessor, Qwen3OmniMoeProcessor):
    r"""
    Processor of [`Qwen3OmniPolicy`].

    Args:
        image_processor, video_processor, feature_extractor, tokenizer, chat_template, seconds_per_frame,
            audio_seconds: as for [`QwenOmniPolicyProcessor`].
        audio_in_video (`bool`, *optional*, defaults to `True`): a clip's sound stands among its frames, each stretch
            after the frames in which it begins; else behind the clip. A sound of which pieces are heard, that of an
            image, and that of frames which begin later than the sound, stand behind in any case.
    """

    def __init__(
        self,
        image_processor: Any = None,
        video_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        seconds_per_frame: float = 1.0,
        audio_seconds: float | None = None,
        audio_in_video: bool = True,
    ):
        super().__init__(
            image_processor,
            video_processor,
            feature_extractor,
            tokenizer,
            chat_template=chat_template,
            seconds_per_frame=seconds_per_frame,
            audio_seconds=audio_seconds,
        )
        self.audio_in_video = audio_in_video

    def _padded_length(self, length: int) -> int:
        return max(length, self.feature_extractor.n_fft)

    def _num_audio_places(self, num_frames: int) -> int:
        return int(_get_feat_extract_output_lengths(num_frames, self.n_window))

    def process_media(
        self, frames: np.ndarray, waveform: np.ndarray | None, frame_seconds: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        See [`~aurora_trl.models.policies.base.PolicyProcessor`]; behind the grid stands whether the sound has its
        places among those of the frames.
        """
        media = super().process_media(frames, waveform, frame_seconds)
        whole = waveform is not None and len(waveform) <= self.longest_sound
        # Places count from the begin of both: frames from later on would stand among a sound that is not theirs.
        begins = 1000 * frame_seconds[0] < int(media["pixel_grid"][3]) if frame_seconds else True
        mixed = self.audio_in_video and whole and len(frames) > 1 and begins
        return {**media, "pixel_grid": torch.cat([media["pixel_grid"], torch.tensor([int(mixed)])])}

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """See [`~aurora_trl.models.policies.base.PolicyProcessor`]."""
        steps, height, width, milliseconds, mixed = media["pixel_grid"].tolist()
        num_sounds = self._num_audio_places(int(media.get("audio_lengths", torch.tensor(0))))
        if not (mixed and num_sounds):
            grid = {"pixel_grid": media["pixel_grid"][:4]}
            return super().expand_ids(ids, {**media, **grid})
        frame = [self.video_token_id] * (height * width // self.video_processor.merge_size**2)
        begin, end = self._audio_ends
        places, heard = [begin], 0
        for step in range(steps):
            # In positions of time, of which each place of sound takes one; in the order of transformers' sums.
            moment = step * (milliseconds / 1000) * self.position_id_per_seconds
            before = min(num_sounds, math.ceil(moment))
            places += [*[self.audio_token_id] * (before - heard), *frame]
            heard = before
        places += [*[self.audio_token_id] * (num_sounds - heard), end]
        ids = self._without_sound(ids)
        return [expanded for token in ids for expanded in (places if token == self.video_token_id else [token])]


AutoProcessor.register(QwenVLPolicyConfig, QwenVLPolicyProcessor)
AutoProcessor.register(Qwen3VLPolicyConfig, Qwen3VLPolicyProcessor)
AutoProcessor.register(QwenOmniPolicyConfig, QwenOmniPolicyProcessor)
AutoProcessor.register(Qwen3OmniPolicyConfig, Qwen3OmniPolicyProcessor)
