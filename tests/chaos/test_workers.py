"""Processes are killed while they work. Observed: others take over within seconds, and one set of results goes out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from db.tables import Job
from tests.support.figures import note_figure
from tests.support.proxy import Fault
from tests.support.site import PACS, Site

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

TAKEN_UP_WITHIN_S = 10.0
"""The promise; a lease alone would take 30 s."""


def kill_while(busy: Callable[[], bool], victims: Callable[[], list[psutil.Process]], site: Site, what: str) -> float:
    """Kill the victims at a moment at which one of them is at work; the moment, by the steady clock."""

    def at_work() -> list[psutil.Process]:
        found = victims()
        return found if found and busy() else []

    for victim in site.wait(what, at_work):
        victim.send_signal(signal.SIGKILL)
    return time.monotonic()


def running(site: Site, studies: list[str]) -> list[Job]:
    return [job for job in site.jobs(studies) if job.state == "RUNNING"]


def killed_round(site: Site, images: int = 2) -> float:
    """Kill the process that infers while it does; seconds until a job of it is in other hands, or done."""
    studies = site.send(PACS, images)
    killed_at = kill_while(
        lambda: bool(running(site, studies)), lambda: site.workers("infer"), site, "a worker is at a job"
    )
    held = {job.id: job.lease_owner for job in running(site, studies)}

    def taken_up() -> bool:
        now = {job.id: job for job in site.jobs(studies)}
        return all(now[i].state == "DONE" or now[i].lease_owner not in {"", owner} for i, owner in held.items())

    site.wait("what it held is in other hands", taken_up)
    seconds = time.monotonic() - killed_at
    site.wait_delivered(studies)
    site.assert_exactly_once(studies)
    return seconds


def test_a_worker_killed_at_a_job(site: Site) -> None:
    seconds = [killed_round(site) for _ in range(2)]
    note_figure("a worker killed at its job", rounds=len(seconds), longest_s=max(seconds))
    assert max(seconds) < TAKEN_UP_WITHIN_S


def test_a_sender_killed_while_it_sends(site: Site) -> None:
    """The peer may get an object twice; it is the same object."""
    site.line.set(Fault(delay_s=0.4))
    studies = site.send(PACS)
    kill_while(
        lambda: any(d.state == "SENDING" for d in site.deliveries(studies)),
        lambda: site.workers("deliver"),
        site,
        "results are being sent",
    )
    killed_at = time.monotonic()
    site.line.set(Fault())
    site.wait_delivered(studies)
    note_figure("a sender killed while it sends", rounds=1, longest_s=time.monotonic() - killed_at)
    site.assert_exactly_once(studies)


def test_all_workers_killed_with_those_that_watch_them(site: Site) -> None:
    """kill -9 of the service; its manager starts it again, and what it held waits for no lease."""
    studies = site.send(PACS, 3)
    site.wait_until_running(studies)
    site.kill("worker")
    killed_at = time.monotonic()
    site.wait("what it held is due again", lambda: not running(site, studies), timeout_s=TAKEN_UP_WITHIN_S)
    note_figure("all workers killed: due again", rounds=1, longest_s=time.monotonic() - killed_at)
    site.start("worker")
    site.wait_delivered(studies)
    site.assert_exactly_once(studies)


def test_the_keeper_killed_in_between(site: Site) -> None:
    """Nothing is announced while it is away; a new one picks up what it held."""
    site.kill("keeper")
    studies = site.send(PACS, 2)
    site.start("keeper")
    site.wait_delivered(studies)
    site.assert_exactly_once(studies)


@pytest.mark.timeout(900)
def test_workers_killed_twenty_times(site: Site) -> None:
    seconds = [killed_round(site, images=1 + round_ % 3) for round_ in range(20)]
    note_figure("a worker killed at its job", rounds=len(seconds), longest_s=max(seconds))
    assert max(seconds) < TAKEN_UP_WITHIN_S
