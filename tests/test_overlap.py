"""What runs beside other work gives what one after the other gives."""

import threading

import pytest

from aurora_trl.overlap import in_order


def test_results_come_in_order_and_before_an_error():
    """The function runs in one thread of its own, at most so many items behind the one that makes them."""
    release, made, threads = threading.Event(), [], set()

    def items():
        for item in range(6):
            made.append(item)
            if item == 2:
                release.set()
            yield item
        raise ValueError("no seventh")

    def square(item):
        assert release.wait(60)
        threads.add(threading.get_ident())
        return item * item

    results = in_order(square, items(), most_waiting=2)
    assert next(results) == 0
    assert made == [0, 1, 2]  # two wait beside the one that is worked on
    found = [0]
    with pytest.raises(ValueError, match="no seventh"):
        found.extend(results)
    assert found == [0, 1, 4, 9, 16, 25]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_goes_wrong_beside_is_raised():
    def fail(item):
        raise LookupError(f"item {item}")

    with pytest.raises(LookupError, match="item 0"):
        list(in_order(fail, range(3), most_waiting=1))
    assert list(in_order(fail, [], most_waiting=1)) == []
