"""How a reference reaches a text encoder: as it is, between two marks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, ProcessorMixin
from transformers.utils.logging import get_logger

from ....prompts import AUDIO_TOKEN, VIDEO_TOKEN
from .modeling_text_encoder import TextEncoderConfig

logger = get_logger(__name__)

# Of 77 places; the others are for the answer.
MAX_PROMPT_TOKENS = 64


def chat_template(mark: str) -> str:
    """
    A chat with the places of clips, which `expand_ids` takes out again.

    Args:
        mark (`str`): the special token that begins a turn.
    """
    return (
        "{% for message in messages %}" + mark + "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for block in message['content'] %}{% if block['type'] == 'text' %}{{ block['text'] }}"
        "{% else %}<{{ block['type'] }}>{% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + mark + "{% endif %}"
    )


class TextEncoderProcessor(ProcessorMixin):
    """
    Text alone; without a sampling rate no sound is read.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the encoder's.
        chat_template (`str`, *optional*): the tokenizer's by default.
        max_prompt_tokens (`int`, *optional*, defaults to 64): a longer reference is cut at its end, and a line
            says so.
    """

    sampling_rate = None

    def __init__(
        self, tokenizer: Any = None, chat_template: str | None = None, max_prompt_tokens: int = MAX_PROMPT_TOKENS
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        self.max_prompt_tokens = max_prompt_tokens

    def process_media(self, frames: np.ndarray, waveform: np.ndarray | None) -> dict[str, torch.Tensor]:
        """Nothing of a clip."""
        return {}

    def expand_ids(self, ids: list[int], media: Mapping[str, torch.Tensor]) -> list[int]:
        """The prompt without places, cut to what the encoder can read; its last token, the answer's mark, stays."""
        places = self.tokenizer.convert_tokens_to_ids([VIDEO_TOKEN, AUDIO_TOKEN])
        ids = [token for token in ids if token not in places]
        if len(ids) <= self.max_prompt_tokens:
            return ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        logger.warning_once(
            f"the text encoder reads {self.max_prompt_tokens} tokens of a reference, and {text!r} has {len(ids)}: its "
            "end is cut off"
        )
        return [*ids[: self.max_prompt_tokens - 1], ids[-1]]


AutoProcessor.register(TextEncoderConfig, TextEncoderProcessor)
