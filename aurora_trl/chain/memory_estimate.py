"""What a training step needs of a GPU's memory, from the sizes of the model and the settings of its recipe.

Weights, gradients and optimizer states are counted; activations are an estimate that holds within some tens of per
cent. Nothing is allocated: the model stands on the meta device.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import get_peft_model
from transformers import PretrainedConfig, Sam3ViTConfig

from ..models import AuroraModel, Sam2MaskConfig, Sam2VideoMaskConfig, Sam3ConceptConfig
from ..models.configuration_aurora import AuroraConfig
from ..training.arguments import LoraArguments
from ..training.lora import lora_config
from .experts import feed_forward_states, feed_forward_width
from .rollout_estimate import RolloutEstimate, RolloutSetup, estimate_rollout

GIGABYTE = 1024**3
# Tokens whose logits the fused head holds at a time, with their gradient and a copy in float32.
_LOGIT_ROWS = 1024


@dataclass(frozen=True)
class TrainingSetup:
    """
    What decides the memory of a step besides the model.

    Attributes:
        groups (`set[str]`): parameter groups that train.
        lora (`LoraArguments`): the adapter, if any.
        zero_stage (`int` or `None`): DeepSpeed's; None: no DeepSpeed, every process holds everything.
        num_processes (`int`): GPUs.
        offload_optimizer (`bool`): optimizer states in the host's memory.
        batch_size (`int`): rows per GPU and micro-step; in GRPO completions.
        tokens (`int`): of the longest row, prompt and answer.
        num_frames (`int`): frames of a clip.
        num_generations (`int`): completions that share a clip, 1 in SFT.
        gradient_checkpointing (`bool`): layers are run again in the backward pass.
        bf16 (`bool`): activations in bf16.
        teacher (`bool`): a second, frozen model beside the first.
        max_objects (`int`, *optional*, defaults to 1): masks of an answer, all of which are decoded.
        rollout (`RolloutSetup`, *optional*): of GRPO, whose steps follow from rollouts.
    """

    groups: set[str]
    lora: LoraArguments
    zero_stage: int | None
    num_processes: int
    offload_optimizer: bool
    batch_size: int
    tokens: int
    num_frames: int
    num_generations: int
    gradient_checkpointing: bool
    bf16: bool
    teacher: bool
    max_objects: int = 1
    rollout: RolloutSetup | None = None


@dataclass(frozen=True)
class MemoryEstimate:
    """
    Bytes per GPU, and the parameters behind them.

    Attributes:
        weights, gradients, optimizer, activations (`int`): bytes; `teacher`'s weights are among the weights. A rollout
            comes in the stead of what a backward pass keeps, under ZeRO-3 with all weights brought together on every
            GPU: the larger of the two is among the activations.
        loading (`int`): bytes while ZeRO-3 loads the model in parts: one weight at a time is whole, and so is what an
            adapter adds until training starts. 0 without ZeRO-3: the model is loaded in the host's memory.
        host (`int`): bytes of optimizer states that are kept in the host's memory for this GPU.
        rollout (`RolloutEstimate` or `None`): of GRPO, in its parts.
        trainable, parameters (`dict[str, int]`): numbers by group.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loading: int = 0
    host: int = 0
    rollout: RolloutEstimate | None = None
    trainable: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes per GPU in a step."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate_memory(config: AuroraConfig, setup: TrainingSetup) -> MemoryEstimate:
    """
    Estimate the peak of a training step.

    Args:
        config (`AuroraConfig`): sizes of the model; `dtype` is that of its weights.
        setup (`TrainingSetup`): the rest.

    Returns:
        `MemoryEstimate`: per GPU.
    """
    with torch.device("meta"):  # shapes without memory
        aurora = AuroraModel(config)
        aurora.set_trainable(setup.groups)
        parameters = _count_by_group(aurora, trained_only=False)
        plain = sum(parameter.numel() for parameter in aurora.parameters())
        adapter = lora_config(aurora, setup.lora, setup.groups)
        model = aurora if adapter is None else get_peft_model(aurora, adapter)
    # PEFT keeps the frozen original of what trains in full beside its copy.
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stage, shares = setup.zero_stage or 0, setup.num_processes
    # DeepSpeed casts all weights to the compute type and keeps the trained ones in float32 beside it, with Adam's two
    # moments; without it what trains is float32, and autocast holds a copy in the compute type.
    deepspeed = setup.zero_stage is not None
    own_bytes = (config.dtype or torch.float32).itemsize if setup.bf16 else 4
    width = (2 if setup.bf16 else 4) if deepspeed else own_bytes
    masters = 0 if deepspeed else trainable * (4 - own_bytes + (2 if setup.bf16 else 0))
    weights = ((total + (plain if setup.teacher else 0)) * width + masters) // (shares if stage >= 3 else 1)
    added, largest = total - plain, max(parameter.numel() for parameter in model.parameters())
    loading = weights + (added - added // shares + largest) * width if stage >= 3 else 0
    gradients = trainable * (width if deepspeed else 4) // (shares if stage >= 2 else 1)
    whole = total * width - total * width // shares if stage >= 3 and setup.num_generations > 1 else 0
    rollout = None if setup.rollout is None else estimate_rollout(config, setup.rollout)
    optimizer = trainable * (12 if deepspeed else 8) // (shares if stage >= 1 else 1)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=0 if setup.offload_optimizer else optimizer,
        activations=_activations(config, setup, rollout, whole),
        loading=loading,
        host=optimizer if setup.offload_optimizer else 0,
        rollout=rollout,
        trainable=_count_by_group(aurora, trained_only=True),
        parameters=parameters,
    )


def count_parameters(config: AuroraConfig) -> dict[str, int]:
    """The numbers of parameters of a model by group, counted on the meta device."""
    with torch.device("meta"):
        return _count_by_group(AuroraModel(config), trained_only=False)


def _count_by_group(model: AuroraModel, *, trained_only: bool) -> dict[str, int]:
    """Numbers of parameters by the model's groups; those of an adapter belong to what they adapt."""
    return {
        group: sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
        for group, module in model.trainable_modules().items()
    }


def _activations(config: AuroraConfig, setup: TrainingSetup, rollout: RolloutEstimate | None, whole: int) -> int:
    """The larger of a training step, with the mask decoder and one pass of SAM's encoder, and of a rollout."""
    text: Any = config.get_text_config()
    width = 2 if setup.bf16 else 4
    rows = setup.batch_size * setup.tokens
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys_and_values = 2 * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_dim
    # What the backward pass of a layer keeps: about seven states and four of the feed-forward's width.
    states = 7 + feed_forward_states(text)
    layer = rows * (states * text.hidden_size + 4 * feed_forward_width(text) + keys_and_values) * width
    if setup.gradient_checkpointing:
        layers = text.num_hidden_layers * rows * text.hidden_size * width + layer
    else:
        layers = text.num_hidden_layers * layer
    logits = min(rows, _LOGIT_ROWS) * text.vocab_size * (width + 2 * 4)
    step = layers + logits + _mask_activations(config.mask_decoder_config, setup, width)
    return step if rollout is None else max(step + rollout.held, whole + rollout.peak)


def _mask_activations(sam: PretrainedConfig, setup: TrainingSetup, width: int) -> int:
    """
    Of the mask decoder for all frames of all rows, and of its image encoder.

    Attention keeps queries, keys, values and what it gives, each grown by the rows and columns of the relative
    positions, and no matrix of all pairs of tokens.
    """
    if isinstance(sam, Sam2MaskConfig):
        return _sam2_activations(sam, setup, width)
    if isinstance(sam, Sam3ConceptConfig):
        return _detector_activations(sam, setup, width)
    sizes: Any = sam
    if not all(hasattr(sizes, name) for name in ("patch_size", "encoder_num_heads", "prompt_embed_dim")):
        return 0  # another decoder, of which nothing is known here
    grid = (sizes.image_size // sizes.patch_size) ** 2
    masks = setup.batch_size * setup.max_objects * setup.num_frames
    decoder = masks * grid * 25 * sizes.prompt_embed_dim * width
    clips = -(-setup.batch_size // setup.num_generations)
    frames = clips * setup.num_frames
    side = sizes.image_size // sizes.patch_size
    attention = 4 * frames * grid * (sizes.encoder_embed_dim + 2 * side * sizes.encoder_num_heads) * width
    block = frames * grid * 12 * sizes.encoder_embed_dim * width
    trains = "mask_encoder" in setup.groups
    kept = sizes.encoder_depth * block + len(sizes.encoder_global_attn_indexes) * attention
    return decoder + (kept if trains else block + attention)


def _sam2_activations(config: Sam2MaskConfig, setup: TrainingSetup, width: int) -> int:
    """
    Of the decoder that SAM 2 and SAM 3's tracker have in common, and of their encoders, which attend without keeping
    what they attend to.

    The numbers of states per place were counted in a backward pass at 256 and 512 pixels.
    """
    sam2: Any = config.sam_config
    grid = (config.image_size // sam2.prompt_encoder_config.patch_size) ** 2 * width
    rows, frames = setup.batch_size * setup.max_objects, setup.num_frames
    decoder = rows * frames * grid * 25 * sam2.mask_decoder_config.hidden_size
    if isinstance(config, Sam2VideoMaskConfig) and frames > 1:
        looks = frames - 1
        # Memories that the frames look back at, all told: 1, 2, and so on up to the most.
        memories = sum(min(before, config.num_memory_frames) for before in range(1, frames))
        channels = sam2.memory_attention_hidden_size
        layer = (
            looks * (10 * channels + sam2.memory_attention_feed_forward_hidden_size) + memories * 11 * channels // 2
        )
        kept = sam2.memory_attention_num_layers * layer
        if config.memory_gradients:
            kept += looks * 45 * sam2.memory_encoder_hidden_size
        decoder += rows * grid * kept
    backbone, trains = sam2.vision_config.backbone_config, "mask_encoder" in setup.groups
    if isinstance(backbone, Sam3ViTConfig):
        return decoder + _vit_activations(backbone, setup, grid)
    clips = -(-setup.batch_size // setup.num_generations)
    first = (config.image_size // 4) ** 2
    stages = [first // 4**i * dim for i, dim in enumerate(backbone.embed_dim_per_stage)]
    if trains:
        states = 25 * sum(depth * stage for depth, stage in zip(backbone.blocks_per_stage, stages, strict=True))
    else:
        states = 12 * stages[0]
    return decoder + clips * frames * states * width


def _vit_activations(backbone: Sam3ViTConfig, setup: TrainingSetup, grid: int) -> int:
    """Of SAM 3's image encoder, on a grid of so many bytes per state: its layers, and the levels made of the last."""
    clips = -(-setup.batch_size // setup.num_generations)
    trains = "mask_encoder" in setup.groups
    states = backbone.hidden_size * (17.5 * backbone.num_hidden_layers + 18 if trains else 14)
    return int(clips * setup.num_frames * states * grid)


def _detector_activations(config: Sam3ConceptConfig, setup: TrainingSetup, width: int) -> int:
    """Of SAM 3's detector at its published depth, counted in a backward pass at 336 and 504 pixels, and encoder."""
    sizes: Any = config.sam3_config
    backbone = sizes.vision_config.backbone_config
    grid = (config.image_size // backbone.patch_size) ** 2
    masks = setup.batch_size * setup.max_objects * setup.num_frames
    states = sizes.detr_encoder_config.hidden_size * (300 * grid + 365 * sizes.detr_decoder_config.num_queries)
    return masks * states * width + _vit_activations(backbone, setup, grid * width)
