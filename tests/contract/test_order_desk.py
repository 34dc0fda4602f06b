"""Sweeper and order desk over either database: what is queued, and what waits, for each answer of a worklist."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from db import notices, orders
from db.domain import NewOrder
from db.errors import PeerUnavailable
from db.order_tables import StudyOrder
from db.session import Record
from db.states import InstanceState, JobState, NoticeKind, NoticeState, OrderState
from db.tables import Instance, Job
from db.types import utcnow
from node.rules import Match, Route
from node.settings import Completeness, Settings
from node.settings_worklist import Worklist
from node.sweeper import Sweeper
from node.worklist.desk import OrderDesk
from node.worklist.matching import Key
from tests.support.records import STUDY, image, receive

ROUTE = Route(name="chest", models=("cxr",), match=Match(modality=("CR",)), ask_worklist=True)


class Ris:
    """What a worklist answers now."""

    def __init__(self, *known: NewOrder, away: bool = False) -> None:
        self.known, self.away = known, away

    def __call__(self, key: Key) -> list[NewOrder]:
        if self.away:
            raise PeerUnavailable("RIS@127.0.0.1:104 cannot be reached (Connection refused)")
        return [one for one in self.known if one.accession_number == key.accession_number]


def parts(record: Record, ris: Ris, quiet_s: float = 0, **worklist: float) -> tuple[Sweeper, OrderDesk]:
    settings = Settings().model_copy(
        update={
            "routes": (ROUTE,),
            "completeness": Completeness(quiet_period_s=quiet_s, deadline_s=7200),
            "worklist": Worklist(**worklist),  # type: ignore[arg-type]
        }
    )
    return Sweeper(settings, record, lambda _: None), OrderDesk(settings, record, ris)


def states(record: Record) -> tuple[list[tuple[str, JobState]], list[InstanceState], list[OrderState]]:
    with record.read() as session:
        return (
            [(one.priority, one.state) for one in session.scalars(select(Job))],
            list(session.scalars(select(Instance.state).order_by(Instance.id))),
            list(session.scalars(select(StudyOrder.state))),
        )


@pytest.mark.parametrize(
    ("told", "priority", "state"),
    [
        (NewOrder("ris", "A-1", patient_id="ID-1", priority="stat"), "stat", OrderState.MATCHED),
        (NewOrder("ris", "A-2", patient_id="ID-2", priority="stat"), "routine", OrderState.ABSENT),
    ],
)
def test_a_study_is_queued_as_its_order_says(record: Record, told: NewOrder, priority: str, state: OrderState) -> None:
    sweeper, desk = parts(record, Ris(told))
    receive(record, image(1, accession_number="A-1", received_at=utcnow() - timedelta(seconds=9)))
    assert sweeper.run_once() == 0
    desk.run_once()
    assert sweeper.run_once() == 1
    assert states(record) == ([(priority, JobState.QUEUED)], [InstanceState.ROUTED], [state])


def test_a_worklist_that_comes_back_with_another_patient_parks_what_still_waits(record: Record) -> None:
    ris = Ris(NewOrder("ris", "A-1", patient_id="ID-2"), away=True)
    sweeper, desk = parts(record, ris, wait_s=0, retry_first_s=0.001)
    receive(record, image(1, accession_number="A-1", received_at=utcnow() - timedelta(seconds=9)))
    sweeper.run_once()
    desk.run_once()
    assert sweeper.run_once() == 1
    assert states(record) == ([("routine", JobState.QUEUED)], [InstanceState.ROUTED], [OrderState.WANTED])
    ris.away = False
    with record.write() as session:
        session.execute(update(StudyOrder).values(next_attempt_at=utcnow()))
    desk.run_once()
    assert states(record) == ([("routine", JobState.PARKED)], [InstanceState.FAILED], [OrderState.MISMATCHED])
    # An image that comes later is stopped at once.
    receive(record, image(2, accession_number="A-1", received_at=utcnow() - timedelta(seconds=9)))
    sweeper.run_once()
    assert states(record)[1] == [InstanceState.FAILED, InstanceState.QUARANTINED]


def test_an_order_is_asked_for_no_more_after_its_time(record: Record) -> None:
    sweeper, desk = parts(record, Ris(away=True), wait_s=0, retry_for_s=0.001)
    receive(record, image(1, accession_number="A-1", received_at=utcnow() - timedelta(seconds=9)))
    sweeper.run_once()
    desk.run_once()
    with record.read() as session:
        assert not orders.any_due(session, utcnow() + timedelta(days=9))


def test_a_notice_does_not_hurry_a_study_past_its_order(record: Record) -> None:
    one = image(1, accession_number="A-1", received_at=utcnow())
    sweeper, desk = parts(record, Ris(NewOrder("ris", "A-1", patient_id="ID-1", priority="urgent")), quiet_s=3600)
    receive(record, one)
    with record.write() as session:
        done = {"state": NoticeState.COMPLETED, "calling_ae": "CT"}
        notices.record(session, NoticeKind.IAN, "7.1", [STUDY], instances=[one.sop_instance_uid], **done)
    assert sweeper.run_once() == 0
    desk.run_once()
    assert sweeper.run_once() == 1
    assert states(record)[0] == [("urgent", JobState.QUEUED)]
