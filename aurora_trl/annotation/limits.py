"""How fast a run may ask, how often, and for how much."""

import math
import random
import time
from dataclasses import dataclass
from threading import Condition, Event, Lock

from .clients.base import Usage

_TOKENS_PER_PRICE = 1_000_000


class CapReached(ValueError):
    """The run stopped at a limit that was set for it; the same command with a higher one continues."""


@dataclass(frozen=True)
class RunLimits:
    """
    Limits of a run.

    Args:
        concurrency (`int`, *optional*, defaults to 1): requests at a time.
        requests_per_minute (`float`, *optional*): evenly spaced; no limit by default.
        max_attempts (`int`, *optional*, defaults to 3): answers asked for a row before it is listed as failed.
        max_retries (`int`, *optional*, defaults to 6): times that a request is sent again after rate limits, timeouts
            and cut connections, before the run stops.
        max_failures (`int`, *optional*, defaults to 20): rows that may fail one after the other before the run stops.
        max_requests (`int`, *optional*): answers of the whole run, those of earlier parts included.
        max_cost (`float`, *optional*): of the whole run, in the currency of the prices.
        input_price, output_price (`float`, *optional*): of a million tokens.
        first_wait_seconds (`float`, *optional*, defaults to 1.0): before the first retry; it doubles each time.
        longest_wait_seconds (`float`, *optional*, defaults to 60.0): what a retry waits at most, unless the server
            wants more.

    Raises:
        `ValueError`: for a value out of range, or a cap on the cost without prices.
    """

    concurrency: int = 1
    requests_per_minute: float | None = None
    max_attempts: int = 3
    max_retries: int = 6
    max_failures: int = 20
    max_requests: int | None = None
    max_cost: float | None = None
    input_price: float | None = None
    output_price: float | None = None
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_attempts", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("max_retries", "max_requests", "max_cost", "input_price", "output_price"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be at least 0, got {value}")
        if self.requests_per_minute is not None and not 0 < self.requests_per_minute < math.inf:
            raise ValueError(f"`requests_per_minute` must be above 0, got {self.requests_per_minute}")
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("`input_price` and `output_price` must be given together")
        if self.max_cost is not None and self.input_price is None:
            raise ValueError("`max_cost` needs `input_price` and `output_price`, per million tokens")

    def cost(self, usage: Usage) -> float | None:
        """What tokens cost; None where no prices were given."""
        if self.input_price is None or self.output_price is None:
            return None
        tokens = usage.input_tokens * self.input_price + usage.output_tokens * self.output_price
        return tokens / _TOKENS_PER_PRICE

    def backoff_seconds(self, retry: int, retry_after_seconds: float | None) -> float:
        """
        How long to wait before a retry: doubling, shortened by up to a half at random so that requests which failed
        together do not come back together, and never sooner than the server asked.

        Args:
            retry (`int`): counted from 0.
            retry_after_seconds (`float` or `None`): what the server asked.
        """
        wait = min(self.longest_wait_seconds, self.first_wait_seconds * 2.0**retry)
        return max(wait * random.uniform(0.5, 1.0), retry_after_seconds or 0.0)


class Pacer:
    """
    Spaces the requests of all threads, and holds them all back when the server asks for it.

    Args:
        requests_per_minute (`float`, *optional*): no spacing by default.
    """

    def __init__(self, requests_per_minute: float | None = None):
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = self._held = time.monotonic()
        self._lock = Lock()

    def wait(self, stop: Event) -> None:
        """Return when the next request may be sent, or when the run stops."""
        while not stop.is_set():
            with self._lock:
                now = time.monotonic()
                start = max(self._next, self._held)
                if now >= start:
                    self._next = now + self._interval
                    return
            stop.wait(start - now)

    def hold(self, seconds: float) -> None:
        """Send nothing for so long."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)


class Budget:
    """
    What a run has used. A request is reserved at its worst case before it is sent, so that requests under way at the
    same time stay below the cap together.

    Args:
        limits (`RunLimits`): the caps.
        worst (`Usage`): what one request takes at most, by estimate; a larger one that was seen takes its place.
    """

    def __init__(self, limits: RunLimits, worst: Usage):
        self._limits, self._worst = limits, worst
        self._reserved = 0
        self._changed = Condition()
        self.used, self.requests = Usage(), 0

    def reserve(self) -> None:
        """
        Before a request; waits while it depends on what those under way will have taken.

        Raises:
            `CapReached`: where it might go beyond a cap.
        """
        with self._changed:
            while (message := self._over()) is not None:
                if not self._reserved:
                    raise CapReached(message)
                self._changed.wait()
            self._reserved += 1

    def _over(self) -> str | None:
        """Which cap one more request might go beyond."""
        limits, count = self._limits, self._reserved + 1
        if limits.max_requests is not None and self.requests + count > limits.max_requests:
            return (
                f"stopped at the cap of {limits.max_requests} requests; the same command with a higher "
                "--max-requests, or none, continues"
            )
        spent, worst = limits.cost(self.used), limits.cost(self._worst)
        if limits.max_cost is None or spent is None or worst is None or spent + worst * count <= limits.max_cost:
            return None
        return (
            f"stopped at the cap of {limits.max_cost:g}: {spent:.4f} spent, and a request may take {worst:.4f}; the "
            "same command with a higher --max-cost continues"
        )

    def release(self) -> None:
        """A request that was reserved is over, and counted where it had an answer."""
        with self._changed:
            self._reserved -= 1
            self._changed.notify_all()

    def add(self, usage: Usage) -> None:
        """Count an answer, of this part of the run or an earlier one."""
        with self._changed:
            self.used, self.requests = self.used + usage, self.requests + 1
            self._worst = Usage(
                max(self._worst.input_tokens, usage.input_tokens), max(self._worst.output_tokens, usage.output_tokens)
            )


def describe_estimate(requests: int, usage: Usage, worst: Usage, seconds: float, limits: RunLimits) -> str:
    """
    What a run will take, in one line for people.

    Args:
        requests (`int`): to be sent, each row asked once.
        usage (`Usage`): of all of them together, by estimate.
        worst (`Usage`): the same if each answer were as long as allowed.
        seconds (`float`): one request, by estimate.
        limits (`RunLimits`): concurrency, rate and prices.
    """
    per_second = limits.concurrency / seconds
    if limits.requests_per_minute is not None:
        per_second = min(per_second, limits.requests_per_minute / 60)
    cost, most = limits.cost(usage), limits.cost(worst)
    price = "no prices given" if cost is None or most is None else f"cost about {cost:.2f}, at most {most:.2f}"
    return (
        f"{requests} requests, about {usage.input_tokens / 1e6:.2f} M tokens in and {usage.output_tokens / 1e6:.2f} M "
        f"out, {price}, about {requests / per_second / 60:.0f} min; answers asked again come on top"
    )
