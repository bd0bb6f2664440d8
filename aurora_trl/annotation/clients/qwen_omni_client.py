"""Qwen2.5-Omni on this machine, through transformers (the paper's annotator of chains of thought)."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...errors import DataError
from ...generation.answers import find_device
from ...models.checkpoints.own_files import find_weight_files, one_line, read_header
from ...models.checkpoints.weight_files import find_checkpoint, read_config
from ..request_parts import SAMPLING_RATE, Part, Picture, Sound
from .base import Reply, Unusable, Usage

_BLOCKS: dict[type, str] = {str: "text", Picture: "image", Sound: "audio"}


@dataclass
class _Waiting:
    """A request, and what came of it."""

    parts: Sequence[Part]
    outcome: Reply | Exception | None = None


class QwenOmniClient:
    """
    The thinker of Qwen2.5-Omni, which writes text; its talker is not loaded. Requests that wait at the same time are
    answered in one batch, so a run's concurrency is the batch's size.

    Args:
        path (`str`): a checkpoint folder or Hub repository, such as `Qwen/Qwen2.5-Omni-7B`.
        temperature (`float`, *optional*): of the sampling; greedy by default. A sampled text depends on the others of
            its batch.
        max_output_tokens (`int`, *optional*, defaults to 512): longest answer.
        max_batch_size (`int`, *optional*, defaults to 16): requests answered together at most.
        gather_seconds (`float`, *optional*, defaults to 0.2): how long to wait for more of them; an answer takes
            several seconds.
        device (`str` or `torch.device`, *optional*): a GPU where there is one by default.

    Raises:
        `DataError`: where there is no such checkpoint, it is not whole, or a weight is missing: it would be random.
    """

    local = True
    picture_tokens = 800.0
    sound_tokens_per_second = 25.0
    seconds_per_request = 8.0

    def __init__(
        self,
        path: str,
        *,
        temperature: float | None = None,
        max_output_tokens: int = 512,
        max_batch_size: int = 16,
        gather_seconds: float = 0.2,
        device: str | torch.device | None = None,
    ):
        self.processor, model = _load(path)
        self.model = model.to(find_device(device)).eval()
        self.temperature, self.max_output_tokens = temperature, max_output_tokens
        self.max_batch_size, self.gather_seconds = max_batch_size, gather_seconds
        self.settings: dict[str, Any] = {
            "annotator": f"qwen-omni:{path}",
            "temperature": temperature,
            "max_output_tokens": max_output_tokens,
        }
        self._waiting: list[_Waiting] = []
        self._waiting_lock, self._model_lock = Lock(), Lock()

    def complete(self, parts: Sequence[Part], *, seed: int, request_id: str) -> Reply:
        """See [`Client`]. Whoever holds the model answers all who wait, its own request among them."""
        request = _Waiting(parts)
        with self._waiting_lock:
            self._waiting.append(request)
        with self._model_lock:
            while request.outcome is None:
                self._answer(self._take_batch(), seed)
        if isinstance(request.outcome, Exception):
            raise request.outcome
        return request.outcome

    def _take_batch(self) -> list[_Waiting]:
        """Those who wait, in order, after giving more of them a moment to come."""
        deadline = time.monotonic() + self.gather_seconds
        while len(self._waiting) < self.max_batch_size and time.monotonic() < deadline:
            time.sleep(self.gather_seconds / 20)
        with self._waiting_lock:
            batch = self._waiting[: self.max_batch_size]
            del self._waiting[: self.max_batch_size]
        return batch

    def _answer(self, batch: list[_Waiting], seed: int) -> None:
        """Write all answers of a batch; what goes wrong with it goes wrong for each."""
        try:
            outcomes = self._generate([request.parts for request in batch], seed)
        except Exception as error:
            outcomes = [error] * len(batch)
        for request, outcome in zip(batch, outcomes, strict=True):
            request.outcome = outcome

    @torch.no_grad()
    def _generate(self, batch: Sequence[Sequence[Part]], seed: int) -> list[Reply | Exception]:
        tokenizer = self.processor.tokenizer
        pictures = [part for parts in batch for part in parts if isinstance(part, Picture)]
        waves = [_read_wave(p.wav) for parts in batch for p in parts if isinstance(p, Sound)]
        inputs = self.processor(
            text=[self._chat(parts) for parts in batch],
            images=[Image.open(io.BytesIO(picture.jpeg)) for picture in pictures] or None,
            audio=waves or None,
            sampling_rate=SAMPLING_RATE,
            padding=True,
            return_tensors="pt",
        )
        inputs = inputs.to(self.model.device).to(self.model.dtype)
        if pictures:
            inputs["mm_encoder_outputs"] = {"image": self._see(inputs, [p.jpeg for p in pictures])}
        sampling: dict[str, Any] = {"do_sample": bool(self.temperature)}
        if self.temperature:
            sampling["temperature"] = self.temperature
        torch.manual_seed(seed)
        sequences = self.model.generate(
            **inputs,
            max_new_tokens=self.max_output_tokens,
            # The published files name no end for the thinker alone.
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
        written = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._read(ids, int(prompt.sum())) for ids, prompt in zip(written, inputs["attention_mask"], strict=True)
        ]

    def _see(self, inputs: Any, pictures: list[bytes]) -> BaseModelOutputWithPooling:
        """What the vision tower makes of a batch's pictures; those of one clip are shown in several requests."""
        grids = inputs["image_grid_thw"]
        patches = inputs.pop("pixel_values").split(grids.prod(dim=-1).tolist())
        first = [pictures.index(picture) for picture in pictures]
        distinct = sorted(set(first))
        seen = self.model.get_image_features(torch.cat([patches[i] for i in distinct]), grids[distinct])
        states = dict(zip(distinct, seen.pooler_output, strict=True))
        return BaseModelOutputWithPooling(pooler_output=tuple(states[i] for i in first))

    def _chat(self, parts: Sequence[Part]) -> str:
        """The prompt, with one place per picture and sound."""
        content = [
            {"type": _BLOCKS[type(part)], **({"text": part} if isinstance(part, str) else {})} for part in parts
        ]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _read(self, ids: list[int], prompt_length: int) -> Reply | Exception:
        """One row of what was generated."""
        end = self.processor.tokenizer.eos_token_id
        length = ids.index(end) + 1 if end in ids else len(ids)
        usage = Usage(prompt_length, length)
        text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        if end not in ids:
            return Unusable(f"it was cut off after {length} tokens", usage, text)
        return Reply(text, usage) if text else Unusable("the model wrote nothing", usage)


def _load(path: str) -> tuple[Any, Any]:
    """The processor and the thinker of a checkpoint that is whole."""
    from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

    folder = find_checkpoint(path)
    model_type = read_config(folder)["model_type"]
    if not str(model_type).startswith("qwen2_5_omni"):
        raise DataError(f"{path}: its `model_type` is {model_type!r}; give a Qwen2.5-Omni checkpoint")
    for file in find_weight_files(str(folder)):
        read_header(file)
    try:
        processor = Qwen2_5OmniProcessor.from_pretrained(folder)
        model, loading = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # whatever a broken file or a wrong value leads to
        raise DataError(f"{path}: it can not be loaded ({one_line(error)}); download or copy it again") from error
    for kind, found in (("lacks", "missing_keys"), ("has in another shape", "mismatched_keys")):
        if loading[found]:
            key = min(str(name if isinstance(name, str) else name[0]) for name in loading[found])
            raise DataError(f"{path}: it {kind} the weight {key}; give a Qwen2.5-Omni checkpoint")
    return processor, model


def _read_wave(wav: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(wav), dtype="float32")[0]
