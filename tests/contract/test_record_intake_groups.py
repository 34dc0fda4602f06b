"""Instances that arrive at the same moment share one transaction; each has an outcome of its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, select

from db import intake
from db.domain import Intake, NewInstance
from db.session import Record
from db.states import InstanceState
from db.tables import Audit, Instance, Series, Study
from tests.support.records import image, race, receive

NEW, DUPLICATE, CONFLICT = Intake.NEW, Intake.DUPLICATE, Intake.CONFLICT


def together(record: Record, *images: NewInstance) -> list[Intake]:
    with record.write_rows() as connection:
        return intake.record_instances(connection, images)


def stored(record: Record, table: type[Any]) -> list[Any]:
    with record.read() as session:
        return list(session.scalars(select(table).order_by(table.id)))


def test_each_of_a_group_has_its_own_outcome(record: Record) -> None:
    receive(record, image(1))
    group = (
        image(2),
        image(1),
        image(1, sha256="f" * 64),
        image(2),
        image(2, sha256="e" * 64),
        image(3, patient_id="ID-2"),
        image(4, "9.9", expected_instances=7),
    )
    assert together(record, *group) == [NEW, DUPLICATE, CONFLICT, DUPLICATE, CONFLICT, NEW, NEW]
    states = {i.sop_instance_uid: i.state for i in stored(record, Instance)}
    assert states == {
        image(1).sop_instance_uid: InstanceState.RECEIVED,
        image(2).sop_instance_uid: InstanceState.RECEIVED,
        image(3).sop_instance_uid: InstanceState.QUARANTINED,
        image(4).sop_instance_uid: InstanceState.RECEIVED,
    }
    assert [(s.version, s.expected_instances) for s in stored(record, Study)] == [(3, None), (1, 7)]
    assert len(stored(record, Series)) == 2
    assert [a.event for a in stored(record, Audit)] == ["patient_mismatch"]


def test_a_group_that_brings_nothing_new_changes_nothing(record: Record) -> None:
    receive(record, image(1), image(2))
    assert together(record, image(2), image(1)) == [DUPLICATE, DUPLICATE]
    (study,) = stored(record, Study)
    assert study.version == 2


def test_a_group_of_many_takes_no_more_statements_than_one(record: Record) -> None:
    counts: list[int] = []
    event.listen(record.engine, "before_cursor_execute", lambda *_: counts.append(1))
    assert together(record, image(1)) == [NEW]
    for_one = len(counts)
    assert together(record, *(image(number) for number in range(2, 40))) == [NEW] * 38
    assert len(counts) - for_one <= for_one


def test_groups_that_meet_neither_lose_nor_double_nor_hang(record: Record) -> None:
    def send(number: int) -> list[Intake]:
        ours = [image(k, f"7.{k % 3}") for k in range(12)]
        return together(record, *(ours if number % 2 else reversed(ours)))

    outcomes = race(4, send)
    assert sum(o is NEW for group in outcomes for o in group) == len(stored(record, Instance)) == 12
    assert sum(s.version for s in stored(record, Study)) == 12
