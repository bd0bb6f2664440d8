"""Where reasoning text comes from."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from ..data.media.loading import MediaCache
from ..data.schema import Row, view_key
from ..errors import DataError
from ..evaluation.evaluate import process_state
from .checks import clean_text
from .clients.base import Client, Unusable, Usage
from .engine import Annotation
from .failures import world_failure_kind
from .instructions import correction_request, instructions_digest, reasoning_request
from .parsing import parse_correction
from .request_parts import Part, Sound, clip_parts

ANNOTATORS = "synthetic:DIR, qwen-omni:CHECKPOINT, openai:MODEL or gemini:MODEL"

REASONING_FRAMES = 3  # AURORA, section 6.1
CORRECTION_FRAMES = 10  # section 6.2
_MAX_IMAGE_SIDE = 768
_CHARACTERS_PER_TOKEN = 4.0
_CLIP_SECONDS = 10.0
# A reasoning text, and a correction with the marked copy of what was wrong.
_USUAL_OUTPUT = {"reasoning": 200, "correction": 450}


class Annotator(Protocol):
    """
    Something that knows, or finds out, what is true of a clip: the synthetic world, a stronger model, a person.

    A project with its own implements this and hands an instance to `annotate_file` and `correct_file`.

    Attributes:
        settings (`dict`): what decides its texts, as JSON values: a run is continued only with equal ones.
        metered (`bool`): whether an answer costs money or much time, so that each is brought to the disk by itself.
        local (`bool`, *optional*, defaults to `False`): whether each of several processes holds it, so that they may
            share the rows.
    """

    settings: dict[str, Any]
    metered: bool

    def reasoning(
        self, row: Row, *, style: str = "flexible", seed: int = 0, problem: str | None = None
    ) -> Annotation | str:
        """
        Reasoning about the row's reference that ends with the class sentence, without `It is [SEG].`.

        Args:
            row (`dict`): a dataset row.
            style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"`.
            seed (`int`, *optional*, defaults to 0): of order and wording.
            problem (`str`, *optional*): what was wrong with the last answer about this row.
        """
        ...

    def correct(self, row: Row, text: str, *, seed: int = 0, problem: str | None = None) -> Annotation | str:
        """A wrong reasoning text with as little changed as makes it right (AURORA, section 3.2)."""
        ...


class WorldAnnotator:
    """
    The truth of a synthetic world.

    Args:
        root (`str` or `Path`): a folder that `aurora synth` wrote.
        null_reasons (`bool`, *optional*, defaults to `False`): where nothing fits, say why.
    """

    metered = False

    def __init__(self, root: str | Path, *, null_reasons: bool = False):
        from ..data.synthetic import SyntheticAnnotator

        self.world = SyntheticAnnotator(root)
        # The rows themselves say which world it is: a folder that moved is still the same.
        self.settings: dict[str, Any] = {"annotator": "synthetic", "null_reasons": null_reasons}

    def reasoning(self, row: Row, *, style: str = "flexible", seed: int = 0, problem: str | None = None) -> Annotation:
        """See [`Annotator`]."""
        return Annotation(
            self.world.reasoning(row, style=style, seed=seed, null_reasons=self.settings["null_reasons"])
        )

    def correct(self, row: Row, text: str, *, seed: int = 0, problem: str | None = None) -> Annotation:
        """See [`Annotator`]."""
        judgement = self.world.judge(row, text)
        if judgement.class_correct and not judgement.wrong_sentences:
            return Annotation("", right=True)
        return Annotation(
            self.world.correct(row, text), kind=world_failure_kind(self.world.facts(row), judgement, text)
        )


class ChatAnnotator:
    """
    A model that is shown the clip and asked in words.

    Args:
        client (`Client`): the model.
        max_image_side (`int`, *optional*, defaults to 768): larger frames are scaled down, in pixels.
        cache_clips (`int`, *optional*, defaults to 16): encoded clips to keep, since a clip has several references.
    """

    metered = True

    def __init__(self, client: Client, *, max_image_side: int = _MAX_IMAGE_SIDE, cache_clips: int = 16):
        self.client, self.max_image_side = client, max_image_side
        self.local = getattr(client, "local", False)
        self.settings = {**client.settings, "max_image_side": max_image_side, "instructions": instructions_digest()}
        self._clips = MediaCache(cache_clips)

    def reasoning(self, row: Row, *, style: str = "flexible", seed: int = 0, problem: str | None = None) -> Annotation:
        """See [`Annotator`]. Raises as a [`Client`] does."""
        media = self._media(row, REASONING_FRAMES)
        request = reasoning_request(row, **_counts(media), style=style, problem=problem)
        reply = self.client.complete([*media, request], seed=seed, request_id=_request_id(row, request, seed))
        text = clean_text(reply.text)
        return Annotation(text, raw=None if text == reply.text else reply.text, usage=reply.usage)

    def correct(self, row: Row, text: str, *, seed: int = 0, problem: str | None = None) -> Annotation:
        """See [`Annotator`]. Raises as a [`Client`] does."""
        media = self._media(row, CORRECTION_FRAMES)
        request = correction_request(row, text, **_counts(media), problem=problem)
        reply = self.client.complete([*media, request], seed=seed, request_id=_request_id(row, request, seed))
        try:
            correction = parse_correction(reply.text)
        except ValueError as error:
            raise Unusable(str(error), reply.usage, reply.text) from None
        return Annotation(
            clean_text(correction.text),
            kind=correction.kind,
            right=correction.right,
            marked=correction.marked,
            raw=reply.text,
            usage=reply.usage,
        )

    def _media(self, row: Row, num_frames: int) -> list[Part]:
        key = (num_frames, view_key(row))
        return self._clips.get(key, lambda: clip_parts(row, num_frames=num_frames, max_image_side=self.max_image_side))

    def estimate(self, row: Row, task: str) -> Usage:
        """
        What a request about a row is likely to take, by rule of thumb and without reading its media.

        Args:
            row (`dict`): a dataset row.
            task (`str`): `"reasoning"` or `"correction"`.
        """
        has_sound = bool(row.get("audio") or row.get("video"))
        if task == "reasoning":
            frames = REASONING_FRAMES
            request = reasoning_request(row, num_frames=frames, has_sound=has_sound)
        else:
            frames = CORRECTION_FRAMES
            request = correction_request(row, row.get("target") or "", num_frames=frames, has_sound=has_sound)
        tokens = frames * self.client.picture_tokens + len(request) / _CHARACTERS_PER_TOKEN
        tokens += self.client.sound_tokens_per_second * _CLIP_SECONDS if has_sound else 0
        return Usage(round(tokens), min(_USUAL_OUTPUT[task], self.client.max_output_tokens))


def _counts(media: list[Part]) -> dict[str, Any]:
    sounds = sum(isinstance(part, Sound) for part in media)
    return {"num_frames": len(media) - sounds, "has_sound": bool(sounds)}


def _request_id(row: Row, request: str, seed: int) -> str:
    return hashlib.sha256(f"{row['id']}\0{seed}\0{request}".encode()).hexdigest()[:32]


def get_annotator(
    spec: str,
    *,
    base_url: str | None = None,
    key_variable: str | None = None,
    temperature: float | None = None,
    max_output_tokens: int | None = None,
    timeout_seconds: float = 120.0,
    null_reasons: bool = False,
) -> Annotator:
    """
    An annotator by name.

    Args:
        spec (`str`): `synthetic:DIR` for the world in a folder that `aurora synth` wrote; `qwen-omni:CHECKPOINT` for a
            local Qwen2.5-Omni; `openai:MODEL` for OpenAI or, with `base_url`, any compatible server; `gemini:MODEL`.
        base_url (`str`, *optional*): of `openai:` and `gemini:`.
        key_variable (`str`, *optional*): environment variable that holds the key.
        temperature (`float`, *optional*), max_output_tokens (`int`, *optional*): the model's defaults otherwise.
        timeout_seconds (`float`, *optional*, defaults to 120.0): of a request.
        null_reasons (`bool`, *optional*, defaults to `False`): of `synthetic:`, where nothing fits, say why; models
            are always asked to.

    Raises:
        `DataError`: for anything else, or where a key is missing.
    """
    kind, _, argument = spec.partition(":")
    if not argument or kind not in ("synthetic", "qwen-omni", "openai", "gemini"):
        raise DataError(f"unknown annotator {spec!r}; use {ANNOTATORS}")
    if base_url is not None and kind not in ("openai", "gemini"):
        raise DataError(f"{spec} asks no server: use openai:MODEL with the base URL, or leave that out")
    if kind == "synthetic":
        return WorldAnnotator(argument, null_reasons=null_reasons)
    options: dict[str, Any] = {"temperature": temperature}
    if max_output_tokens is not None:
        options["max_output_tokens"] = max_output_tokens
    if kind == "qwen-omni":
        from .clients.qwen_omni_client import QwenOmniClient

        device = process_state().device if process_state().num_processes > 1 else None
        return ChatAnnotator(QwenOmniClient(argument, device=device, **options))
    options.update(base_url=base_url, key_variable=key_variable, timeout_seconds=timeout_seconds)
    if kind == "openai":
        from .clients.openai_client import OpenAIClient

        return ChatAnnotator(OpenAIClient(argument, **options))
    from .clients.gemini_client import GeminiClient

    return ChatAnnotator(GeminiClient(argument, **options))
