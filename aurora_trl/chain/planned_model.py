"""The sizes of the model that a chain's step starts from, also where the step that makes it has not run yet."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from ..data.schema import Row
from ..errors import DataError
from ..models.configuration_aurora import AuroraConfig
from ..models.mask_decoders import ClipMemory, ConceptPrompts
from ..models.positions import counts_tokens, max_positions
from ..models.processing_aurora import AuroraProcessor
from ..text_files import parse_yaml, read_text
from ..training.arguments import load_rows
from .definition import Pipeline, Step
from .published_sizes import published_config, published_tokens
from .step_files import option

CHARACTERS_PER_TOKEN = 4
# Of the answers that are not written for each row.
ANSWER_TOKENS = {"answer": 8, "class": 20}
_LONGEST_TARGET = 2000  # characters of a reasoning text, AURORA section 6.1


@dataclass(frozen=True)
class ModelPlan:
    """
    A model's sizes.

    Attributes:
        what (`str`): where they come from.
        config (`AuroraConfig`): of all parts.
        media_tokens (`int`): places of a clip in the prompt.
        num_frames (`int`): frames that get a mask.
        max_objects (`int`, *optional*, defaults to 1): masks that an answer may have.
        processor (`AuroraProcessor`, *optional*): the model's, or that of the checkpoint which it descends from.
        answer_tokens (`int`, *optional*): the longest answer that it has learnt to write, in tokens, where the rows
            are there that teach it.
    """

    what: str
    config: AuroraConfig
    media_tokens: int
    num_frames: int
    max_objects: int = 1
    processor: AuroraProcessor | None = None
    answer_tokens: int | None = None

    def with_num_frames(self, num_frames: int | None) -> "ModelPlan":
        """As a phase with this `num_frames` has it; None leaves it as it is."""
        if num_frames in (None, self.num_frames):
            return self
        if self.processor is None:
            return replace(self, num_frames=num_frames)
        processor = self.processor.with_num_frames(num_frames)
        return replace(self, num_frames=num_frames, processor=processor, media_tokens=_media_tokens(processor))

    def positions_problem(self, tokens: int) -> str | None:
        """What is wrong with a prompt and its answer of so many tokens; None where nothing is, or it is not known."""
        known = max_positions(self.config)
        if known is None or tokens <= known or not counts_tokens(self.config):
            return None
        return (
            f"a prompt with its answer takes {tokens:,} tokens, and the language model has {known:,} positions: take "
            "fewer frames (`num_frames`), or a lower limit for answers"
        )

    def with_seg_source(self, seg_source: str | None) -> "ModelPlan":
        """As a phase with this `seg_source` has it, whatever the number of queries; None leaves it as it is."""
        if seg_source in (None, self.config.seg_source):
            return self
        config = copy.deepcopy(self.config)
        config.seg_source = seg_source
        return replace(self, config=config)

    def answer_limit(self, given: int | None) -> int:
        """As [`AuroraProcessor.answer_limit`] will say once the model is trained."""
        if self.processor is None or self.answer_tokens is None:
            return given or _LONGEST_TARGET // CHARACTERS_PER_TOKEN
        return self.processor.with_answer_tokens(self.answer_tokens).answer_limit(given)


def plan_model(pipeline: Pipeline, name: str) -> ModelPlan | None:
    """
    Follow a model's name back to a checkpoint that is there, or to the step that builds the first one.

    Args:
        pipeline (`Pipeline`): the chain.
        name (`str`): a step's `model_name_or_path`.

    Returns:
        `ModelPlan` or `None`: None where the sizes can not be known yet.
    """
    return _plan(pipeline, name, pipeline.steps)


def _plan(pipeline: Pipeline, name: str, steps: list[Step]) -> ModelPlan | None:
    """A model that is there, or that one of some steps makes."""
    if (Path(name) / "config.json").is_file() and (Path(name) / "aurora_processor.json").is_file():
        return _from_checkpoint(name)
    number, maker = next(((n, step) for n, step in enumerate(steps) if step.makes == Path(name)), (0, None))
    if maker is None:
        return None
    if maker.config is not None:
        settings = parse_yaml(pipeline.configs.get(maker.config) or read_text(maker.config), maker.config)
        start = settings.get("model_name_or_path")  # the step's own check says where it is missing
        model = None if start is None else _plan(pipeline, str(start), steps[:number])
        if model is None:
            return None
        # A phase that sets it hands it on with its checkpoint.
        model = replace(model, max_objects=settings.get("max_objects") or model.max_objects)
        model = model.with_num_frames(settings.get("num_frames")).with_seg_source(settings.get("seg_source"))
        supervised = any(Path(word).stem == "sft" for word in maker.command)
        return replace(model, answer_tokens=learnt_tokens(settings, model.processor)) if supervised else model
    try:
        return _from_command(maker)
    except ValueError:  # of a flag, which the step's own check names
        return None


def learnt_tokens(settings: dict[str, Any], processor: AuroraProcessor | None) -> int | None:
    """
    The longest answer that a supervised phase teaches.

    Args:
        settings (`dict`): its YAML.
        processor (`AuroraProcessor`, *optional*): counts tokens; without it they are estimated.

    Returns:
        `int` or `None`: tokens; None where its rows are not there yet.
    """
    targets = settings.get("targets", "row")
    if targets in ANSWER_TOKENS:
        return ANSWER_TOKENS[targets]
    taught: list[dict[str, Any]] = []
    for entry in settings.get("datasets") or [settings]:
        if not isinstance(entry, dict):
            return None
        # An entry of several has the recipe's keys without their first word.
        path, dataset_format, subset = (
            entry.get(name, entry.get(f"dataset_{name}")) for name in ("path", "format", "subset")
        )
        split = entry.get("train_split", settings.get("train_split", "train"))
        if not Path(str(path)).exists():
            return None
        try:
            rows = load_rows(str(path), split, dataset_format=dataset_format, subset=subset)
        except DataError:
            return None  # the step's own check says what is wrong with them
        taught += [row for row in rows.select_columns(["prefill", "target"]) if row["target"]]
    if processor is None:
        lengths = (len((row["prefill"] or "") + row["target"]) // CHARACTERS_PER_TOKEN + 1 for row in taught)
    else:
        lengths = (sum(map(len, processor.answer_ids(row))) for row in taught)
    return max(lengths, default=None)


def _from_checkpoint(name: str) -> ModelPlan:
    """Sizes and places as they are: a black and silent clip of ten seconds goes through the processor."""
    config, processor = AutoConfig.from_pretrained(name), AuroraProcessor.from_pretrained(name)
    return ModelPlan(
        name,
        config,
        _media_tokens(processor),
        processor.num_frames,
        processor.max_objects,
        processor,
        processor.max_answer_tokens,
    )


def _media_tokens(processor: AuroraProcessor) -> int:
    rate = getattr(processor.policy_processor, "sampling_rate", None)
    silence = None if rate is None else np.zeros(10 * rate, np.float32)
    clip = processor.process_clip(np.zeros((processor.num_frames, 360, 640, 3), np.uint8), silence)
    row: Row = {"reference": "it", "video": "clip.mp4", "audio": None}
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": processor.instruction.format(reference="it.")}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return len(processor.prompt_ids(row, clip)) - len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _from_command(step: Step) -> ModelPlan | None:
    """A model that `aurora init` or `aurora tiny-model` is going to build."""
    words = step.command
    if words[:2] == ["aurora", "tiny-model"]:
        return _tiny_plan()
    if words[:2] != ["aurora", "init"] or len(words) < 3:
        return None
    mask_decoder, image_size = option(words, "--mask-decoder") or "", option(words, "--mask-image-size")
    looks, named = option(words, "--mask-memory"), option(words, "--mask-concepts")
    published = published_config(
        words[2],
        mask_decoder,
        int(image_size) if image_size else None,
        memory=ClipMemory(int(looks), memory_gradients="--mask-memory-gradients" in words) if looks else None,
        concepts=ConceptPrompts(int(named)) if named else None,
    )
    if published is None:
        return None
    num_frames = int(option(words, "--num-frames") or 10)
    seconds, pixels = option(words, "--audio-seconds"), option(words, "--video-max-pixels")
    media_tokens = published_tokens(
        words[2], num_frames, float(seconds) if seconds else None, int(pixels) if pixels else None
    )
    what = f"{words[2]} and {Path(mask_decoder).name}, by their published sizes"
    return ModelPlan(what, published, media_tokens, num_frames)


@cache
def _tiny_plan() -> ModelPlan:
    from ..data.synthetic import world_corpus
    from ..tiny.videollama2 import tiny_config, tiny_processor

    processor = tiny_processor(world_corpus())
    return ModelPlan(
        "the tiny model", tiny_config(processor), _media_tokens(processor), processor.num_frames, processor=processor
    )
