"""The processor of the composite model: the policy's processor, and the mask decoder's view of frames and masks."""

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import processor_class_from_name

from ..data.media.loading import NO_FRAME, frame_indices
from ..data.media.reference import ReferenceMedia
from ..data.schema import Row, with_current_names
from ..errors import DataError
from ..prompts import INSTRUCTION, SEG_TOKEN, build_prompt, escape_tokens, queries_target
from ..text_files import read_json
from .box_prompts import FrameView
from .checkpoints.own_files import CONFIG_FILE, HUB_ARGUMENTS, find_file, read_own_config
from .checkpoints.policy_processor import check_template, load_policy_processor
from .clip_inputs import read_clip_inputs
from .configuration_aurora import NUM_QUERIES, AuroraConfig, SamConfig
from .fit import require_fit
from .mask_geometry import MaskGeometry
from .objects import find_object_positions, find_seg_positions
from .policies.base import RELATIVE_SIZE
from .processor_copies import ProcessorCopies
from .processor_settings import check_settings
from .reference_places import add_picture, add_sounds, places_of_clip

SETTINGS_FILE = "aurora_processor.json"
# A limit cuts what a model writes in its own words; what it learnt from is the measure, and some more.
_ANSWER_MARGIN = 1.25
_UNKNOWN_ANSWER_TOKENS = 512
_SENTENCE_END = frozenset(".!?…\n")

_CLIPS_GO_ELSEWHERE = "AuroraPipeline answers a question about a clip, `process_clip` makes inputs of frames and sound"


class AuroraProcessor(ProcessorCopies, ProcessorMixin):
    r"""
    Turns rows and media into model inputs.

    The policy's processor knows how text, frames and sound reach the policy; this class adds the chat, the `[SEG]`
    token and the mask decoder's image geometry (longest side resized, the rest padded, as in segment-anything; or
    both sides resized, as in SAM 2).

    Args:
        policy_processor (`ProcessorMixin`): a [`~aurora_trl.models.policies.base.PolicyProcessor`].
        mask_image_size (`int`): side of the mask decoder's square input, in pixels.
        mask_target_size (`int`): side of the square masks that losses and rewards compare, in pixels.
        pixel_mean, pixel_std (`list[float]`): the mask decoder's normalisation, per channel, for pixels in [0, 255].
        num_frames (`int`, *optional*, defaults to 10): frames of a clip, each of which gets a mask.
        policy_frames (`int`, *optional*): how many of them the policy sees, evenly chosen; all by default.
        instruction (`str`, *optional*): the user turn's text, with the place `{reference}`.
        keep_aspect_ratio (`bool`, *optional*, defaults to `True`): pad the mask decoder's frames to a square;
            otherwise they are stretched to one.
        max_objects (`int`, *optional*, defaults to 1): how many objects an answer may draw, each with a `[SEG]` of its
            own; their union is the answer's mask. With 1, as in the paper, the last `[SEG]` counts.
        max_answer_tokens (`int`, *optional*): the longest answer that the model was trained to write, in tokens; each
            supervised phase keeps its own here. See `answer_limit`.
        mask_source (`str`, *optional*, defaults to `"seg"`): what asks for a mask, see [`AuroraConfig`].
        seg_source (`str`, *optional*, defaults to `"token"`), num_queries (`int`, *optional*, defaults to 4): whose
            states prompt the mask decoder, see [`AuroraConfig`].

    Raises:
        `ValueError`: where the tokenizer has no `[SEG]` token, or a setting is out of range.
    """

    def __init__(
        self,
        policy_processor: ProcessorMixin,
        mask_image_size: int = 1024,
        mask_target_size: int = 256,
        pixel_mean: list[float] | None = None,
        pixel_std: list[float] | None = None,
        num_frames: int = 10,
        policy_frames: int | None = None,
        instruction: str = INSTRUCTION,
        keep_aspect_ratio: bool = True,
        max_objects: int = 1,
        max_answer_tokens: int | None = None,
        mask_source: str = "seg",
        seg_source: str = "token",
        num_queries: int = NUM_QUERIES,
    ):
        defaults = SamConfig()
        self.policy_processor = policy_processor
        self._tells_times = "frame_seconds" in inspect.signature(policy_processor.process_media).parameters
        self.mask_image_size = mask_image_size
        self.mask_target_size = mask_target_size
        self.pixel_mean = list(defaults.pixel_mean if pixel_mean is None else pixel_mean)
        self.pixel_std = list(defaults.pixel_std if pixel_std is None else pixel_std)
        self.num_frames = num_frames
        self.policy_frames = policy_frames
        self.instruction = instruction
        self.keep_aspect_ratio = keep_aspect_ratio
        self.max_objects = max_objects
        self.max_answer_tokens = max_answer_tokens
        self.mask_source = mask_source
        self.seg_source = seg_source
        self.num_queries = num_queries
        check_settings(self)
        self._sentence_end_ids: torch.Tensor | None = None
        if SEG_TOKEN not in self.tokenizer.get_vocab():
            raise ValueError(
                f"the tokenizer has no {SEG_TOKEN} token: add it with `tokenizer.add_tokens('{SEG_TOKEN}')`, resize "
                "the policy's embeddings and save both"
            )

    def __repr__(self) -> str:
        return f"AuroraProcessor({self.settings()}, policy_processor={self.policy_processor!r})"

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self.policy_processor.tokenizer

    @property
    def chat_template(self) -> Any:
        """The tokenizer's chat template."""
        return self.tokenizer.chat_template

    @property
    def seg_token_id(self) -> int:
        """Id of `[SEG]`: looked up whole, since tokenising the text may split or merge it."""
        return self.tokenizer.convert_tokens_to_ids(SEG_TOKEN)

    @property
    def sentence_end_ids(self) -> torch.Tensor:
        """Ids of the tokens in which a sentence ends, `(E,)`; looked up once, and only where several `[SEG]` count."""
        if self._sentence_end_ids is None:
            pieces = self.tokenizer.batch_decode([[number] for number in range(len(self.tokenizer))])
            ends = [number for number, piece in enumerate(pieces) if _SENTENCE_END.intersection(piece)]
            self._sentence_end_ids = torch.tensor(ends)
        return self._sentence_end_ids

    def find_seg_positions(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Where the `[SEG]` that count stand in each row.

        Args:
            token_ids (`torch.Tensor` of shape `(B, L)`): ids as the model sees them, media tokens expanded.
            mask (`torch.Tensor` of shape `(B, L)`): true where a `[SEG]` counts (the completion).

        Returns:
            `torch.Tensor`, long: the last one of each row `(B,)`; with `max_objects` above 1 the first of the final
            answer, `(B, max_objects)`. -1 where there is none.
        """
        if self.max_objects == 1:
            return find_seg_positions(token_ids, mask, self.seg_token_id)
        return find_object_positions(token_ids, mask, self.seg_token_id, self.sentence_end_ids, self.max_objects)

    @property
    def query_ids(self) -> list[int]:
        """What stands behind a complete answer, where a model's queries are read: places; none for other models."""
        return [self.seg_token_id] * self.num_queries if self.seg_source == "queries" else []

    def require_fit(self, model: Any) -> None:
        """Raise `DataError` where this is the processor of another model, see `models/fit.py`."""
        require_fit(self, model)

    def frame_view(self, clip: dict[str, torch.Tensor]) -> FrameView:
        """How the policy speaks of places in the frames of a clip from [`ClipLoader.clip`]."""
        height, width = clip["frame_size"].tolist()
        own = getattr(self.policy_processor, "coordinate_size", None)
        return FrameView((height, width), RELATIVE_SIZE if own is None else own(clip))

    def answer_limit(self, given: int | None = None) -> int:
        """
        How many tokens an answer may take: the one place that says so, for rollouts, evaluation, mining and inference.

        Args:
            given (`int`, *optional*): a limit of one's own, which holds.

        Returns:
            `int`: by default a quarter more than the longest answer that was learnt; 512 where none was.

        Raises:
            `ValueError`: where `given` is less than 1.
        """
        if given is not None and given < 1:
            raise ValueError(f"the longest answer must have at least 1 token, got {given}")
        if given is not None or self.max_answer_tokens is None:
            return given or _UNKNOWN_ANSWER_TOKENS
        return math.ceil(self.max_answer_tokens * _ANSWER_MARGIN)

    # Text

    def prompt_ids(self, row: Row, clip: dict[str, torch.Tensor]) -> list[int]:
        """
        The prompt as the model sees it, with the clip's places expanded.

        Args:
            row (`dict`): a dataset row.
            clip (`dict`): what `process_clip` returned for the row's media.

        Returns:
            `list[int]`: token ids.
        """
        # A reference is text, whatever stands in it: only the template puts places, turns and the like.
        row = {**row, "reference": escape_tokens(row["reference"], self.tokenizer.get_added_vocab())}
        text = self.tokenizer.apply_chat_template(
            build_prompt(row, self.instruction), tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.policy_processor.expand_ids(ids, clip)

    def completion_ids(self, target: str) -> list[int]:
        """The ids of an answer, with the end-of-turn token."""
        return self.tokenizer(target, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]

    def answer_ids(self, row: Row) -> tuple[list[int], list[int]]:
        """
        The ids of a row's `prefill`, which is read only, and of its `target` with the end-of-turn token. For a model
        with queries they are without `It is [SEG].`
        """
        prefill, target = (row.get("prefill") or "").strip(), row["target"]
        if self.seg_source == "queries":
            prefill, target = queries_target(prefill), queries_target(target)
        if not prefill:
            return [], self.completion_ids(target)
        ids = self.tokenizer(prefill, add_special_tokens=False)["input_ids"]
        return ids, self.completion_ids(f" {target.lstrip()}")

    def require_plain_answer(self, row: Row) -> None:
        """
        Raise `DataError` where a row's answer names a token that it can not hold: a place of media, the end of a turn.

        `[SEG]` is what an answer is about, and may stand in it.
        """
        text = f"{row.get('prefill') or ''} {row['target']}"
        found = [name for name in self.tokenizer.get_added_vocab() if name != SEG_TOKEN and name in text]
        if found:
            raise DataError(
                f"row {row.get('id')!r}: its answer holds {found[0]!r}, which is a token of the model and no text; "
                "write it in another way"
            )

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> Any:
        """
        Tokenize text, as the tokenizer does.

        Raises:
            `ValueError`: for media: a clip becomes inputs together with its times and its masks' frames.
        """
        media = {"images": images, "videos": videos, "audio": audio}
        name = next((name for name, value in media.items() if value is not None), None)
        if name is not None:
            raise ValueError(f"`{name}` is not taken here: {_CLIPS_GO_ELSEWHERE}")
        return self.tokenizer(text, **kwargs)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """
        The text of a conversation, or its tokens, as the tokenizer gives them.

        Raises:
            `ValueError`: where tokens are asked for and a turn has media: their pixels would be left out.
        """
        turns = [turn for part in conversation for turn in (part if isinstance(part, list) else [part])]
        kinds = [part.get("type") for turn in turns for part in turn.get("content") or () if isinstance(part, dict)]
        kind = next((kind for kind in kinds if kind not in (None, "text")), None)
        if kind is not None and kwargs.get("tokenize"):
            raise ValueError(f"a part of type {kind!r} is not taken here: {_CLIPS_GO_ELSEWHERE}")
        return self.tokenizer.apply_chat_template(conversation, *args, **{"tokenize": False, **kwargs})

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    # Media

    def process_clip(
        self,
        frames: np.ndarray,
        waveform: np.ndarray | None,
        *,
        frame_seconds: Sequence[float] | None = None,
        with_mask_frames: bool = True,
        reference: ReferenceMedia | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): RGB frames. Where the model takes more, black ones
                are put behind them; the policy sees none of these where the others are enough for it.
            waveform (`np.ndarray` of shape `(samples,)`, float32, *optional*): mono sound at the policy's rate.
            frame_seconds (`Sequence[float]`, *optional*): when each frame is shown, in seconds of the sound.
            with_mask_frames (`bool`, *optional*, defaults to `True`): make `mask_frames`.
            reference (`ReferenceMedia`, *optional*): what the reference is besides its text. The policy sees its
                picture in place of the clip's last frames, and hears its sounds behind the clip's.

        Returns:
            `dict`: the policy's media inputs, and `mask_frames` `(T, 3, S, S)` for the mask decoder.

        Raises:
            `DataError`: where the policy hears too little for the reference's sounds.
            `ValueError`: where frames, sound or times are of another kind or number.
        """
        frames, waveform = read_clip_inputs(frames, waveform, frame_seconds)
        total = max(self.num_frames, len(frames))
        places = self.policy_frames or total
        numbers = frame_indices(len(frames), places_of_clip(places, reference))
        seen = [number for number in numbers if number != NO_FRAME]
        known = None if frame_seconds is None else [frame_seconds[number] for number in seen]
        waveform = add_sounds(self.policy_processor, waveform, reference, known, len(seen))
        shown = add_picture(frames[seen], reference, places)
        times = {"frame_seconds": known} if known is not None and self._tells_times else {}
        media = self.policy_processor.process_media(_pad_frames(shown, places), waveform, **times)
        if not with_mask_frames:
            return media
        return {**media, "mask_frames": self.process_mask_frames(_pad_frames(frames, total))}

    def process_mask_frames(self, frames: np.ndarray) -> torch.Tensor:
        """Frames `(T, H, W, 3)` uint8 as the mask decoder sees them, see [`MaskGeometry`]."""
        return self.geometry.process_frames(frames)

    def process_masks(self, masks: np.ndarray) -> torch.Tensor:
        """Masks `(T, H, W)` in {0, 1} in the decoder's square, see [`MaskGeometry`]."""
        return self.geometry.process_masks(masks)

    def restore_masks(self, mask_logits: torch.Tensor, frame_size: tuple[int, int]) -> torch.Tensor:
        """Mask logits `(T, h, w)` in the geometry of a frame of this height and width, see [`MaskGeometry`]."""
        return self.geometry.restore_masks(mask_logits, frame_size)

    @property
    def geometry(self) -> MaskGeometry:
        """Where frames and masks lie in the mask decoder's square."""
        return MaskGeometry(
            self.mask_image_size, self.mask_target_size, self.pixel_mean, self.pixel_std, self.keep_aspect_ratio
        )

    # Files

    def settings(self) -> dict[str, Any]:
        """What `aurora_processor.json` holds."""
        return {
            "policy_processor_class": type(self.policy_processor).__name__,
            "mask_image_size": self.mask_image_size,
            "mask_target_size": self.mask_target_size,
            "pixel_mean": self.pixel_mean,
            "pixel_std": self.pixel_std,
            "num_frames": self.num_frames,
            "policy_frames": self.policy_frames,
            "instruction": self.instruction,
            "keep_aspect_ratio": self.keep_aspect_ratio,
            "max_objects": self.max_objects,
            "max_answer_tokens": self.max_answer_tokens,
            "mask_source": self.mask_source,
            "seg_source": self.seg_source,
            "num_queries": self.num_queries,
        }

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the policy's processor and `aurora_processor.json` into one folder."""
        directory = Path(save_directory)
        self.policy_processor.save_pretrained(directory)
        # `AutoProcessor` and `AutoTokenizer` read the class from these files.
        for name in ("processor_config.json", "tokenizer_config.json"):
            file = directory / name
            if file.exists():
                content = json.loads(file.read_text())
                content["processor_class"] = type(self).__name__
                file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        (directory / SETTINGS_FILE).write_text(json.dumps(self.settings(), indent=2) + "\n")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", directory.name), **kwargs)
        return [str(directory / SETTINGS_FILE)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "AuroraProcessor":
        """
        Load from a folder or a Hub repository.

        Raises:
            `DataError`: names the file that is missing or broken, or what the tokenizer lacks.
        """
        name = str(pretrained_model_name_or_path)
        hub_kwargs = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        config_file = find_file(name, CONFIG_FILE, **hub_kwargs)
        if config_file is not None:
            read_own_config(AuroraConfig, config_file)  # the tokenizer's own words for a broken one say less
        file = find_file(name, SETTINGS_FILE, **hub_kwargs)
        if file is None:
            raise DataError(f"{name}: {SETTINGS_FILE} is missing; this is not a checkpoint of an AuroraModel")
        settings = with_current_names(read_json(file), file)
        class_name = settings.pop("policy_processor_class", None)
        processor_class = processor_class_from_name(str(class_name))
        if processor_class is None:
            raise DataError(f"{file}: `policy_processor_class` {class_name!r} is not known; import its package first")
        policy_processor = load_policy_processor(name, processor_class, hub_kwargs)
        try:
            processor = cls(policy_processor, **settings)
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}: {error}; restore the file that was saved") from None
        check_template(name, processor)
        return processor


def _pad_frames(frames: np.ndarray, count: int) -> np.ndarray:
    """Put black frames behind `(T, H, W, 3)` up to a number."""
    return np.pad(frames, ((0, count - len(frames)), (0, 0), (0, 0), (0, 0)))


AutoProcessor.register(AuroraConfig, AuroraProcessor)
