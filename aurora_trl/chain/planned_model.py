"""The sizes of the model that a chain's step starts from, also where the step that makes it has not run yet."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from transformers import AutoConfig

from ..data.schema import Row
from ..models.configuration_aurora import AuroraConfig
from ..models.processing_aurora import AuroraProcessor
from .definition import Pipeline, Step
from .published_sizes import published_config, video_llama2_tokens

_UPSTREAM_AUDIO_SECONDS = 30.0


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
    """

    what: str
    config: AuroraConfig
    media_tokens: int
    num_frames: int
    max_objects: int = 1


def option(words: list[str], flag: str) -> str | None:
    """The value of a flag on a command line, or None where it is not given."""
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def plan_model(pipeline: Pipeline, name: str) -> ModelPlan | None:
    """
    Follow a model's name back to a checkpoint that is there, or to the step that builds the first one.

    Args:
        pipeline (`Pipeline`): the chain.
        name (`str`): a step's `model_name_or_path`.

    Returns:
        `ModelPlan` or `None`: None where the sizes can not be known yet.
    """
    if (Path(name) / "config.json").is_file() and (Path(name) / "aurora_processor.json").is_file():
        return _from_checkpoint(name)
    maker = next((step for step in pipeline.steps if step.makes == Path(name)), None)
    if maker is None:
        return None
    if maker.config is not None:
        text = pipeline.configs.get(maker.config) or maker.config.read_text()
        settings = yaml.safe_load(text)
        model = plan_model(pipeline, str(settings["model_name_or_path"]))
        # A phase that sets it hands it on with its checkpoint.
        given = settings.get("max_objects")
        return model if model is None or given is None else replace(model, max_objects=given)
    return _from_command(maker)


def _from_checkpoint(name: str) -> ModelPlan:
    """Sizes and places as they are: a black and silent clip of ten seconds goes through the processor."""
    config, processor = AutoConfig.from_pretrained(name), AuroraProcessor.from_pretrained(name)
    return ModelPlan(name, config, _media_tokens(processor), processor.num_frames, processor.max_objects)


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
    published = published_config(words[2], mask_decoder, int(image_size) if image_size else None)
    if published is None:
        return None
    num_frames = int(option(words, "--num-frames") or 10)
    seconds = float(option(words, "--audio-seconds") or _UPSTREAM_AUDIO_SECONDS)
    what = f"{words[2]} and {Path(mask_decoder).name}, by their published sizes"
    return ModelPlan(what, published, video_llama2_tokens(num_frames, seconds), num_frames)


@cache
def _tiny_plan() -> ModelPlan:
    from ..data.synthetic import world_corpus
    from ..tiny.videollama2 import tiny_config, tiny_processor

    processor = tiny_processor(world_corpus())
    return ModelPlan("the tiny model", tiny_config(processor), _media_tokens(processor), processor.num_frames)
