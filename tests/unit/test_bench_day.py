"""The queueing model of `bench.day` against closed forms, and the day that it is given."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean

import numpy as np
import pytest

from bench.day.compare import Overheads, modelled, overheads, real_days, waits, waits_of
from bench.day.hospital import DAY_S, Kind, day
from bench.day.outcome import Done
from bench.day.queueing import Served, Work, busy_share, simulate, waiting_at

ARRIVALS = 60_000


def poisson(rate_s: float, service_s: np.ndarray, ranks: np.ndarray | None = None) -> list[Work]:
    random = np.random.default_rng(7)
    times = np.cumsum(random.exponential(1 / rate_s, len(service_s)))
    given = np.zeros(len(service_s), int) if ranks is None else ranks
    return [Work(float(t), int(r), float(s)) for t, r, s in zip(times, given, service_s, strict=True)]


def mean_wait(served: list[Served], rank: int = 0) -> float:
    return fmean(one.wait_s for one in served if one.work.rank == rank)


def erlang_c(workers: int, load: float) -> float:
    """The share of arrivals that wait. load: in Erlang."""
    last = load**workers / math.factorial(workers) / (1 - load / workers)
    return last / (sum(load**k / math.factorial(k) for k in range(workers)) + last)


@pytest.mark.parametrize(("workers", "load"), [(1, 0.6), (2, 1.5), (8, 6.0)])
def test_equal_workers_wait_as_erlang_c_says(workers: int, load: float) -> None:
    service = np.random.default_rng(3).exponential(1.0, ARRIVALS)
    expected = erlang_c(workers, load) / (workers - load)
    assert mean_wait(simulate(poisson(load, service), workers)) == pytest.approx(expected, rel=0.06)


def test_service_times_of_any_kind_wait_as_pollaczek_and_khinchine_say() -> None:
    service = np.random.default_rng(3).choice([0.2, 2.0], ARRIVALS, p=[0.7, 0.3])
    rate = 0.9
    expected = rate * fmean(service**2) / (2 * (1 - rate * fmean(service)))
    assert mean_wait(simulate(poisson(rate, service), 1)) == pytest.approx(expected, rel=0.06)


def test_who_overtakes_waits_as_cobham_says() -> None:
    random = np.random.default_rng(3)
    service, ranks = random.exponential(1.0, ARRIVALS), (random.random(ARRIVALS) < 0.7).astype(int)
    rate = 0.8
    rest = rate * fmean(service**2) / 2
    urgent, all_ = 0.3 * rate, rate
    served = simulate(poisson(rate, service, ranks), 1)
    assert mean_wait(served, 0) == pytest.approx(rest / (1 - urgent), rel=0.06)
    assert mean_wait(served, 1) == pytest.approx(rest / ((1 - urgent) * (1 - all_)), rel=0.1)


def test_one_that_is_begun_is_not_interrupted_and_equals_come_in_order() -> None:
    works = [Work(0.0, 1, 5.0), Work(1.0, 1, 1.0), Work(2.0, 1, 1.0), Work(4.0, 0, 1.0)]
    served = simulate(works, 1)
    assert [(one.work.at_s, one.begun_s) for one in served] == [(0.0, 0.0), (4.0, 5.0), (1.0, 6.0), (2.0, 7.0)]
    assert busy_share(served, 1, 0.0, 8.0) == 1.0
    assert busy_share(served, 2, 8.0, 9.0) == 0.0


def test_a_queue_is_as_long_as_what_has_come_and_not_gone() -> None:
    assert waiting_at([0.0, 1.0, 2.5, 4.0], [(1.0, 3.0), (2.0, 4.0), (2.0, 2.0)]) == [0, 1, 2, 0]


def measured(workers: int, handover_s: float, changeover_s: float) -> list[Done]:
    """A day as the model has it, with a handover and a changeover that are known."""
    random = np.random.default_rng(2)
    works = poisson(0.6, random.uniform(0.5, 1.5, 400), (random.random(400) < 0.8).astype(int))
    longer = [Work(w.at_s + handover_s, w.rank, w.service_s + changeover_s) for w in works]
    return [
        Done(
            kind="CR",
            priority="stat" if one.work.rank == 0 else "routine",
            received_s=one.work.at_s - handover_s,
            created_s=one.work.at_s - handover_s,
            started_s=one.begun_s,
            finished_s=one.ended_s - changeover_s,
            sent_s=one.ended_s,
        )
        for one in simulate(longer, workers)
    ]


def test_the_model_finds_the_overheads_of_a_day_and_tells_its_waits() -> None:
    day_of_one = measured(1, 0.1, 0.2)
    taken = overheads(day_of_one)
    assert (taken.handover_s, taken.changeover_s) == pytest.approx((0.1, 0.2))
    model, real = waits_of(modelled(day_of_one, 1, taken), taken), waits(day_of_one)
    for group in ("STAT", "others"):
        assert len(real[group]) > 50
        assert sorted(model[group]) == pytest.approx(sorted(real[group]))
    assert fmean(real["STAT"]) < fmean(real["others"])


def test_more_workers_are_told_to_wait_less() -> None:
    rows = real_days(measured(1, 0.0, 0.0) + measured_ct(), Overheads(0.0, 0.0), (3000,), (1, 8))
    assert [row["workers"] for row in rows] == [1, 8]
    assert rows[1]["busiest_hour_busy"] < rows[0]["busiest_hour_busy"]


def measured_ct() -> list[Done]:
    return [Done("CT", "routine", 0.0, 0.0, 0.0, 2.0, 2.0)]


def test_a_day_has_its_shape_and_is_the_same_again() -> None:
    studies = day(3000, seed=5)
    assert studies == day(3000, seed=5)
    assert [study.number for study in studies] == list(range(3000))
    assert all(0 <= study.at_s < DAY_S for study in studies)
    hours = Counter(int(study.at_s // 3600) for study in studies)
    assert hours[10] > 5 * hours[3]
    kinds = Counter(study.kind for study in studies)
    assert kinds[Kind.CR] == pytest.approx(1650, rel=0.1)
    assert {study.priority for study in studies if study.kind is Kind.PRIOR} == {"routine"}
    stat = {
        night: fmean(s.priority == "stat" for s in studies if (s.at_s < 7 * 3600) is night) for night in (True, False)
    }
    assert stat[True] > stat[False] > 0
