"""One clip and one sentence in, reasoning and masks out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.media.loading import count_frames, frame_seconds, taken_frames
from ..data.schema import Row, check_row
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import extract_class
from .answers import answer_rows, find_device
from .clip_loader import ClipLoader


@dataclass(frozen=True)
class Segmentation:
    """
    What [`AuroraPipeline`] found.

    Attributes:
        reference (`str`): the sentence that was asked about.
        reasoning (`str`): what the model wrote.
        class_name (`str` or `None`): the class that it named, None where it named none.
        masks (`np.ndarray` of shape `(T, H, W)`, uint8): 0 or 1, at the size of the clip; all 0 where the model wrote
            no `[SEG]`.
        has_seg (`bool`): whether it wrote `[SEG]`.
        frame_indices (`list[int]`): which frames of the clip the masks belong to.
        frame_seconds (`list[float]` or `None`): when they are shown; None for a list of images, which have no times.
        num_frames (`int`): frames of the clip, those without a mask included.
        object_masks (`np.ndarray` of shape `(N, T, H, W)`, uint8, *optional*): where the answer draws several objects,
            the masks of each, in the order of their `[SEG]`; `masks` are then those of all together.
    """

    reference: str
    reasoning: str
    class_name: str | None
    masks: np.ndarray
    has_seg: bool
    frame_indices: list[int]
    frame_seconds: list[float] | None
    num_frames: int
    object_masks: np.ndarray | None = None


class AuroraPipeline:
    """
    A model and its processor, ready to be asked.

        pipe = AuroraPipeline.from_pretrained("outputs/tiny/grpo")
        result = pipe(video="clip.mp4", reference="the object that starts to sound first")

    Args:
        model (`AuroraModel`): is put into eval mode.
        processor (`AuroraProcessor`): the model's.
    """

    def __init__(self, model: AuroraModel, processor: AuroraProcessor):
        processor.require_fit(model)
        self.model = model.eval()
        self.processor = processor
        # Several references about one clip read it once.
        self._loader = ClipLoader(processor, cache_clips=1)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, device: str | torch.device | None = None, **kwargs: Any
    ) -> "AuroraPipeline":
        """
        Load a phase's output folder, an adapter's folder or a Hub repository.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): folder or repository.
            device (`str`, *optional*): where to put the model; a GPU where there is one by default.
            **kwargs: for [`AuroraModel.from_pretrained`], such as `dtype`, `revision`, `base_model_name_or_path`.
        """
        name = str(pretrained_model_name_or_path)
        torch_device = find_device(device)
        files = {k: kwargs[k] for k in ("revision", "token", "cache_dir", "local_files_only") if k in kwargs}
        processor = AuroraProcessor.from_pretrained(name, **files)  # first: a broken one is known in a moment
        return cls(AuroraModel.from_pretrained(name, **kwargs).to(torch_device), processor)

    def __call__(
        self,
        reference: str,
        *,
        video: str | Path | None = None,
        frames: Sequence[str | Path] | None = None,
        audio: str | Path | None = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> Segmentation:
        """
        Reason about a clip and segment it.

        Args:
            reference (`str`): the sentence that describes the object.
            video (`str` or `Path`, *optional*): a video file, or
            frames (`list[str]` or `list[Path]`, *optional*): image files in order.
            audio (`str` or `Path`, *optional*): a sound file; the video's own track by default, or no sound.
            max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
            **generate_kwargs: for `generate`, such as `do_sample`.

        Returns:
            `Segmentation`: masks of as many frames as the model takes, evenly chosen.

        Raises:
            `DataError`: where the reference is empty or a file is missing or can not be read.
            `ValueError`: where not exactly one of `video` and `frames` is given, or something else than paths.
        """
        if (video is None) == (frames is None):
            raise ValueError("give the clip as `video` or as `frames`, and not both")
        _require_paths(video, frames, audio)
        row: Row = {
            "id": str(video or (frames or ["no frames"])[0]),
            "reference": reference,
            "frames": None if frames is None else [str(path) for path in frames],
            "video": None if video is None else str(video),
            "audio": None if audio is None else str(audio),
        }
        check_row(row)
        (answer,) = answer_rows(
            self.model,
            self.processor,
            [row],
            batch_size=1,
            max_new_tokens=max_new_tokens,
            loader=self._loader,
            **generate_kwargs,
        )
        indices = taken_frames(row, self.processor.num_frames)
        height, width = self._loader.clip(row)["frame_size"].tolist()

        def drawn(mask_logits: torch.Tensor) -> np.ndarray:
            planes = mask_logits[: len(indices), None].float()
            logits = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False)[:, 0]
            return (logits > 0).to(torch.uint8).numpy()

        masks = np.zeros((len(indices), height, width), np.uint8)
        if answer.mask_logits is not None:
            masks = drawn(answer.mask_logits)
        objects = answer.object_logits
        return Segmentation(
            reference=reference,
            reasoning=answer.completion,
            class_name=extract_class(answer.completion),
            masks=masks,
            has_seg=answer.mask_logits is not None,
            frame_indices=indices,
            frame_seconds=frame_seconds(row, indices),
            num_frames=count_frames(row),
            object_masks=None if objects is None else np.stack([drawn(logits) for logits in objects]),
        )


def _require_paths(video: Any, frames: Any, audio: Any) -> None:
    """Raise `ValueError` for pixels or samples, which are named by their type: they would fill the screen."""
    if isinstance(frames, (str, Path)):
        raise ValueError(f"`frames` takes a list of image files in order, got one: {str(frames)!r}; put it in a list")
    named = [("video", video), ("audio", audio)]
    named += [("frames", frame) for frame in (() if frames is None else frames)]
    for name, value in named:
        if value is not None and not isinstance(value, (str, Path)):
            raise ValueError(
                f"`{name}` takes paths of files, got a {type(value).__name__}; write it to a file and give its path"
            )
