"""A queueing model of the workers: M/G/c with priorities that overtake but do not interrupt, by discrete events.

Pure. The arrivals are any list, so that measured ones can be put in. Held against closed forms (Erlang C,
Pollaczek-Khinchine, Cobham) in `tests/unit/test_bench_day.py`, and against the real workers by `bench.day`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One job. rank: lower overtakes higher; within a rank first come, first served. service_s: of a worker's time."""

    at_s: float
    rank: int
    service_s: float


@dataclass(frozen=True)
class Served:
    """What became of it."""

    work: Work
    begun_s: float

    @property
    def wait_s(self) -> float:
        return self.begun_s - self.work.at_s

    @property
    def ended_s(self) -> float:
        return self.begun_s + self.work.service_s

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.work.at_s


def simulate(works: Iterable[Work], workers: int) -> list[Served]:
    """Every job, in the order in which they were begun. workers: equal ones, each with one job at a time, free at
    first."""
    coming = sorted(works, key=lambda work: work.at_s)
    free_at = [float("-inf")] * workers
    waiting: list[tuple[int, float, int]] = []
    served: list[Served] = []
    seen = 0
    while seen < len(coming) or waiting:
        now = free_at[0] if waiting else max(free_at[0], coming[seen].at_s)
        while seen < len(coming) and coming[seen].at_s <= now:
            heapq.heappush(waiting, (coming[seen].rank, coming[seen].at_s, seen))
            seen += 1
        work = coming[heapq.heappop(waiting)[2]]
        served.append(Served(work, now))
        heapq.heapreplace(free_at, now + work.service_s)
    return served


def waiting_at(moments: Sequence[float], spans: Iterable[tuple[float, float]]) -> list[int]:
    """How many spans (from, to) hold each of these moments: a queue's length from when each thing came and went."""
    steps = sorted(
        [(come, 1) for come, gone in spans if gone > come] + [(gone, -1) for come, gone in spans if gone > come]
    )
    lengths, place, length = [], 0, 0
    for moment in moments:
        while place < len(steps) and steps[place][0] <= moment:
            length += steps[place][1]
            place += 1
        lengths.append(length)
    return lengths


def busy_share(served: Sequence[Served], workers: int, begin_s: float, end_s: float) -> float:
    """The share of the workers' time within a span that they were at work."""
    worked = sum(max(0.0, min(one.ended_s, end_s) - max(one.begun_s, begin_s)) for one in served)
    return worked / (workers * (end_s - begin_s))
