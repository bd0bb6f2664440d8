"""Any endpoint that speaks OpenAI's chat completions, with pictures and sound: OpenAI's own, or a vLLM server."""

import base64
from collections.abc import Sequence
from typing import Any

from ...data.schema import DataError
from ..parts import Part, Picture
from .base import (
    Rejected,
    Reply,
    Transient,
    Unusable,
    Usage,
    check_base_url,
    hide_key,
    read_key,
    retry_after_seconds,
    without_key,
)

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


class OpenAIClient:
    """
    A model behind an OpenAI-compatible endpoint, through the `openai` package.

    Args:
        model (`str`): its name there.
        base_url (`str`, *optional*): the endpoint; OpenAI's by default.
        key_variable (`str`, *optional*): environment variable with the key. `OPENAI_API_KEY` for OpenAI's own
            endpoint; none for another, so that its key is never sent to a stranger.
        temperature (`float`, *optional*): of the sampling; the server's by default.
        max_output_tokens (`int`, *optional*, defaults to 1024): longest answer.
        timeout_seconds (`float`, *optional*, defaults to 120.0): an answer that takes longer is asked for again.

    Raises:
        `DataError`: where the package or the key is missing, or the URL holds one.
    """

    picture_tokens = 800.0
    sound_tokens_per_second = 25.0
    seconds_per_request = 6.0

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str | None = None,
        temperature: float | None = None,
        max_output_tokens: int = 1024,
        timeout_seconds: float = 120.0,
    ):
        try:
            import openai
        except ImportError:
            raise DataError("an OpenAI-compatible annotator needs `pip install aurora-trl[annotate]`") from None
        url = check_base_url(base_url or DEFAULT_BASE_URL)
        variable = key_variable or (DEFAULT_KEY_VARIABLE if base_url is None else None)
        self._key = read_key(variable) if variable else None
        self._openai = openai
        # Retries are the run's: it knows how many answers it waits for and what the others were told.
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout_seconds, max_retries=0)
        self.model, self.temperature, self.max_output_tokens = model, temperature, max_output_tokens
        self.settings: dict[str, Any] = {
            "annotator": f"openai:{model}",
            "base_url": url,
            "temperature": temperature,
            "max_output_tokens": max_output_tokens,
        }

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

    def _shown(self, error: object) -> str:
        return hide_key(error, self._key)

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
    usage = Usage(getattr(counted, "prompt_tokens", 0) or 0, getattr(counted, "completion_tokens", 0) or 0)
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    text = getattr(message, "content", None) or ""
    if not isinstance(text, str) or not text.strip():
        refusal = getattr(message, "refusal", None)
        raise Unusable(f"a refusal: {hide_key(refusal, key)}" if refusal else "the answer holds no text", usage)
    text = without_key(text, key)
    if choices[0].finish_reason == "length":  # type: ignore[index]
        raise Unusable(f"it was cut off after {usage.output_tokens} tokens", usage, text)
    return Reply(text, usage)
