"""What every annotating model has in common: one call, three ways to fail, and keys that stay out of sight."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from ...errors import DataError
from ..request_parts import Part

# As people name variables, and as no provider's keys look.
_VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,39}")


@dataclass(frozen=True)
class Usage:
    """
    What an answer took.

    Args:
        input_tokens, output_tokens (`int`): as the server counts them.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True)
class Reply:
    """
    An answer.

    Args:
        text (`str`): what the model wrote.
        usage (`Usage`): what it took.
    """

    text: str
    usage: Usage


class Transient(Exception):
    """
    No answer this time; the same request may have one later.

    Args:
        message (`str`): what happened.
        retry_after_seconds (`float`, *optional*): how long the server wants to be left alone.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Rejected(Exception):
    """The server does not take this request, whenever it is sent; another row's may be fine."""


class Unusable(Exception):
    """
    An answer came, and was counted, but no text can be taken from it.

    Args:
        problem (`str`): why.
        usage (`Usage`, *optional*): what it took all the same.
        raw (`str`, *optional*): what came.
    """

    def __init__(self, problem: str, usage: Usage | None = None, raw: str = ""):
        super().__init__(problem)
        self.usage, self.raw = usage or Usage(), raw


class Client(Protocol):
    """
    A model that reads text, frames and sound, and writes text.

    Attributes:
        settings (`dict`): what decides its answers, without secrets: two runs with equal settings may continue each
            other.
        picture_tokens, sound_tokens_per_second (`float`): what media take, for the estimate before a run.
        max_output_tokens (`int`): longest answer.
        seconds_per_request (`float`): how long an answer takes, for the estimate before a run.
    """

    settings: dict[str, Any]
    picture_tokens: float
    sound_tokens_per_second: float
    max_output_tokens: int
    seconds_per_request: float

    def complete(self, parts: Sequence[Part], *, seed: int, request_id: str) -> Reply:
        """
        Ask once, without retrying.

        Args:
            parts (`Sequence[Part]`): frames, sound, then text.
            seed (`int`): of the sampling, where the server takes one.
            request_id (`str`): the same for the same question, so that a server that knows it need not charge twice.

        Raises:
            `Transient`, `Rejected`, `Unusable`: see there. `DataError`: nothing that is asked can succeed, such as
            with a wrong key.
        """
        ...


class RemoteClient:
    """
    A model behind an endpoint: its address, its key and its settings. Sub-classes ask it.

    Args:
        model (`str`): its name there.
        base_url (`str`, *optional*): another endpoint of the same protocol than the service's own.
        key_variable (`str`, *optional*): environment variable with the key. For the service's own endpoint the first
            of its usual ones that is set; none for another, so that a key is never sent to a stranger.
        temperature (`float`, *optional*): of the sampling; the server's by default.
        max_output_tokens (`int`, *optional*): longest answer, the model's own thoughts included; the class says how
            long by default.
        timeout_seconds (`float`, *optional*, defaults to 120.0): an answer that takes longer is asked for again.

    Raises:
        `DataError`: where the package or the key is missing, or the URL holds one.
    """

    service: str
    own_url: str | None = None
    key_variables: tuple[str, ...]
    max_output_tokens: int

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str | None = None,
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        timeout_seconds: float = 120.0,
    ):
        url = check_base_url(base_url) if base_url else self.own_url
        own = next((name for name in self.key_variables if os.environ.get(name)), self.key_variables[0])
        variable = key_variable or (own if base_url is None else None)
        self._key = read_key(variable) if variable else None
        self.model, self.temperature = model, temperature
        if max_output_tokens is not None:
            self.max_output_tokens = max_output_tokens
        self.settings: dict[str, Any] = {
            "annotator": f"{self.service}:{model}",
            "base_url": url,
            "temperature": temperature,
            "max_output_tokens": self.max_output_tokens,
        }
        self._connect(url, timeout_seconds)

    def _connect(self, url: str | None, timeout_seconds: float) -> None:
        """
        Make the package's own client, which must not retry: the run does, it knows how many answers it waits for and
        what the others were told.
        """
        raise NotImplementedError

    def _shown(self, error: object) -> str:
        """An error as one line, without the key."""
        return hide_key(error, self._key)


def count_tokens(usage: Any, *names: str) -> int:
    """The sum of what a server says it counted; what is no count is none: not every server fills these in."""
    counts = (getattr(usage, name, None) for name in names)
    return sum(count for count in counts if isinstance(count, int) and count > 0)


def read_key(variable: str) -> str:
    """
    A key from the environment.

    Raises:
        `DataError`: names the variable that is not set, where that can not be a key itself.
    """
    key = os.environ.get(variable, "").strip()
    if not key and not _VARIABLE_NAME.fullmatch(variable):
        raise DataError(
            "what is given for --key-variable is not the name of an environment variable that is set; export the key "
            "in one, and give its name, such as MY_KEY, and never the key"
        )
    if not key:
        raise DataError(f"the environment variable {variable} is not set; export the annotator's key in it")
    return key


def check_base_url(url: str) -> str:
    """A URL that may be written down: http or https, with no password or key in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DataError("the base URL must start with http:// or https:// and a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DataError("the base URL holds a user, a password or a query; give keys in the environment instead")
    return url


def hide_key(message: object, key: str | None) -> str:
    """One line for people, in which the key does not appear whatever the server said."""
    return without_key(" ".join(str(message).split()), key)


def without_key(text: str, key: str | None) -> str:
    """A text from a server, which may echo what it was sent."""
    return text.replace(key, "***") if key else text


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds, given as a number or as a date (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
