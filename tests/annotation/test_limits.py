"""How fast a run asks, and where it stops."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from aurora_trl.annotation import RunLimits
from aurora_trl.annotation.clients import Usage
from aurora_trl.annotation.clients.base import retry_after_seconds
from aurora_trl.annotation.limits import Budget, CapReached, Pacer, describe_estimate


def test_limits_are_checked():
    for values, message in (
        ({"concurrency": 0}, "`concurrency` must be at least 1"),
        ({"max_retries": -1}, "`max_retries` must be at least 0"),
        ({"requests_per_minute": 0}, "`requests_per_minute` must be above 0"),
        ({"input_price": 1.0}, "must be given together"),
        ({"max_cost": 1.0}, "`max_cost` needs `input_price`"),
    ):
        with pytest.raises(ValueError, match=message):
            RunLimits(**values)


def test_backoff_doubles_with_jitter_and_heeds_the_server():
    limits = RunLimits(first_wait_seconds=1.0, longest_wait_seconds=4.0)
    for retry, longest in enumerate((1.0, 2.0, 4.0, 4.0)):
        waits = [limits.backoff_seconds(retry, None) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 10
    assert limits.backoff_seconds(0, 30.0) == 30.0


def test_retry_after_is_a_number_or_a_date():
    assert retry_after_seconds({"retry-after": "1.5"}) == 1.5
    assert retry_after_seconds({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0.0
    assert retry_after_seconds({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e6
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None


def test_requests_are_spaced_and_held_back_over_all_threads():
    pacer, stop, times = Pacer(requests_per_minute=60 / 0.05), threading.Event(), []

    def ask(number):
        pacer.wait(stop)
        times.append(time.monotonic())

    started = time.monotonic()
    pacer.hold(0.2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(6)))
    # None before its turn; a busy machine may make any of them late.
    assert all(moment - started >= 0.199 + 0.05 * turn for turn, moment in enumerate(sorted(times)))
    pacer.hold(100.0)
    stop.set()
    pacer.wait(stop)  # a run that stops waits for nothing


def test_requests_under_way_count_at_their_worst():
    """Prices 1 and 10: the worst request takes 100 + 10 * 90 millionths = 0.001; three fit under 0.0035."""
    budget = Budget(RunLimits(input_price=1.0, output_price=10.0, max_cost=0.0035), Usage(100, 90))
    for _ in range(3):
        budget.reserve()
    fourth = threading.Thread(target=budget.reserve, daemon=True)
    fourth.start()
    fourth.join(0.1)
    assert fourth.is_alive()  # whether it fits depends on what the three will have taken
    budget.add(Usage(100, 10))  # 0.0002 instead of 0.001
    budget.release()
    fourth.join(500)
    assert not fourth.is_alive()
    for _ in range(3):
        budget.add(Usage(100, 90))
        budget.release()
    with pytest.raises(CapReached, match="0.0032 spent"):
        budget.reserve()


def test_the_estimate_is_worked_out():
    limits = RunLimits(concurrency=4, input_price=1.0, output_price=10.0)
    line = describe_estimate(1000, Usage(3_000_000, 200_000), Usage(3_000_000, 1_000_000), 6.0, limits)
    assert "1000 requests, about 3.00 M tokens in and 0.20 M out" in line
    assert "cost about 5.00, at most 13.00, about 25 min" in line
    slow = RunLimits(concurrency=4, requests_per_minute=10.0)
    assert "no prices given, about 100 min" in describe_estimate(1000, Usage(), Usage(), 6.0, slow)
