"""An AuroraModel and its processor from published parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...prompts import INSTRUCTION, box_instruction
from ..configuration_aurora import AuroraConfig, model_class
from ..mask_decoders import ClipMemory, ConceptPrompts
from ..mask_decoders.published import load_mask_decoder
from ..policies.registry import load_policy
from ..processing_aurora import AuroraProcessor
from .zero3 import split_the_rest

if TYPE_CHECKING:
    from ..modeling_aurora import AuroraModel

# Side of the masks that losses and rewards compare: what SAM's decoder gives at its published 1024 pixels.
MASK_TARGET_SIZE = 256


def load_published(
    policy: str | Path,
    mask_decoder: str | Path,
    *,
    mask_image_size: int | None = None,
    mask_memory: ClipMemory | None = None,
    mask_concepts: ConceptPrompts | None = None,
    dtype: torch.dtype | str = "auto",
    num_frames: int = 10,
    policy_frames: int | None = None,
    instruction: str | None = None,
    mask_source: str = "seg",
    **processor_settings: Any,
) -> "tuple[AuroraModel, AuroraProcessor]":
    """
    Build the composite model from a published policy and a published SAM; only the projector between them is new.

    Args:
        policy (`str` or `Path`): folder or Hub repository, such as `DAMO-NLP-SG/VideoLLaMA2.1-7B-AV`.
        mask_decoder (`str` or `Path`): a `.pth` file of segment-anything, or a folder or repository of SAM 2 or 3.
        mask_image_size (`int`, *optional*): side of the mask decoder's input, in pixels, if not the published one;
            AURORA uses 224.
        mask_memory (`ClipMemory`, *optional*): use the memory across frames of SAM 2 or 3, and so; without, each frame
            is drawn on its own.
        mask_concepts (`ConceptPrompts`, *optional*): let `[SEG]` name a concept to SAM 3's detector, and so; without,
            its tracker draws.
        dtype (`torch.dtype` or `str`, *optional*): of all weights; the policy's own by default.
        num_frames (`int`, *optional*, defaults to 10), policy_frames (`int`, *optional*),
        instruction (`str`, *optional*): for [`AuroraProcessor`]; the instruction that goes with `mask_source` by
            default.
        mask_source (`str`, *optional*, defaults to `"seg"`): `"box"` for a policy that writes boxes and points,
            `"both"` for one that writes them before its `[SEG]`, see [`AuroraConfig`].
        **processor_settings: for the policy's processor, such as `audio_seconds` of VideoLLaMA2, to which sound is cut
            or padded (30 upstream), or `seconds_per_frame` of Qwen.

    Returns:
        `tuple`: the model in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken, or not what they should be.
        `ValueError`: for a dtype that is not known, or in which the policy can not run.
    """
    language, policy_processor = load_policy(policy, _as_dtype(dtype), **processor_settings)
    decoder = load_mask_decoder(
        mask_decoder, image_size=mask_image_size, dtype=language.dtype, memory=mask_memory, concepts=mask_concepts
    )
    processor = AuroraProcessor(
        policy_processor,
        mask_image_size=decoder.config.image_size,
        mask_target_size=min(MASK_TARGET_SIZE, decoder.config.image_size),
        pixel_mean=decoder.config.pixel_mean,
        pixel_std=decoder.config.pixel_std,
        keep_aspect_ratio=decoder.config.keep_aspect_ratio,
        num_frames=num_frames,
        policy_frames=policy_frames,
        instruction=instruction or (box_instruction(num_frames) if mask_source == "box" else INSTRUCTION),
        mask_source=mask_source,
    )
    config = AuroraConfig(
        language.config,
        decoder.config,
        processor.seg_token_id,
        mask_source=mask_source,
        dtype=language.dtype,
        attn_implementation={},  # the parts keep what they were built with; without it transformers sets None
    )
    model: AuroraModel = model_class()(config, policy=language, mask_decoder=decoder)
    if model.seg_projector is not None:
        model.seg_projector.to(language.dtype)
    split_the_rest(model)  # transformers has loaded the policy in parts under ZeRO-3, and nothing else
    return model.eval(), processor


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    if isinstance(dtype, str) and dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise ValueError(f"unknown dtype {dtype!r}; use bfloat16 or float32")
        return named
    return dtype
