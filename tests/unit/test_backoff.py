from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.settings import Delivery
from workers.backoff import backoff_s


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_the_wait_never_leaves_its_bounds(attempt: int, chance: float) -> None:
    assert 1.0 <= backoff_s(attempt, 2.0, 3600.0, chance) <= 3600.0


@given(attempt=st.integers(1, 60), chance=st.floats(0, 1, exclude_max=True))
def test_it_doubles_until_the_limit(attempt: int, chance: float) -> None:
    once, twice = (backoff_s(n, 1.0, 1e30, chance) for n in (attempt, attempt + 1))
    assert twice == 2 * once


def test_what_failed_together_comes_back_apart() -> None:
    assert backoff_s(5, 1.0, 100.0, 0.0) == 8.0
    assert backoff_s(5, 1.0, 100.0, 0.5) == 12.0


def test_by_the_defaults_a_peer_may_be_away_for_three_days() -> None:
    """With the shortest waits that chance may give; dead letters would need a person."""
    delivery = Delivery()
    tries = range(1, delivery.max_attempts)
    least_s = sum(backoff_s(n, delivery.backoff_first_s, delivery.backoff_max_s, 0.0) for n in tries)
    assert least_s >= 3 * 24 * 3600
