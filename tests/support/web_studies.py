"""Studies with files behind them, as the node would have left them: an image, its job, report, map and deliveries."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import deliveries, jobs
from db.domain import InstanceOutcome, NewJob, NewResult
from db.session import Record
from db.states import InstanceState
from db.tables import Job
from db.types import utcnow
from node import storage
from tests.support.listening import CR, chest_file
from tests.support.records import EXPLICIT, WORKER, claim, image, load, outcome, receive, revision, settle
from tests.support.result_samples import analysed, header, provenance
from workers.results import build_results

# Whatever a peer may write into a field; as HTML it would run.
HOSTILE = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Made:
    study: str
    image: str
    job: str
    report: str
    map: str


def read_study(
    record: Record, data_dir: Path, number: int = 1, *, present: bool = True, priority: str = "routine", **patient: Any
) -> Made:
    """A study that a model has read. Its file holds a square in a grey field, 64 x 48 pixels."""
    study, uid = f"1.2.840.99.{number}", f"1.2.840.99.{number}.1.1"
    _receive(record, data_dir, study, uid, **patient)
    view = load(record, study)
    (opened,) = settle(record, view, revision(view, jobs=(NewJob("cxr-sample", priority, ("pacs",)),)))
    with record.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.revision_id == opened)).one()
    claimed = claim(record, job_id)
    assert claimed is not None
    source = header(SOPInstanceUID=uid, SeriesInstanceUID=f"{study}.1", StudyInstanceUID=study, Rows=64, Columns=48)
    made = build_results([analysed(source, ["pneumonia"] if present else [])], provenance(identity=job_id))
    results = []
    for one in made:
        relative = storage.derived_path(storage.RESULTS, one.ref.sop_instance_uid)
        storage.store_bytes(data_dir, relative, one.data)
        digest = hashlib.sha256(one.data).hexdigest()
        results.append(
            NewResult(one.kind, one.ref, one.transfer_syntax_uid, relative.as_posix(), len(one.data), digest)
        )
    found = {
        "label": "pneumonia",
        "presence": "present" if present else "absent",
        "probability": 0.871 if present else 0.051,
        "threshold": 0.5,
        "priority": priority,
    }
    summary = {"images": [{"sop_instance_uid": uid, "analysed": True, "findings": [found], "notes": []}]}
    told = (InstanceOutcome(view.instances[0].id, InstanceState.ANALYSED, "read by cxr-sample"),)
    done = replace(outcome(*results, summary=summary), reason="", instances=told, model_version="1.2.0")
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, done)
    return Made(study, uid, job_id, made[0].ref.sop_instance_uid, made[1].ref.sop_instance_uid if present else "")


def refused_study(record: Record, data_dir: Path, number: int, reason: str, **patient: Any) -> Made:
    """A study that a model would not read."""
    study, uid = f"1.2.840.99.{number}", f"1.2.840.99.{number}.1.1"
    _receive(record, data_dir, study, uid, **patient)
    view = load(record, study)
    settle(record, view, revision(view))
    with record.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.study_id == view.id)).one()
    assert claim(record, job_id) is not None
    summary = {"images": [{"sop_instance_uid": uid, "analysed": False, "reason": reason}]}
    done = replace(outcome(summary=summary), analysed=False, reason=reason)
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, done)
    return Made(study, uid, job_id, "", "")


def waiting_study(record: Record, data_dir: Path, number: int, *, priority: str = "routine", **patient: Any) -> str:
    """A study whose job nobody has taken yet."""
    study = f"1.2.840.99.{number}"
    _receive(record, data_dir, study, f"{study}.1.1", **patient)
    view = load(record, study)
    settle(record, view, revision(view, jobs=(NewJob("cxr-sample", priority, ("pacs",)),)))
    return study


def send_all(session: Session, job_id: str) -> None:
    """Every delivery of a job is sent and confirmed."""
    for one in deliveries.claim(session, job_id, "pacs", "sender", lease_s=60):
        deliveries.mark_sent(session, one.id, "sender", one.ref, "Success")
        deliveries.confirm(session, [one.id], "storage commitment")


def _receive(record: Record, data_dir: Path, study: str, uid: str, **patient: Any) -> None:
    folder = storage.incoming_dir(data_dir)
    pixels = bytearray(b"\x40" * (64 * 48))
    for row in range(16, 32):
        pixels[row * 48 + 8 : row * 48 + 24] = b"\xc0" * 16
    file = chest_file(folder, SOPInstanceUID=uid, StudyInstanceUID=study, Rows=64, Columns=48, PixelData=bytes(pixels))
    data = file.read_bytes()
    relative = storage.derived_path(storage.INSTANCES, uid)
    storage.adopt(data_dir, file, relative)
    given = {"patient_name": "Doe^Jane", "patient_id": f"ID-{uid}", "modality": "CR", "study_description": "Chest PA"}
    new = image(
        study=study,
        sop_instance_uid=uid,
        sop_class_uid=CR,
        transfer_syntax_uid=EXPLICIT,
        path=relative.as_posix(),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        facts={"modality": "CR", "body_part": "CHEST", "rows": 64, "columns": 48, "has_pixels": True},
        received_at=utcnow() - timedelta(minutes=4),
        **{**given, **patient},
    )
    receive(record, new)
