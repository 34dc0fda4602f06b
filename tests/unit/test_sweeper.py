"""The sweeper with a real record: what it judges, what it leaves, and what it does when an image slips in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from db import schema, studies
from db.domain import StudyView
from db.session import Record
from db.states import StudyState
from db.tables import Job, Study
from db.types import utcnow
from node.rules import Match, Route
from node.settings import Completeness, Settings
from node.sweeper import PacsCounts, Sweeper
from tests.support.peers import finder
from tests.support.processes import free_port
from tests.support.records import image, receive

WHOLE = Route(name="whole", models=("cxr",), match=Match(modality=("CR",)))
SINGLE = Route(name="single", models=("cxr",), match=Match(modality=("CR",)), mode="instance")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    opened = Record(f"sqlite:///{tmp_path / 'record.db'}")
    schema.upgrade(opened)
    yield opened
    opened.close()


def sweeper(record: Record, route: Route, expected: Callable[[StudyView], int | None]) -> Sweeper:
    waiting = Completeness(quiet_period_s=60, deadline_s=600, sweep_interval_s=0.01)
    settings = Settings().model_copy(update={"routes": (route,), "completeness": waiting})
    return Sweeper(settings, record, expected)


def nobody(_: StudyView) -> int | None:
    return None


def jobs(record: Record) -> int:
    with record.read() as session:
        return len(session.scalars(select(Job)).all())


def study(record: Record) -> Study:
    with record.read() as session:
        return session.scalars(select(Study)).one()


def test_a_study_still_arriving_is_looked_at_again_when_it_may_be_quiet(record: Record) -> None:
    now = utcnow()
    receive(record, image(1, received_at=now))
    assert sweeper(record, WHOLE, nobody).run_once() == 0
    assert study(record).state is StudyState.RECEIVING
    assert study(record).check_at == now + timedelta(seconds=60)
    with record.read() as session:
        assert studies.due_studies(session, now + timedelta(seconds=59)) == []


def test_a_quiet_study_is_routed_once(record: Record) -> None:
    receive(record, image(1, received_at=utcnow() - timedelta(seconds=61)))
    swept = sweeper(record, WHOLE, nobody)
    assert (swept.run_once(), swept.run_once()) == (1, 0)
    assert (jobs(record), study(record).state) == (1, StudyState.COMPLETE)
    assert study(record).completeness_reason == "whole: 1 image, quiet for 60 s"


def test_the_pacs_is_asked_before_a_whole_study_is_read_and_not_for_single_images(record: Record) -> None:
    asked: list[str] = []

    def count(seen: StudyView) -> int:
        asked.append(seen.study_instance_uid)
        return 2

    receive(record, image(1, received_at=utcnow() - timedelta(seconds=61)))
    assert sweeper(record, SINGLE, count).run_once() == 1
    assert asked == []
    receive(record, image(2, "5.2", received_at=utcnow() - timedelta(seconds=61)))
    assert sweeper(record, WHOLE, count).run_once() == 0
    assert asked == ["5.2"]


def test_an_image_that_slips_in_is_waited_for(record: Record) -> None:
    receive(record, image(1, received_at=utcnow() - timedelta(seconds=61)))

    def slip_in(_: StudyView) -> None:
        receive(record, image(2, received_at=utcnow()))

    assert sweeper(record, WHOLE, slip_in).run_once() == 0
    assert (jobs(record), study(record).state) == (0, StudyState.RECEIVING)
    assert sweeper(record, WHOLE, nobody).run_once() == 0


def test_it_runs_until_it_is_stopped(record: Record) -> None:
    receive(record, image(1, received_at=utcnow() - timedelta(seconds=61)))
    stop = threading.Event()

    def stop_when_asked(_: StudyView) -> None:
        stop.set()

    runner = threading.Thread(target=sweeper(record, WHOLE, stop_when_asked).run, args=(stop,))
    runner.start()
    runner.join(30)
    assert not runner.is_alive()
    assert jobs(record) == 1


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pacs_that_may_not_be_asked_or_does_not_answer_stops_nothing(record: Record) -> None:
    receive(record, image(1))
    with record.read() as session:
        seen = studies.load_study(session, study(record).id)
    assert PacsCounts(Settings(), record)(seen) is None
    peer = {"ae_title": "MODALITY", "host": "127.0.0.1", "port": free_port(), "expected_counts": True}
    assert PacsCounts(Settings.model_validate({"peers": {"pacs": peer}}), record)(seen) is None


def test_a_pacs_that_takes_its_time_is_not_waited_for_and_then_left_alone(record: Record) -> None:
    receive(record, image(1))
    with record.read() as session:
        seen = studies.load_study(session, study(record).id)
    with finder() as slow:
        slow.may_answer.clear()
        peer = {"ae_title": "MODALITY", "host": "127.0.0.1", "port": slow.port, "expected_counts": True}
        counts = PacsCounts(Settings.model_validate({"peers": {"pacs": peer}}), record, within_s=0.5)
        before = time.monotonic()
        assert counts(seen) is None
        assert counts(seen) is None
        assert time.monotonic() - before < 5
        assert slow.questions <= 1
        slow.may_answer.set()
