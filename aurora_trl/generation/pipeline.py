"""One clip and one sentence in, reasoning and masks out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from ..data.media.loading import count_frames, frame_seconds, split_moment, taken_frames
from ..data.media.streaming import choose_frames
from ..data.schema import REFERENCE_MEDIA, Row, check_row
from ..models.checkpoints.own_files import HUB_ARGUMENTS
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import extract_class
from .answer import Answer
from .answers import answer_rows, find_device
from .choosing import Choosing, Cost
from .clip_loader import ClipLoader
from .every_frame import FrameMasks, draw_frames, masks_of_frame_size, require_streamable
from .given_media import Frames, Picture, Sound, rows_of_clips

# Of masks that are held at once: a clip with more is drawn frame by frame.
_MOST_MASK_BYTES = 4 * 1024**3


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
            the masks of each, in the order of their `[SEG]`, or of the instances of what one `[SEG]` names; `masks`
            are then those of all together.
        seg_features (`torch.Tensor` of shape `(N, E)`, *optional*): what prompts the mask decoder, for more frames.
        row (`dict`): the clip that was asked about.
        cost (`Cost`, *optional*), score (`float`, *optional*): where the answer was chosen out of several, what they
            took, and by what it was kept, see [`~aurora_trl.generation.choosing.Choosing`].
        voted (`bool`): whether the masks are the vote of several answers.
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
    seg_features: torch.Tensor | None = field(default=None, repr=False)
    row: Row = field(default_factory=dict, repr=False)
    cost: Cost | None = None
    score: float | None = None
    voted: bool = False


class AuroraPipeline:
    """
    A model and its processor, ready to be asked.

        pipe = AuroraPipeline.from_pretrained("outputs/tiny/grpo")
        result = pipe(video="clip.mp4", reference="the object that starts to sound first")
        results = pipe(["the dog", "what barks"], frames=[picture, next_picture], audio=(samples, 16_000))

    Args:
        model (`AuroraModel`): is put into eval mode.
        processor (`AuroraProcessor`): the model's.
    """

    def __init__(self, model: AuroraModel, processor: AuroraProcessor):
        processor.require_fit(model)
        self.model = model.eval()
        self.processor = processor
        # Several references about one clip read it once, as long as its files are the same.
        self._loader = ClipLoader(processor, cache_clips=1)
        self._read_files: tuple[Any, ...] = ()

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
        files = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        processor = AuroraProcessor.from_pretrained(name, **files)  # first: a broken one is known in a moment
        return cls(AuroraModel.from_pretrained(name, **kwargs).to(torch_device), processor)

    @overload
    def __call__(self, reference: str, **kwargs: Any) -> Segmentation: ...

    @overload
    def __call__(self, reference: Sequence[str], **kwargs: Any) -> list[Segmentation]: ...

    def __call__(
        self,
        reference: str | Sequence[str],
        *,
        video: str | Path | Sequence[str | Path] | None = None,
        frames: Frames | Sequence[Frames] | str | None = None,
        audio: Sound | list[Sound] | None = None,
        reference_speech: Sound | list[Sound] | None = None,
        reference_sound: Sound | list[Sound] | None = None,
        reference_image: Picture | list[Picture] | None = None,
        fps: float | None = None,
        start: float = 0.0,
        end: float | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        choosing: Choosing | None = None,
        **generate_kwargs: Any,
    ) -> Segmentation | list[Segmentation]:
        """
        Reason about a clip and segment it.

        Args:
            reference (`str` or `list[str]`): the sentence that describes the object. Of several, `video`, `frames` and
                `audio` are the clip of all, or lists with a clip for each.
            video (`str` or `Path`, *optional*): a video file, or
            frames (`list`, *optional*): frames in order: paths, PIL images or arrays `(H, W, 3)` in uint8, or one
                array `(T, H, W, 3)`. With a video, `"all"` asks for masks of all its frames, and not only of those
                that the model reads.
            audio (`str`, `Path` or `tuple`, *optional*): a sound file, or samples `(N,)` or `(N, channels)` with their
                rate, `(samples, rate)`; the video's own track by default, or no sound.
            reference_speech, reference_sound (`str`, `Path` or `tuple`, *optional*): what the reference is spoken in,
                which hides its text, or a sound that goes with it; as `audio`, for all or a list with one for each.
            reference_image (`str`, `Path`, PIL image or array, *optional*): a picture that goes with it, likewise.
            fps, start, end (`float`, *optional*): with `frames="all"`, which of them, see
                [`AuroraPipeline.every_frame`].
            max_new_tokens (`int`, *optional*): longest answer, in tokens; see [`AuroraProcessor.answer_limit`].
            batch_size (`int`, *optional*, defaults to 8): how many of several references are answered at a time.
            choosing (`Choosing`, *optional*): how an answer is chosen out of several; there is one by default.
            **generate_kwargs: for `generate`, such as `do_sample`.

        Returns:
            `Segmentation`: masks of as many frames as the model takes, evenly chosen, or of those that were asked for;
            a list of them for a list of references.

        Raises:
            `DataError`: where the reference is empty or a file is missing or can not be read.
            `ValueError`: where not exactly one of `video` and `frames` is given, or a value is of another kind;
                where the masks of all frames would not fit into memory.
        """
        every = video is not None and isinstance(frames, str) and frames == "all"
        if not every and (fps is not None or start or end is not None):
            raise ValueError('`fps`, `start` and `end` go with a video and `frames="all"`')
        if every:
            require_streamable(self.model)
            require_own_masks(choosing is not None and choosing.votes)
        is_one = isinstance(reference, str)
        references = [reference] if isinstance(reference, str) else list(reference)
        besides = dict(zip(REFERENCE_MEDIA, (reference_speech, reference_sound, reference_image), strict=True))
        with rows_of_clips(references, video, None if every else frames, audio, **besides) as rows:
            for row in rows:
                check_row(row)
            loader = self._loader_of(rows[0]) if is_one else ClipLoader(self.processor, cache_clips=batch_size)
            answers = answer_rows(
                self.model,
                self.processor,
                rows,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                loader=loader,
                choosing=choosing,
                **generate_kwargs,
            )
            found = [self._segmentation(row, answer, loader) for row, answer in zip(rows, answers, strict=True)]
            if choosing is not None and choosing.votes:
                found = [replace(result, voted=True) for result in found]
            if every:
                found = [self._with_all_frames(result, fps, start, end) for result in found]
        return found[0] if is_one else found

    def _loader_of(self, row: Row) -> ClipLoader:
        """The loader that keeps the clip of the last call, anew where a file of it has changed."""
        named = (*(row.get("frames") or ()), *(row.get(name) for name in ("video", "audio", *REFERENCE_MEDIA)))
        paths = [Path(name) for name in sorted({split_moment(name)[0] for name in named if name})]
        found = [path.stat() for path in paths if path.is_file()]
        files = tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
        if files != self._read_files:
            self._loader, self._read_files = ClipLoader(self.processor, cache_clips=1), files
        return self._loader

    def _segmentation(self, row: Row, answer: Answer, loader: ClipLoader) -> Segmentation:
        """An answer at the size of its clip."""
        indices = taken_frames(row, self.processor.num_frames)
        height, width = loader.clip(row)["frame_size"].tolist()
        masks = np.zeros((len(indices), height, width), np.uint8)
        if answer.mask_logits is not None:
            masks = masks_of_frame_size(answer.mask_logits[: len(indices)], (height, width))
        objects = None
        if answer.object_logits is not None:
            each = answer.object_logits[:, : len(indices)]
            objects = np.stack([masks_of_frame_size(logits, (height, width)) for logits in each])
        return Segmentation(
            reference=row["reference"],
            reasoning=answer.completion,
            class_name=extract_class(answer.completion),
            masks=masks,
            has_seg=answer.mask_logits is not None,
            frame_indices=indices,
            frame_seconds=frame_seconds(row, indices),
            num_frames=count_frames(row),
            object_masks=objects,
            seg_features=answer.seg_features,
            row=row,
            cost=answer.cost,
            score=answer.score,
        )

    def every_frame(
        self, result: Segmentation, *, fps: float | None = None, start: float = 0.0, end: float | None = None
    ) -> Iterator[FrameMasks]:
        """
        Draw what an answer is about in every frame of its clip, one after the other: memory does not grow with them.

        The one `[SEG]` of the answer prompts all frames. A decoder with memory also carries what it drew from each
        frame to the next ones.

        Args:
            result (`Segmentation`): from this pipeline.
            fps (`float`, *optional*): frames per second; all by default.
            start (`float`, *optional*, defaults to 0.0), end (`float`, *optional*): seconds of the clip. The model has
                read all of it in any case.

        Returns:
            `Iterator[FrameMasks]`: the frames with their masks.

        Raises:
            `ValueError`, `DataError`: at once, where no such frames can be chosen, the clip was given as pixels, which
                are not kept, the model has a spatial prompt, which such frames do not get, or the masks are a vote.
        """
        require_streamable(self.model)
        require_own_masks(result.voted)
        named = result.row.get("frames") or [result.row.get("video")]
        gone = next((name for name in named if not name or not Path(split_moment(name)[0]).is_file()), None)
        if gone is not None:
            raise ValueError(f"{gone}: is not there any more; pixels are not kept: give the clip as files")
        numbers, seconds = choose_frames(result.row, fps=fps, start=start, end=end)
        return draw_frames(self.model, self.processor, result.row, result.seg_features, numbers, seconds)

    def _with_all_frames(
        self, result: Segmentation, fps: float | None, start: float, end: float | None
    ) -> Segmentation:
        numbers, seconds = choose_frames(result.row, fps=fps, start=start, end=end)
        features = result.seg_features
        objects = 1 if features is None else len(self.model.prompts_of_objects(features))
        size = objects * len(numbers) * result.masks[0].size
        if size > _MOST_MASK_BYTES:
            raise ValueError(
                f"the masks of {len(numbers)} frames take {size / 1024**3:.0f} GB: iterate over "
                "`every_frame(result)`, or use `aurora segment --every-frame`"
            )
        drawn = draw_frames(self.model, self.processor, result.row, features, numbers, seconds)
        planes = [(frame.mask, frame.masks) for frame in drawn]
        return replace(
            result,
            masks=np.stack([mask for mask, _ in planes]),
            frame_indices=numbers,
            frame_seconds=seconds,
            object_masks=np.stack([masks for _, masks in planes], axis=1) if objects > 1 else None,
        )


def require_own_masks(voted: bool) -> None:
    """Raise `ValueError` for masks that are a vote of answers, which no other frames can be drawn from."""
    if voted:
        raise ValueError("every frame: a vote of several answers has no [SEG] of its own; choose one by `quality`")
