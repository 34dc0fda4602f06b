"""Short ways to bring a record into a state: an instance, a routed study, a finished job with its deliveries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import select

from db import intake, jobs, studies
from db.domain import (
    ClaimedJob,
    Intake,
    JobOutcome,
    NewInstance,
    NewJob,
    NewResult,
    NewRevision,
    ResultRef,
    StudyView,
)
from db.session import Record
from db.states import Scope
from db.tables import Job, Study

T = TypeVar("T")
STUDY = "1.2.840.99"
CR = "1.2.840.10008.5.1.4.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
SC = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT = "1.2.840.10008.1.2.1"
WORKER = "host-a:worker-1"
SENDER = "host-a:sender-1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PNEUMONIA = ["233604007", "SCT", "Pneumonia"]
# What a job says that has read one image, and found it.
FOUND: dict[str, Any] = {
    "images": [
        {
            "sop_instance_uid": "1.2.840.99.1.1",
            "analysed": True,
            "findings": [
                {
                    "label": "pneumonia",
                    "code": PNEUMONIA,
                    "presence": "present",
                    "probability": 0.8712,
                    "threshold": 0.5,
                    "priority": "stat",
                }
            ],
            "notes": [],
        }
    ]
}


def image(number: int = 1, study: str = STUDY, **changes: Any) -> NewInstance:
    """The image with that number; the same number is the same SOP Instance UID."""
    new = NewInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{STUDY}.1.{number}",
        sop_class_uid=CR,
        transfer_syntax_uid=EXPLICIT,
        path=f"instances/{number}.dcm",
        size_bytes=1000 + number,
        sha256=f"{number:064x}",
        facts={"modality": "CR", "rows": 2},
        calling_ae="MODALITY",
        called_ae="RADNODE",
        peer_address="127.0.0.1",
        received_at=NOON,
        patient_id="ID-1",
        patient_name="Doe^Jane",
    )
    return replace(new, **changes)


def receive(record: Record, *images: NewInstance) -> list[Intake]:
    """Each in a transaction of its own."""
    outcomes = []
    for one in images:
        with record.write() as session:
            outcomes.append(intake.record_instance(session, one))
    return outcomes


def load(record: Record, study: str = STUDY) -> StudyView:
    with record.read() as session:
        row = session.scalars(select(Study.id).where(Study.study_instance_uid == study)).one()
        return studies.load_study(session, row)


def revision(view: StudyView, **changes: Any) -> NewRevision:
    """All images of a study on one route, read by one model."""
    new = NewRevision(
        route="chest",
        scope=Scope.STUDY,
        subject="",
        reason="complete: quiet for 60 s",
        instance_ids=tuple(i.id for i in view.instances),
        jobs=(NewJob("cxr", "routine", ("sender",)),),
        rules_digest="d" * 64,
        explanation=[{"route": "chest", "matched": True, "checks": []}],
    )
    return replace(new, **changes)


def settle(record: Record, view: StudyView, *revisions: NewRevision, **changes: Any) -> list[int]:
    """Write a decision on a study: complete, unless `changes` says otherwise."""
    decision: dict[str, Any] = {"stored": (), "complete": True, "reason": "quiet", "check_at": NOON} | changes
    with record.write() as session:
        return studies.settle(session, view, revisions=revisions, **decision)


def job_ids(record: Record) -> list[str]:
    with record.read() as session:
        return list(session.scalars(select(Job.id).order_by(Job.created_at, Job.id)))


def queued_job(record: Record, study: str = STUDY, number: int = 1, **job: Any) -> str:
    """Receive one image, route it, and give the id of its job."""
    receive(record, image(number, study))
    view = load(record, study)
    new = replace(NewJob("cxr", "routine", ("sender",)), **job)
    (opened,) = settle(record, view, revision(view, jobs=(new,)))
    with record.read() as session:
        return session.scalars(select(Job.id).where(Job.revision_id == opened)).one()


def claim(
    record: Record, job_id: str, owner: str = WORKER, *, lease_s: float = 60.0, max_attempts: int = 3
) -> ClaimedJob | None:
    """A negative `lease_s` gives a lease that has run out already: a worker that died."""
    with record.write() as session:
        return jobs.claim(session, job_id, owner, lease_s=lease_s, max_attempts=max_attempts)


def result(number: int = 1, kind: str = "SR", study: str = STUDY) -> NewResult:
    sop_class = SR if kind == "SR" else SC
    return NewResult(
        kind=kind,
        ref=ResultRef(sop_class, f"{STUDY}.9.{number}", f"{STUDY}.9", study),
        transfer_syntax_uid=EXPLICIT,
        path=f"results/{number}.dcm",
        size_bytes=500,
        sha256=f"{number:064x}",
    )


def outcome(*results: NewResult, **changes: Any) -> JobOutcome:
    new = JobOutcome(
        analysed=True,
        reason="analysed",
        model_version="1.0.0",
        model_digest="m" * 64,
        summary={"pneumonia": 0.25},
        results=results,
        instances=(),
        destinations=("pacs",),
    )
    return replace(new, **changes)


def finished_job(
    record: Record, *results: NewResult, destinations: tuple[str, ...] = ("pacs",), number: int = 1
) -> str:
    """A job that is done, its results waiting to be sent to `destinations`."""
    job_id = queued_job(record, f"{STUDY}.{number}", number)
    assert claim(record, job_id) is not None
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, outcome(*(results or (result(number),)), destinations=destinations))
    return job_id


def race(workers: int, work: Callable[[int], T]) -> list[T]:
    """Let that many threads do `work(number)` at the same moment; what one raises is raised here."""
    start = threading.Barrier(workers)

    def run(number: int) -> T:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(run, n) for n in range(workers)]]
