"""Statements that are compiled once do what SQLAlchemy does with them, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from db.prepared import Prepared, numbered
from db.session import Record
from db.states import StudyState
from db.tables import Audit, Study
from tests.support.records import NOON, image, receive

OF_PATIENTS = Prepared(
    lambda _connection, size: (
        select(Study.study_instance_uid, Study.state)
        .where(Study.patient_id.in_([bindparam(f"patient{n}") for n in range(size)]), Study.version >= 1)
        .order_by(Study.study_instance_uid)
    )
)
MOVED = Prepared(
    lambda _connection, _size: (
        update(Study)
        .where(Study.study_instance_uid == bindparam("uid"))
        .values(last_received_at=bindparam("at"), state=bindparam("state", type_=Study.state.type))
    )
)


def test_a_statement_is_about_as_many_as_it_is_asked_for(record: Record) -> None:
    receive(record, image(1, "5.1", patient_id="A"), image(2, "5.2", patient_id="B"), image(3, "5.3", patient_id="%s"))
    with record.write_rows() as connection:
        for asked, found in ((["A"], ["5.1"]), (["%s"], ["5.3"]), (["A", "B", "C"], ["5.1", "5.2"])):
            rows = OF_PATIENTS.rows(connection, numbered("patient", asked), len(asked))
            assert rows == [(uid, StudyState.RECEIVING.value) for uid in found]


def test_values_are_stored_as_their_columns_want_them(record: Record) -> None:
    receive(record, image(1, "5.1"), image(2, "5.2"))
    later = NOON + timedelta(hours=1)
    changes = [{"uid": uid, "at": later, "state": StudyState.COMPLETE} for uid in ("5.1", "5.2", "5.9")]
    with record.write_rows() as connection:
        assert MOVED.change(connection, changes) == 2
    with record.read() as session:
        stored = [(study.state, study.last_received_at) for study in session.scalars(select(Study))]
    assert stored == [(StudyState.COMPLETE, later)] * 2


def test_an_error_is_what_it_would_have_been_and_names_no_value(record: Record) -> None:
    receive(record, image(1, "5.1", patient_id="SECRET"))
    twice = Prepared(
        lambda _connection, _size: update(Study).values(id=bindparam("id"), patient_id=bindparam("patient"))
    )
    receive(record, image(2, "5.2"))
    with pytest.raises(IntegrityError) as told, record.write_rows() as connection:
        twice.change(connection, [{"id": 7, "patient": "SECRET"}])
    assert "SECRET" not in str(told.value).replace(str(told.value.orig), "")


def test_a_statement_that_leans_on_a_default_is_none(record: Record) -> None:
    leaning = Prepared(lambda _connection, _size: insert(Study).values(study_instance_uid=bindparam("uid")))
    with pytest.raises(TypeError, match="names every value"), record.write_rows() as connection:
        leaning.rows(connection, {"uid": "5.1"})
    with record.read() as session:
        assert session.scalars(select(Audit)).all() == []
