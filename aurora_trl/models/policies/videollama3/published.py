"""Published checkpoints of VideoLLaMA3 as a policy."""

from pathlib import Path

import torch
from transformers import VideoLlama3Config

from ...checkpoints.weight_files import read_safetensors
from ..published_parts import build_policy, checked_folder, config_fields, with_plain_answers
from .configuration_videollama3 import VideoLlama3PolicyConfig
from .modeling_videollama3 import VideoLlama3Policy
from .processing_videollama3 import VideoLlama3PolicyProcessor


def load_videollama3(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[VideoLlama3Policy, VideoLlama3PolicyProcessor]:
    """
    VideoLLaMA3 and its processor from a published folder or Hub repository, in transformers' layout.

    Args:
        name_or_folder (`str` or `Path`): such as `lkhl/VideoLLaMA3-7B-Image-HF`.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the file or the weights that are missing, broken or of another architecture.
    """
    folder = checked_folder(name_or_folder, "video_llama_3")
    published = VideoLlama3Config.from_pretrained(folder)
    config = VideoLlama3PolicyConfig(**config_fields(published))
    own_dtype = published.dtype or published.text_config.dtype
    policy = build_policy(VideoLlama3Policy, config, read_safetensors(folder), dtype, own_dtype, folder)
    return with_plain_answers(policy, VideoLlama3PolicyProcessor.from_pretrained(folder))
