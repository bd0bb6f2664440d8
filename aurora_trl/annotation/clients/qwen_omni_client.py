"""Qwen2.5-Omni on this machine, through transformers (the paper's annotator of chains of thought)."""

import io
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from ...data.schema import DataError
from ..parts import SAMPLING_RATE, Part, Picture, Sound
from .base import Reply, Unusable, Usage

_BLOCKS: dict[type, str] = {str: "text", Picture: "image", Sound: "audio"}


class QwenOmniClient:
    """
    The thinker of Qwen2.5-Omni, which writes text; its talker is not loaded. One request at a time: where there is a
    lot to annotate, the same weights behind a vLLM server (`openai:MODEL` with `--base-url`) answer many at once.

    Args:
        path (`str`): a checkpoint folder or Hub repository, such as `Qwen/Qwen2.5-Omni-7B`.
        temperature (`float`, *optional*): of the sampling; greedy by default.
        max_output_tokens (`int`, *optional*, defaults to 512): longest answer.
        device (`str`, *optional*): a GPU where there is one by default.

    Raises:
        `DataError`: where a weight is missing: it would be random.
    """

    picture_tokens = 800.0
    sound_tokens_per_second = 25.0
    seconds_per_request = 8.0

    def __init__(
        self,
        path: str,
        *,
        temperature: float | None = None,
        max_output_tokens: int = 512,
        device: str | None = None,
    ):
        from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = Qwen2_5OmniProcessor.from_pretrained(path)
        model, loading = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            path, dtype="auto", output_loading_info=True
        )
        if loading["missing_keys"]:
            raise DataError(
                f"{path}: it lacks the weight {min(loading['missing_keys'])}; give a Qwen2.5-Omni checkpoint"
            )
        self.model = model.to(device).eval()
        self.temperature, self.max_output_tokens = temperature, max_output_tokens
        self.settings: dict[str, Any] = {
            "annotator": f"qwen-omni:{path}",
            "temperature": temperature,
            "max_output_tokens": max_output_tokens,
        }
        self._lock = Lock()

    @torch.no_grad()
    def complete(self, parts: Sequence[Part], *, seed: int, request_id: str) -> Reply:
        """See [`Client`]."""
        content = [
            {"type": _BLOCKS[type(part)], **({"text": part} if isinstance(part, str) else {})} for part in parts
        ]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pictures = [Image.open(io.BytesIO(part.jpeg)) for part in parts if isinstance(part, Picture)]
        waves = [_read_wave(part.wav) for part in parts if isinstance(part, Sound)]
        inputs = self.processor(
            text=text, images=pictures or None, audio=waves or None, sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        inputs = inputs.to(self.model.device).to(self.model.dtype)
        sampling = (
            {"do_sample": False} if not self.temperature else {"temperature": self.temperature, "do_sample": True}
        )
        with self._lock:
            torch.manual_seed(seed)
            sequences = self.model.generate(**inputs, max_new_tokens=self.max_output_tokens, **sampling)
        prompt_length = inputs["input_ids"].shape[1]
        written = sequences[0, prompt_length:]
        usage = Usage(prompt_length, len(written))
        answer = self.processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        if not answer:
            raise Unusable("the model wrote nothing", usage)
        if len(written) >= self.max_output_tokens:
            raise Unusable(f"it was cut off after {len(written)} tokens", usage, answer)
        return Reply(answer, usage)


def _read_wave(wav: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(wav), dtype="float32")[0]
