"""When a clock counts as set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from workers.upkeep import Clocks

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wall_s", "steady_s", "back_s"),
    [
        (1, 1, 0),
        (3601, 1, 0),  # set forward: what waits is due early
        (-3599, 1, 3600),
        (0, 1.5, 0),  # what NTP does
        (86400, 90000, 3600),
    ],
)
def test_the_wall_clock_is_held_against_one_that_nobody_sets(wall_s: float, steady_s: float, back_s: float) -> None:
    now = Clocks(NOON + timedelta(seconds=wall_s), 100.0 + steady_s)
    assert Clocks(NOON, 100.0).set_back_by(now) == timedelta(seconds=back_s)
