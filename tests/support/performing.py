"""A performer of work items as after a start of the keeper, and what its record says: for tests with a manager."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update

from db import deliveries, jobs
from db.performance_tables import Performance
from db.performances import NewPerformance
from db.session import Record
from db.states import PerformanceState
from db.types import utcnow
from node.settings import Peer, Settings
from node.settings_ups import Ups, UpsManager
from node.worklist.performer import Performer
from tests.support import records
from tests.support.records import STUDY

FIRST = f"{STUDY}.1.1"
SENDER = "host:deliver:1"


def performer(record: Record, port: int, tmp_path: Path, **changes: object) -> Performer:
    """As after a start of the keeper: it knows nothing but the record."""
    told = {"peer": "ris", "station": "RADNODE", "poll_s": 0.1, "retry_first_s": 0.001, "timeout_s": 5.0} | changes
    peers = {
        "ris": Peer(ae_title="MANAGER", host="127.0.0.1", port=port),
        "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=port),
    }
    ups = Ups(managers={"ris": UpsManager.model_validate(told)})
    return Performer(Settings(data_dir=tmp_path, peers=peers, ups=ups), record, "ris")


def rows(record: Record) -> list[Performance]:
    with record.read() as session:
        return list(session.scalars(select(Performance).order_by(Performance.id)))


def states(record: Record) -> list[PerformanceState]:
    return [row.state for row in rows(record)]


def due_now(record: Record) -> None:
    """What waits for its next look is looked at now."""
    with record.write() as session:
        session.execute(update(Performance).values(next_attempt_at=utcnow() - timedelta(seconds=1)))


def steps(node: Performer, record: Record, count: int = 6) -> None:
    for _ in range(count):
        due_now(record)
        node.run_once()


def read_and_sent(record: Record) -> None:
    """Its one image, read by a model; report and picture are at the PACS."""
    job_id = records.queued_job(record)
    assert records.claim(record, job_id) is not None
    done = records.outcome(records.result(1), records.result(2, "SC"))
    with record.write() as session:
        jobs.finish(session, job_id, records.WORKER, done)
        for one in deliveries.claim(session, job_id, "pacs", SENDER, lease_s=60):
            assert deliveries.mark_sent(session, one.id, SENDER, one.ref, "")


def new(uid: str = "1.2.3") -> NewPerformance:
    return NewPerformance("ris", uid, STUDY, (FIRST,), "ID-1", "stat", ("1", "L", "m"), None)
