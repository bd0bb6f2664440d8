"""Any endpoint that speaks OpenAI's chat completions, with pictures and sound: OpenAI's own, or a vLLM server."""

import base64
from collections.abc import Sequence
from typing import Any

from ...errors import DataError
from ..request_parts import Part, Picture
from .base import (
    Rejected,
    RemoteClient,
    Reply,
    Transient,
    Unusable,
    Usage,
    count_tokens,
    hide_key,
    retry_after_seconds,
    without_key,
)

# Why an answer ended before its end, in the words of several servers; each has its own for one that is whole.
_CUT = ("length", "max_tokens", "model_length")
_BROKEN_OFF = ("content_filter", "abort", "error", "tool_calls", "function_call", "cancelled")


class OpenAIClient(RemoteClient):
    """A model behind an OpenAI-compatible endpoint, through the `openai` package; see [`RemoteClient`]."""

    service = "openai"
    own_url = "https://api.openai.com/v1"
    key_variables = ("OPENAI_API_KEY",)
    max_output_tokens = 1024
    picture_tokens = 800.0
    sound_tokens_per_second = 25.0
    seconds_per_request = 6.0

    def _connect(self, url: str | None, timeout_seconds: float) -> None:
        try:
            import openai
        except ImportError:
            raise DataError("an OpenAI-compatible annotator needs `pip install aurora-trl[annotate]`") from None
        self._openai = openai
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout_seconds, max_retries=0)

    def complete(self, parts: Sequence[Part], *, seed: int, request_id: str) -> Reply:
        """See [`Client`]."""
        options: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": [_content(part) for part in parts]}],  # type: ignore[list-item, misc]
                max_completion_tokens=self.max_output_tokens,
                seed=seed,
                extra_headers={"Idempotency-Key": request_id},
                **options,
            )
        except self._openai.APIStatusError as error:
            raise self._status_error(error) from None
        except self._openai.APIResponseValidationError as error:
            raise Unusable(f"the server's answer is not a chat completion: {self._shown(error)}") from None
        except self._openai.APIConnectionError as error:  # timeouts too
            raise Transient(self._shown(error)) from None
        except ValueError as error:
            raise Unusable(f"the server's answer is not JSON: {self._shown(error)}") from None
        return _read(completion, self._key)

    def _status_error(self, error: Any) -> Exception:
        status, message = error.status_code, self._shown(error)
        if status in (408, 409, 429) or status >= 500:
            return Transient(message, retry_after_seconds(error.response.headers))
        if status in (401, 403, 404):
            return DataError(f"{self.settings['base_url']}: {message}")
        return Rejected(message)


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Picture):
        data = base64.b64encode(part.jpeg).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(part.wav).decode(), "format": "wav"}}


def _read(completion: Any, key: str | None) -> Reply:
    """The text of an answer; the package does not check that a server sent what it should."""
    counted = getattr(completion, "usage", None)
    usage = Usage(count_tokens(counted, "prompt_tokens"), count_tokens(counted, "completion_tokens"))
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    text = getattr(message, "content", None) or ""
    if not isinstance(text, str) or not text.strip():
        refusal = getattr(message, "refusal", None)
        raise Unusable(f"a refusal: {hide_key(refusal, key)}" if refusal else "the answer holds no text", usage)
    text = without_key(text, key)
    reason = getattr(choices[0], "finish_reason", None)  # type: ignore[index]
    if reason in _CUT:
        raise Unusable(f"it was cut off after {usage.output_tokens} tokens", usage, text)
    if reason in _BROKEN_OFF:
        raise Unusable(f"it ended with {reason} after {usage.output_tokens} tokens", usage, text)
    return Reply(text, usage)
