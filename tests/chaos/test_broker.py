"""Redis is emptied, restarted, away for long. Observed: work resumes by itself, nothing is lost or done twice."""

from __future__ import annotations

import time

import pytest
import redis

from db import outbox
from node.settings import Settings
from tests.support.figures import note_figure
from tests.support.site import PACS, Site
from workers.app import Publisher, make_app

pytestmark = [pytest.mark.e2e, pytest.mark.soak]


def flush(site: Site) -> None:
    with redis.Redis.from_url(site.broker_url) as client:
        client.flushall()


def test_emptied_while_work_is_queued(site: Site) -> None:
    studies = site.send(PACS, 4)
    site.wait_until_running(studies)
    flush(site)
    emptied_at = time.monotonic()
    site.wait_delivered(studies)
    note_figure("Redis emptied with work queued: all delivered", rounds=1, longest_s=time.monotonic() - emptied_at)
    site.assert_exactly_once(studies)


def test_restarted_with_nothing_kept(site: Site) -> None:
    studies = site.send(PACS, 3)
    site.wait_until_running(studies)
    site.broker_runs.off()
    site.broker_runs.on()
    back_at = time.monotonic()
    studies += site.send(PACS)
    site.wait_delivered(studies, timeout_s=90)
    note_figure("Redis restarted empty: all delivered", rounds=1, longest_s=time.monotonic() - back_at)
    site.assert_exactly_once(studies)


def away(site: Site, seconds: float) -> None:
    """Images are taken and recorded all the while; with the broker back everything is done, by itself."""
    site.broker_runs.off()
    studies = site.send(PACS, 2)
    until = time.monotonic() + seconds
    site.wait("the outage is over", lambda: time.monotonic() > until, timeout_s=seconds + 5)
    assert {job.state for job in site.jobs(studies)} == {"QUEUED"}
    site.broker_runs.on()
    back_at = time.monotonic()
    site.wait_delivered(studies, timeout_s=150)
    note_figure(f"Redis away for {seconds:g} s: all delivered", rounds=1, longest_s=time.monotonic() - back_at)
    site.assert_exactly_once(studies)


@pytest.mark.timeout(600)
def test_away_for_longer_than_any_wait_grows(site: Site) -> None:
    """Relay and workers try again after 30 s at the most, from the second minute on: an hour looks no different."""
    away(site, 150.0)


def test_every_message_twenty_times(site: Site) -> None:
    """Before, while and after its job runs: a message is a hint, and whoever gets it asks the record."""
    publish = Publisher(make_app(Settings(broker_url=site.broker_url)))
    studies = site.send(PACS, 2)
    site.wait("both jobs are known", lambda: len(site.jobs(studies)) == 2)
    messages = [(outbox.TOPIC_INFER, job.id) for job in site.jobs(studies)]
    messages += [(outbox.TOPIC_DELIVER, f"{job.id}:pacs") for job in site.jobs(studies)]
    for topic, subject in messages * 10:
        publish(topic, subject)
    site.wait_delivered(studies)
    for topic, subject in messages * 10:
        publish(topic, subject)
    with redis.Redis.from_url(site.broker_url) as client:
        site.wait(
            "all messages are read", lambda: client.llen(outbox.TOPIC_INFER) == client.llen(outbox.TOPIC_DELIVER) == 0
        )
    site.assert_exactly_once(studies)
    assert {d.attempts for d in site.deliveries(studies)} == {1}
    assert {job.attempts for job in site.jobs(studies)} == {1}
