"""The statements by which instances are taken into the record, prepared; `db.intake` says what they are for."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    Update,
    bindparam,
    func,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from db.house_tables import Deletion
from db.prepared import Prepared
from db.retention import leaving_quarantine
from db.states import StudyState
from db.tables import Delivery, Instance, Result, Series, Study
from db.transitions import insert_or_ignore

STUDIES, SERIES, INSTANCES = (cast("Table", table.__table__) for table in (Study, Series, Instance))


def _one_of(column: ColumnElement[str], name: str, size: int) -> ColumnElement[bool]:
    """Whether it is one of `size` values, named as `numbered` does."""
    return column.in_([bindparam(f"{name}{number}", type_=column.type) for number in range(size)])


def _digests(_connection: Connection, size: int) -> Select[Any]:
    return select(INSTANCES.c.sop_instance_uid, INSTANCES.c.blake3, INSTANCES.c.sha256).where(
        _one_of(INSTANCES.c.sop_instance_uid, "uid", size)
    )


def _known(connection: Connection, size: int) -> CompoundSelect[Any]:
    """What is known of instances: their digests, or none for one that this node made itself."""
    results, deliveries = Result.__table__.c.sop_instance_uid, Delivery.__table__.c.sent_sop_instance_uid
    return union_all(
        _digests(connection, size),
        select(results, literal(""), literal("")).where(_one_of(results, "uid", size)),
        select(deliveries, literal(""), literal("")).where(_one_of(deliveries, "uid", size)),
    )


def _places(_connection: Connection, size: int) -> Select[Any]:
    """Studies and series of so many instances."""
    mine = (SERIES.c.study_id == STUDIES.c.id) & _one_of(SERIES.c.series_instance_uid, "series_uid", size)
    return (
        select(
            STUDIES.c.study_instance_uid,
            STUDIES.c.id,
            STUDIES.c.patient_id,
            STUDIES.c.state,
            SERIES.c.series_instance_uid,
            SERIES.c.id,
        )
        .select_from(STUDIES)
        .outerjoin(SERIES, mine)
        .where(_one_of(STUDIES.c.study_instance_uid, "study_uid", size))
    )


def _new_instances(connection: Connection, size: int) -> ReturningInsert[Any]:
    rows: list[dict[str, BindParameter[Any]]] = [
        {
            column.name: bindparam(f"{column.name}{number}", type_=column.type)
            for column in INSTANCES.c
            if not column.primary_key
        }
        for number in range(size)
    ]
    return insert_or_ignore(connection, Instance).values(rows).returning(INSTANCES.c.sop_instance_uid)


def _news(_connection: Connection, _size: int) -> Update:
    """Of a study."""
    return (
        update(STUDIES)
        .where(STUDIES.c.id == bindparam("study_id"), STUDIES.c.state != StudyState.DELETING)
        .values(
            version=STUDIES.c.version + bindparam("more"),
            state=StudyState.RECEIVING,
            last_received_at=bindparam("received_at"),
            check_at=bindparam("received_at"),
            expected_instances=func.coalesce(
                bindparam("promised", type_=STUDIES.c.expected_instances.type), STUDIES.c.expected_instances
            ),
        )
    )


DIGESTS, KNOWN, PLACES = Prepared(_digests), Prepared(_known), Prepared(_places)
IS_LEAVING = Prepared(lambda _connection, _size: leaving_quarantine().with_only_columns(Deletion.id).limit(1))
INSERT, TOUCH = Prepared(_new_instances), Prepared(_news)
