"""How much work a step is, what it leaves on disk and what it costs, from tokens, frames and rows."""

from dataclasses import dataclass
from typing import Any

from ..models.configuration_aurora import AuroraConfig
from .experts import idle_weights
from .machines import Work

# Rows of the published datasets by split: what a plan counts with while they are not there.
PUBLISHED_ROWS = {
    "Ref-AVS": {"train": 14113, "val": 1349, "test_s": 2288, "test_u": 1656, "test_n": 1028},
    "AVSBench S4": {"train": 3452, "val": 740, "test": 740},
}
_STATE_BYTES = 12  # of a trained weight: its float32 copy and Adam's two moments
_LOGIT_SIDE = 4  # the decoder's logits have a quarter of its input's side
_LOGIT_BYTES = 2  # of one, in bf16
_LOCAL_ANNOTATOR = 9e9  # weights of Qwen2.5-Omni-7B with its towers
_REASONING_TOKENS, _REQUEST_TOKENS = 200, 2000

# USD for a million tokens in and out, as the services listed them in 2025; look them up before a run.
LISTED_PRICES = {"gemini:gemini-2.5-pro": (1.25, 10.0)}


@dataclass(frozen=True)
class Passes:
    """
    FLOPs of one row.

    Attributes:
        clip (`float`): the towers and the mask encoder on one clip.
        token (`float`): the language model on one token, forward.
    """

    clip: float
    token: float


def row_passes(config: AuroraConfig, parameters: dict[str, int], num_frames: int, media_tokens: int = 0) -> Passes:
    """
    FLOPs by two for each weight and token, for towers two for each weight and patch. A token reads a few of many
    experts.

    Args:
        config (`AuroraConfig`): of the model.
        parameters (`dict[str, int]`): by group.
        num_frames (`int`): of a clip.
        media_tokens (`int`, *optional*, defaults to 0): its places, which tell the patches of a tower that takes
            frames of any size.
    """
    vision: Any = getattr(config.policy_config, "vision_config", None)
    patches = 0.0  # of a frame
    if getattr(vision, "image_size", None) and getattr(vision, "patch_size", None):
        patches = (int(vision.image_size) // int(vision.patch_size)) ** 2
    elif vision is not None:
        patches = media_tokens * getattr(vision, "spatial_merge_size", 2) ** 2 / num_frames
    mask: Any = config.mask_decoder_config
    mask_patches = (mask.image_size // getattr(mask, "patch_size", 16)) ** 2 if hasattr(mask, "image_size") else 0
    clip = parameters.get("vision_tower", 0) * patches + parameters.get("mask_encoder", 0) * mask_patches
    idle = idle_weights(config.get_text_config())
    return Passes(2.0 * num_frames * clip, 2.0 * (parameters.get("language_model", 0) - idle))


@dataclass(frozen=True)
class TrainingFacts:
    """
    What a training step's settings say.

    Attributes:
        steps (`int`): of the optimizer.
        micro_batches (`int`): of a step, over all processes.
        batch_size (`int`): rows of one; in GRPO completions.
        num_generations (`int`): completions of a question; 1 in SFT.
        prompt, answer (`int`): tokens.
        checkpointing (`bool`): layers are run again in the backward.
        trains_all (`bool`): the language model's own weights train.
    """

    steps: int
    micro_batches: int
    batch_size: int
    num_generations: int
    prompt: int
    answer: int
    checkpointing: bool
    trains_all: bool

    @property
    def questions(self) -> float:
        """Rows of the dataset that a step sees."""
        return self.micro_batches * self.batch_size / self.num_generations


def training_work(facts: TrainingFacts, passes: Passes, weights: int) -> Work:
    """
    The work of a phase. A prompt is read once for all its completions.

    Args:
        facts (`TrainingFacts`): from its settings.
        passes (`Passes`): of its model.
        weights (`int`): of the language model that a step of the rollout reads.
    """
    tokens = facts.prompt + facts.num_generations * facts.answer
    factor = 2 + facts.checkpointing + facts.trains_all  # forward, the states' gradients, again, the weights' own
    row = passes.clip + passes.token * tokens * factor
    written = 0.0
    if facts.num_generations > 1:
        row += passes.token * facts.prompt  # the rollout's prefill
        written = float(facts.steps * facts.answer)  # all of a process's completions of a step together
    return Work(facts.steps * facts.questions * row, written, 2.0 * weights, shares=facts.micro_batches)


def answering_work(rows: int, batch_size: int, prompt: int, answer: int, passes: Passes, weights: int) -> Work:
    """The work of a data step that lets a model answer."""
    batches = -(-rows // batch_size)
    flops = rows * (passes.clip + passes.token * (prompt + answer))
    return Work(flops, float(batches * answer), 2.0 * weights)


def local_annotation_work(rows: int, batch_size: int) -> Work:
    """The work of Qwen2.5-Omni-7B that annotates some rows at a time."""
    flops = rows * 2 * _LOCAL_ANNOTATOR * (_REQUEST_TOKENS + _REASONING_TOKENS)
    return Work(flops, float(-(-rows // batch_size) * _REASONING_TOKENS), 2 * _LOCAL_ANNOTATOR)


def phase_bytes(trained: int, everything: int, kept: int, *, adapter: bool) -> int:
    """
    What a phase leaves on disk: its checkpoints with the optimizer's states, and the result.

    Args:
        trained, everything (`int`): weights.
        kept (`int`): checkpoints beside the result.
        adapter (`bool`): what is not trained is not written.
    """
    own = 2 * (trained if adapter else everything)
    return own + kept * (own + _STATE_BYTES * trained)


def logits_bytes(rows: int, num_frames: int, config: AuroraConfig) -> int:
    """What `aurora evaluate` keeps of masks, before it is compressed."""
    side = getattr(config.mask_decoder_config, "image_size", 0) // _LOGIT_SIDE
    return rows * num_frames * side * side * _LOGIT_BYTES
