"""Published CLIP checkpoints as policies: their text encoder alone."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPTextModel

from ....errors import DataError
from ....prompts import ANSWER, AUDIO_TOKEN, VIDEO_TOKEN
from ...checkpoints.own_files import require_keys
from ...checkpoints.weight_files import find_checkpoint
from ..tokens import add_tokens, init_token_rows
from .modeling_text_encoder import TextEncoderConfig, TextEncoderForConditionalGeneration
from .processing_text_encoder import TextEncoderProcessor, chat_template


def load_text_encoder(
    name_or_folder: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[TextEncoderForConditionalGeneration, TextEncoderProcessor]:
    """
    CLIP's text encoder with a new head, and its processor.

    Args:
        name_or_folder (`str` or `Path`): such as `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, which is ImageBind's.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's own by default.

    Returns:
        `tuple`: the policy in eval mode, and its processor.

    Raises:
        `DataError`: names the weights that are missing, or the token that the tokenizer lacks.
    """
    folder = find_checkpoint(name_or_folder)
    encoder, info = CLIPTextModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    # What the checkpoint has besides is CLIP's image encoder.
    require_keys(str(folder), missing_keys=info["missing_keys"], mismatched_keys=info["mismatched_keys"])
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if tokenizer.bos_token is None:
        raise DataError(f"{folder}: the tokenizer has no `bos_token`, which begins a text; take the files of a CLIP")
    tokenizer.chat_template = chat_template(tokenizer.bos_token)
    tokenizer.padding_side = "left"
    new_tokens = add_tokens(tokenizer, [VIDEO_TOKEN, AUDIO_TOKEN])
    video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
    answer_ids = [*tokenizer(ANSWER, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    config = TextEncoderConfig(encoder.config, answer_ids, video_token_id, dtype=encoder.dtype)
    policy = TextEncoderForConditionalGeneration(config)
    policy.model.text_model = encoder
    init_token_rows(policy, tokenizer, new_tokens)
    return policy.to(encoder.dtype).eval(), TextEncoderProcessor(tokenizer, chat_template=tokenizer.chat_template)
