"""Studies in the record alone that are read and delivered, and deletions brought to their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select

from db import deletions, deliveries
from db.session import Record
from db.states import InstanceState
from db.tables import Instance
from tests.support.records import STUDY, finished_job

ME, LATER = "keeper-1", timedelta(days=1)
ONE = f"{STUDY}.1"


def deliver(record: Record, job_id: str, *, confirmed: bool = True, sent_as: str = "") -> None:
    with record.write() as session:
        for due in deliveries.claim(session, job_id, "pacs", "sender", lease_s=60):
            ref = replace(due.ref, sop_instance_uid=sent_as) if sent_as else due.ref
            deliveries.mark_sent(session, due.id, "sender", ref, "Success")
            if confirmed:
                deliveries.confirm(session, [due.id], "storage commitment")
            else:
                deliveries.leave_unconfirmed(session, [due.id], "no proof")


def read_study(record: Record, number: int = 1, **how: bool) -> str:
    """A study with one image, read and delivered; its UID."""
    job_id = finished_job(record, number=number)
    set_images(record, number, InstanceState.ANALYSED)
    deliver(record, job_id, **how)
    return f"{STUDY}.{number}"


def set_images(record: Record, number: int, state: InstanceState) -> None:
    with record.write() as session:
        for one in session.scalars(select(Instance).where(Instance.sop_instance_uid == f"{STUDY}.1.{number}")):
            one.state = state


def end(record: Record) -> deletions.Going:
    with record.write() as session:
        going = deletions.claim(session, ME, lease_s=60)
        assert going is not None
        assert deletions.finish(session, going.id, ME)
    return going
