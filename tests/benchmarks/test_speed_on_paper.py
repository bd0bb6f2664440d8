"""The count of the chain on paper is that of its page."""

import pytest
from conftest import REPOSITORY
from speed_on_paper import grpo_hours, paper_steps, shared_tokens, sharing, supervised_seconds, table


def test_the_page_has_the_table():
    page = (REPOSITORY / "docs" / "speed-on-paper.md").read_text()
    assert "\n".join(table()) in page
    assert "not measured" in page


def test_the_arithmetic_by_hand():
    assert [sharing(gpus, 8) for gpus in (1, 2, 3, 8, 64)] == [1, 2, 2, 8, 8]
    assert sharing(64, 24) == 24
    # Through 4.9 s on one GPU and 3.1 s on eight: 2.843 s on any, 2.057 s shared.
    assert grpo_hours("eager", 1) == pytest.approx(500 * 4.9 / 3600)
    assert grpo_hours("eager", 8) == pytest.approx(500 * 3.1 / 3600)
    assert grpo_hours("eager", 2) == pytest.approx(500 * (2.842857 + 2.057143 / 2) / 3600)
    assert supervised_seconds() == pytest.approx((1.2 * 3600 - 500 * 3.871429) * 2 / 2460, rel=1e-5)
    # Four rows of 1,440 + 150 tokens: 1,341 once and 249 each, of 6,360.
    assert shared_tokens(4) == pytest.approx(2337 / 6360)
    assert shared_tokens(1) == 1


def test_the_goal():
    """The whole chain in under four hours on eight GPUs, and never slower for more of them."""
    steps = paper_steps()
    for kind in ("before", "after"):
        totals = [sum(getattr(step, kind)(gpus) for step in steps) for gpus in (1, 2, 8, 64)]
        assert totals == sorted(totals, reverse=True)
    assert sum(step.after(8) for step in steps) < 4
    assert all(step.after(gpus) <= step.before(gpus) for step in steps for gpus in (1, 2, 8, 64))
