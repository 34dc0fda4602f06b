"""How long to wait before the next try. Pure."""

from __future__ import annotations


def backoff_s(attempt: int, first_s: float, max_s: float, chance: float) -> float:
    """Seconds to wait after the `attempt`-th failure (counted from 1): doubles each time, up to `max_s`.

    chance: in [0, 1), drawn by the caller; the wait lies between half and the whole of what the doubling gives, so that
    what failed together does not come back together.
    """
    # 2.0**64 seconds are beyond any limit; larger exponents would overflow.
    whole = min(max_s, first_s * 2.0 ** min(attempt - 1, 64))
    return whole * (0.5 + 0.5 * chance)
