"""Gemini, through the `google-genai` package."""

import importlib
import importlib.util
import json
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
    retry_after_seconds,
    without_key,
)

# What the package runs into where an answer is JSON, and not what it should be.
_UNREADABLE = (json.JSONDecodeError, TypeError, AttributeError, LookupError)


class GeminiClient(RemoteClient):
    """A Gemini model, such as `gemini-2.5-pro` (the paper's for corrections); see [`RemoteClient`]."""

    service = "gemini"
    key_variables = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    max_output_tokens = 8192  # its thoughts count
    picture_tokens = 258.0
    sound_tokens_per_second = 32.0
    seconds_per_request = 15.0

    def _connect(self, url: str | None, timeout_seconds: float) -> None:
        try:
            from google import genai
            from google.genai import errors, types
        except ImportError:
            raise DataError("a Gemini annotator needs `pip install aurora-trl[annotate]`") from None
        self._errors, self._types = errors, types
        self._client = genai.Client(
            api_key=self._key or "none",
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=url,
                timeout=int(timeout_seconds * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    def complete(self, parts: Sequence[Part], *, seed: int, request_id: str) -> Reply:
        """See [`Client`]; the service takes no request id."""
        from pydantic import ValidationError

        try:
            response = self._client.models.generate_content(
                model=self.model,
                contents=[self._content(part) for part in parts],
                config=self._types.GenerateContentConfig(
                    temperature=self.temperature, max_output_tokens=self.max_output_tokens, seed=seed
                ),
            )
        except self._errors.APIError as error:
            raise self._status_error(error) from None
        except _transport_errors() as error:
            raise Transient(f"{type(error).__name__}: {self._shown(error)}") from None
        except (ValidationError, self._errors.UnknownApiResponseError, *_UNREADABLE) as error:
            raise Unusable(f"the server's answer can not be read: {self._shown(error)}") from None
        return self._read(response)

    def _content(self, part: Part) -> Any:
        if isinstance(part, str):
            return self._types.Part.from_text(text=part)
        if isinstance(part, Picture):
            return self._types.Part.from_bytes(data=part.jpeg, mime_type="image/jpeg")
        return self._types.Part.from_bytes(data=part.wav, mime_type="audio/wav")

    def _status_error(self, error: Any) -> Exception:
        message = self._shown(error)
        if error.code in (408, 429) or error.code >= 500:
            headers = getattr(error.response, "headers", None) or {}
            return Transient(message, retry_after_seconds(headers) or _retry_delay(error.details))
        # A wrong key is a 400 here.
        if error.code in (401, 403, 404) or "API_KEY_INVALID" in message:
            return DataError(f"gemini:{self.model}: {message}")
        return Rejected(message)

    def _read(self, response: Any) -> Reply:
        counted = response.usage_metadata
        written = count_tokens(counted, "candidates_token_count", "thoughts_token_count")
        usage = Usage(count_tokens(counted, "prompt_token_count"), written)
        if not response.candidates:
            blocked = getattr(response.prompt_feedback, "block_reason", None)
            raise Unusable(f"the request was blocked: {blocked}" if blocked else "it holds no candidate", usage)
        reason = response.candidates[0].finish_reason
        reason = getattr(reason, "name", reason)
        text = without_key(response.text or "", self._key)
        if reason not in (None, "STOP", "FINISH_REASON_UNSPECIFIED") or not text.strip():
            raise Unusable(f"it ended with {reason} after {usage.output_tokens} tokens", usage, text)
        return Reply(text, usage)


def _transport_errors() -> tuple[type[Exception], ...]:
    """The package sends through whichever of these two is installed, and lets their errors through."""
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return tuple(importlib.import_module(name).TransportError for name in names)


def _retry_delay(details: Any) -> float | None:
    """`retryDelay` of the error's body, such as `"17s"`."""
    body = details.get("error", details) if isinstance(details, dict) else {}
    for entry in body.get("details") or []:
        value = str(entry.get("retryDelay", "")) if isinstance(entry, dict) else ""
        if value.endswith("s") and value[:-1].replace(".", "", 1).isdigit():
            return float(value[:-1])
    return None
