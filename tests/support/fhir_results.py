"""Results that are to be told to a FHIR server, and what has become of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import update

from db import jobs, listing
from db.session import Record
from db.tables import Delivery
from node.settings import Delivery as DeliverySettings
from node.settings import Settings
from node.settings_fhir import Fhir, FhirDestination
from tests.support import records
from workers.deliver import Sender

OWNER = "host:deliver:1"
SUMMARY: dict[str, Any] = {
    **records.FOUND,
    "model": {"name": "Sample", "manufacturer": "Somebody", "weights_sha256": "ab" * 32},
}


def sender(record: Record, folder: Path, to: FhirDestination, patients: str = "", **changes: Any) -> Sender:
    """patients: Identifier.system of their ids. changes: to [delivery]."""
    given = Fhir(destinations={"repository": to}, patient_id_system=patients)
    delivery = DeliverySettings(**{"max_attempts": 5, "connect_timeout_s": 2.0, **changes})
    return Sender(Settings(data_dir=folder, fhir=given, delivery=delivery), record, OWNER)


def finished(record: Record, number: int = 1, study: int | None = None, **changes: Any) -> str:
    """A job that is done and is to be told to the repository. study: another revision of an earlier one."""
    uid = f"{records.STUDY}.{study or number}"
    job_id = records.queued_job(record, uid, number)
    assert records.claim(record, job_id) is not None
    done = records.outcome(
        records.result(number, study=uid),
        records.result(100 + number, "SC", study=uid),
        **{"destinations": ("pacs",), "told": ("repository",), "summary": SUMMARY, **changes},
    )
    with record.write() as session:
        jobs.finish(session, job_id, records.WORKER, done)
    return job_id


def rows(record: Record) -> list[dict[str, Any]]:
    with record.read() as session:
        return [row for row in listing.deliveries(session) if row["destination"] == "repository"]


def states(record: Record) -> list[str]:
    return [row["state"] for row in rows(record)]


def hurry(record: Record) -> None:
    """What waits is due, whatever for."""
    with record.write() as session:
        session.execute(update(Delivery).values(next_attempt_at=records.NOON))


def resources(bundle: Any, kind: str) -> list[Any]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == kind]
