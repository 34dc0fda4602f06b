"""The one writer of states: along the tables only, and only from where the row really is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum

import pytest
from sqlalchemy import select, update

from db import notices, performances, pledges, transitions, workitem_tidings, workitems
from db.errors import ConflictError, IllegalTransition
from db.house_tables import Deletion
from db.order_tables import Notice, Pledge, StudyOrder
from db.performance_tables import Performance
from db.prior_tables import PriorRequest
from db.session import Record
from db.states import (
    TRANSITIONS,
    CommitmentState,
    DeletionScope,
    DeletionState,
    DeliveryState,
    InstanceState,
    JobState,
    ModelState,
    NoticeKind,
    NoticeState,
    OrderState,
    PerformanceState,
    PledgeState,
    PriorState,
    StudyState,
    TidingState,
    WorkitemState,
)
from db.tables import Base, Circuit, Commitment, Delivery, Instance, Job, ModelVersion, Study
from db.types import utcnow
from db.workitem_rules import EventType
from db.workitem_tables import Workitem, WorkitemTiding
from tests.support.records import NOON, finished_job, race
from tests.support.workitems import new as new_workitem

TABLES: dict[type[StrEnum], type[Base]] = {
    StudyState: Study,
    InstanceState: Instance,
    JobState: Job,
    DeliveryState: Delivery,
    CommitmentState: Commitment,
    ModelState: ModelVersion,
    OrderState: StudyOrder,
    NoticeState: Notice,
    PledgeState: Pledge,
    PerformanceState: Performance,
    DeletionState: Deletion,
    PriorState: PriorRequest,
    WorkitemState: Workitem,
    TidingState: WorkitemTiding,
}


def pairs(*, legal: bool) -> Iterator[tuple[StrEnum, StrEnum]]:
    for kind, allowed in TRANSITIONS.items():
        for source in kind:
            for target in kind:
                if ((source, target) in allowed) is legal:
                    yield source, target


def names(pair: tuple[StrEnum, StrEnum]) -> str:
    return f"{type(pair[0]).__name__}-{pair[0]}-{pair[1]}"


def prepare(record: Record, source: StrEnum) -> type[Base]:
    """One row of the state's table, in that state."""
    finished_job(record)
    table = TABLES[type(source)]
    with record.write() as session:
        moment = utcnow()
        session.add(
            Commitment(
                transaction_uid="7.7",
                destination="pacs",
                state=CommitmentState.ASKED,
                asked_at=moment,
                deadline_at=moment + timedelta(hours=1),
            )
        )
        session.add(
            ModelVersion(
                model_id="cxr",
                version="1.0.0",
                digest="d" * 64,
                state=ModelState.UPLOADED,
                folder="models/d",
                archive_sha256="a" * 64,
                actor="test",
                installed_at=moment,
                changed_at=moment,
            )
        )
        session.add(
            StudyOrder(
                study_id=session.scalars(select(Study.id)).one(),
                state=OrderState.WANTED,
                wanted_at=moment,
                changed_at=moment,
            )
        )
        session.add(
            Deletion(
                scope=DeletionScope.ASIDE,
                state=DeletionState.BEGUN,
                study_instance_uid="7.11",
                actor="test",
                reason="old",
                paths=[],
                files=0,
                size_bytes=0,
                detail={},
                begun_at=moment,
            )
        )
        session.add(
            PriorRequest(
                study_id=session.scalars(select(Study.id)).one(),
                digest="e" * 64,
                wanted={},
                state=PriorState.WANTED,
                wanted_at=moment,
                wait_until=moment,
                next_attempt_at=moment,
                changed_at=moment,
            )
        )
        notices.record(session, NoticeKind.MPPS, "7.8", ["7.9"], state=NoticeState.IN_PROGRESS, calling_ae="CT")
        pledges.promise(session, pledges.Answer("pacs", "7.10"))
        performances.take_up(session, performances.NewPerformance("ris", "7.12", "7.9"))
        workitems.create(session, new_workitem("7.12", "7.13"))
        workitem_tidings.announce(session, "7.12", EventType.PROGRESS_REPORT, {}, ["WATCHER"])
        session.flush()
        session.execute(update(table).values(state=source))
    return table


def state_of(record: Record, table: type[Base]) -> str:
    with record.read() as session:
        return str(session.scalars(select(table.__table__.c.state)).one())


def test_every_state_has_its_table() -> None:
    assert set(TRANSITIONS) == set(TABLES)
    for kind, allowed in TRANSITIONS.items():
        assert all(type(state) is kind for pair in allowed for state in pair)
        reached = {target for _, target in allowed}
        left = {source for source, _ in allowed}
        assert set(kind) == reached | left


def test_every_legal_change_happens_once(record: Record) -> None:
    for source, target in pairs(legal=True):
        table = TABLES[type(source)]
        if state_is_missing(record):
            prepare(record, source)
        with record.write() as session:
            session.execute(update(table).values(state=source))
        transitions.check(source, target)
        with record.write() as session:
            assert transitions.move(session, table, [], source, target) == 1, names((source, target))
            again = transitions.move(session, table, [], source, target)
        assert again == (1 if source is target else 0), names((source, target))
        assert state_of(record, table) == target


def state_is_missing(record: Record) -> bool:
    with record.read() as session:
        return session.scalars(select(Commitment)).first() is None


@pytest.mark.parametrize("pair", list(pairs(legal=False)), ids=names)
def test_no_illegal_change_is_even_tried(pair: tuple[StrEnum, StrEnum]) -> None:
    source, target = pair
    with pytest.raises(IllegalTransition, match=f"{source} cannot become {target}") as caught:
        transitions.check(source, target)
    assert isinstance(caught.value, ConflictError)


def test_an_illegal_change_leaves_the_row_as_it_was(record: Record) -> None:
    table = prepare(record, JobState.DONE)
    with record.write() as session, pytest.raises(IllegalTransition):
        transitions.move(session, table, [], JobState.DONE, JobState.RUNNING)
    assert state_of(record, table) == "DONE"


def test_of_many_movers_one_wins(record: Record) -> None:
    table = prepare(record, JobState.QUEUED)

    def act(number: int) -> int:
        with record.write() as session:
            return transitions.move(
                session, table, [], JobState.QUEUED, JobState.RUNNING, lease_owner=f"worker-{number}"
            )

    assert sorted(race(5, act)) == [0, 0, 0, 0, 1]


def test_a_row_is_inserted_once(record: Record) -> None:
    def insert(number: int) -> bool:
        with record.write() as session:
            return transitions.insert_ignore(
                session, Circuit, destination="pacs", state="CLOSED", failures=number, changed_at=NOON
            )

    assert sorted(race(5, insert)) == [False, False, False, False, True]
    with record.write() as session:
        assert transitions.affected(session, update(Circuit).values(failures=7)) == 1
        assert session.scalars(select(Circuit.failures)).all() == [7]


def test_of_several_rows_only_new_ones_come_back(record: Record) -> None:
    def row(destination: str) -> dict[str, object]:
        return {"destination": destination, "state": "CLOSED", "failures": 0, "changed_at": NOON}

    with record.write() as session:
        assert transitions.insert_ignore(session, Circuit, **row("old"))
        insert = transitions.insert_or_ignore(session.connection(), Circuit).returning(Circuit.destination)
        assert session.scalars(insert, [row("old"), row("new")]).all() == ["new"]
