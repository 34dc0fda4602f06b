"""The queueing model held against a day that was measured, and asked what other numbers of workers would do. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.day.hospital import DAY_S, READ, Kind, day
from bench.day.outcome import Done
from bench.day.queueing import Served, Work, busy_share, simulate, waiting_at
from bench.figures import percentile

RANKS = {"stat": 0, "urgent": 1, "routine": 1}
"""The broker has two queues for jobs: STAT, and all else."""

GROUPS = {0: "STAT", 1: "others"}
_SOON_S = 0.1


@dataclass(frozen=True)
class Overheads:
    """handover_s: from a job on record to a worker that is free taking it. changeover_s: from one job's end to the
    beginning of the next that waits; negative where a worker begins the next before the last is on record as ended."""

    handover_s: float
    changeover_s: float


def overheads(jobs: Sequence[Done]) -> Overheads:
    """Taken from a day with one worker: of jobs that found it idle, and of those that waited for the one before."""
    ordered = sorted(jobs, key=lambda job: job.started_s)
    idle, busy = [], []
    for before, after in pairwise(ordered):
        if after.created_s > before.finished_s:
            idle.append(after.started_s - after.created_s)
        elif after.created_s < before.finished_s - _SOON_S:
            busy.append(after.started_s - before.finished_s)
    return Overheads(statistics.median(idle or [0.0]), statistics.median(busy or [0.0]))


def modelled(
    jobs: Sequence[Done], workers: int, taken: Overheads, service_s: Sequence[float] | None = None
) -> list[Served]:
    """The same arrivals through the model. service_s: of each job; its own where there is none."""
    times = service_s or [job.finished_s - job.started_s for job in jobs]
    return simulate(
        [
            Work(job.created_s + taken.handover_s, RANKS[job.priority], max(0.0, time + taken.changeover_s))
            for job, time in zip(jobs, times, strict=True)
        ],
        workers,
    )


def waits(jobs: Iterable[Done]) -> dict[str, list[float]]:
    """Measured, by rank: from a job on record to a worker at it."""
    found: dict[str, list[float]] = {name: [] for name in GROUPS.values()}
    for job in jobs:
        found[GROUPS[RANKS[job.priority]]].append(job.started_s - job.created_s)
    return found


def waits_of(served: Iterable[Served], taken: Overheads) -> dict[str, list[float]]:
    """As the model has it."""
    found: dict[str, list[float]] = {name: [] for name in GROUPS.values()}
    for one in served:
        found[GROUPS[one.work.rank]].append(one.wait_s + taken.handover_s)
    return found


def resampled(jobs: Sequence[Done], of: Sequence[Done], seed: int = 1) -> list[float]:
    """A service time for each of `jobs`, drawn from those of the same kind in `of`."""
    random = np.random.default_rng(seed)
    pools = {kind: [job.finished_s - job.started_s for job in of if job.kind == kind] for kind in READ}
    return [float(random.choice(pools[Kind(job.kind)])) for job in jobs]


def shape(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        "n": float(len(values)),
        "mean": statistics.fmean(ordered),
        "p50": statistics.median(ordered),
        "p95": percentile(ordered, 0.95),
        "most": ordered[-1],
    }


def real_days(
    measured: Sequence[Done], taken: Overheads, studies: Sequence[int], workers: Sequence[int], seed: int = 1
) -> list[dict[str, object]]:
    """What days of so many studies, not compressed, would be with so many workers, each as fast as the one measured."""
    random = np.random.default_rng(seed)
    pools = {kind: [job.finished_s - job.started_s for job in measured if job.kind == kind] for kind in READ}
    rows: list[dict[str, object]] = []
    for count in studies:
        read = [study for study in day(count, seed) if study.kind in READ]
        works = [
            Work(
                study.at_s,
                RANKS[study.priority],
                max(0.0, float(random.choice(pools[study.kind])) + taken.changeover_s),
            )
            for study in read
        ]
        for number in workers:
            served = simulate(works, number)
            queue = waiting_at(np.linspace(0, DAY_S, 24 * 60).tolist(), [(s.work.at_s, s.begun_s) for s in served])
            by_group = waits_of(served, taken)
            rows.append(
                {
                    "studies": count,
                    "workers": number,
                    "busiest_hour_busy": max(
                        busy_share(served, number, hour * 3600.0, (hour + 1) * 3600.0) for hour in range(24)
                    ),
                    "longest_queue": max(queue),
                    "waits_s": {name: shape(values) for name, values in by_group.items()},
                }
            )
    return rows
