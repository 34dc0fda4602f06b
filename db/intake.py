"""Taking an instance into the record: one transaction, after its bytes are durable."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import audit
from db.domain import Intake, NewInstance, NewRefusal
from db.states import InstanceState, RefusalKind, StudyState
from db.tables import Delivery, Instance, Refusal, Result, Series, Study
from db.transitions import affected, insert_ignore
from db.types import utcnow

# A promise of more images than a 32-bit column holds is no promise.
_MOST_EXPECTED = 2**31 - 1


def find_instance(session: Session, sop_instance_uid: str) -> tuple[str, str] | None:
    """(sha256, path) of the instance with that UID, or None."""
    row = session.execute(
        select(Instance.sha256, Instance.path).where(Instance.sop_instance_uid == sop_instance_uid)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def is_own_result(session: Session, sop_instance_uid: str) -> bool:
    """True when this node made the object: it must never read its own results."""
    made = select(Result.id).where(Result.sop_instance_uid == sop_instance_uid)
    sent = select(Delivery.id).where(Delivery.sent_sop_instance_uid == sop_instance_uid)
    return session.scalar(made) is not None or session.scalar(sent.limit(1)) is not None


def record_instance(session: Session, new: NewInstance) -> Intake:
    """Insert study, series and instance as needed; idempotent.

    A second arrival with the same bytes is a DUPLICATE, with other bytes a CONFLICT; neither changes what is there.
    An instance whose Patient ID differs from its study's is kept QUARANTINED: two patients under one Study Instance
    UID must never meet in one result.
    """
    known = find_instance(session, new.sop_instance_uid)
    if known is not None:
        return Intake.DUPLICATE if known[0] == new.sha256 else Intake.CONFLICT
    new = _storable(new)
    study, opened_study = _study(session, new)
    series_id, opened_series = _series(session, study.id, new)
    mismatch = study.patient_id != new.patient_id
    inserted = insert_ignore(
        session,
        Instance,
        study_id=study.id,
        series_id=series_id,
        sop_instance_uid=new.sop_instance_uid,
        sop_class_uid=new.sop_class_uid,
        transfer_syntax_uid=new.transfer_syntax_uid,
        state=InstanceState.QUARANTINED if mismatch else InstanceState.RECEIVED,
        reason="its Patient ID differs from that of its study" if mismatch else "",
        path=new.path,
        size_bytes=new.size_bytes,
        sha256=new.sha256,
        facts=new.facts,
        own_result=new.own_result or is_own_result(session, new.sop_instance_uid),
        calling_ae=new.calling_ae,
        called_ae=new.called_ae,
        peer_address=new.peer_address,
        received_at=new.received_at,
    )
    if not inserted:
        # PostgreSQL: another association committed the same UID between our look and our insert. Neither its study nor
        # its series must stay behind empty.
        if opened_series:
            affected(session, delete(Series).where(Series.id == series_id))
        if opened_study:
            session.expunge(study)
            affected(session, delete(Study).where(Study.id == study.id))
        known = find_instance(session, new.sop_instance_uid)
        return Intake.DUPLICATE if known is not None and known[0] == new.sha256 else Intake.CONFLICT
    if mismatch:
        audit.note(session, "patient_mismatch", actor=new.calling_ae, subject=new.sop_instance_uid, outcome="warning")
    _touch(session, study.id, new)
    return Intake.NEW


def record_refusal(session: Session, kind: RefusalKind, new: NewRefusal) -> None:
    """Note what was not taken. The same one again counts up instead of adding a row."""
    same = update(Refusal).where(
        Refusal.kind == kind,
        Refusal.sop_instance_uid == new.sop_instance_uid,
        Refusal.sop_class_uid == new.sop_class_uid,
        Refusal.calling_ae == new.calling_ae,
        Refusal.reason == new.reason,
        Refusal.sha256 == new.sha256,
    )
    if affected(session, same.values(occurrences=Refusal.occurrences + 1, at=utcnow())):
        return
    session.add(
        Refusal(
            kind=kind,
            at=utcnow(),
            sop_instance_uid=new.sop_instance_uid,
            sop_class_uid=new.sop_class_uid,
            study_instance_uid=new.study_instance_uid,
            status=new.status,
            reason=new.reason,
            calling_ae=new.calling_ae,
            peer_address=new.peer_address,
            path=new.path,
            sha256=new.sha256,
        )
    )
    audit.note(
        session,
        "instance_refused",
        actor=new.calling_ae,
        subject=new.sop_instance_uid,
        outcome="failure",
        kind=kind.value,
        status=new.status,
    )


def _storable(new: NewInstance) -> NewInstance:
    """What a peer's header says, made fit for both databases: PostgreSQL takes no NUL and no number beyond 32 bits."""
    expected = new.expected_instances
    if expected is not None and not 0 <= expected <= _MOST_EXPECTED:
        expected = None
    return replace(
        new,
        expected_instances=expected,
        patient_id=_text(new.patient_id),
        patient_name=_text(new.patient_name),
        accession_number=_text(new.accession_number),
        study_description=_text(new.study_description),
        modality=_text(new.modality),
        series_description=_text(new.series_description),
    )


def _text(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _study(session: Session, new: NewInstance) -> tuple[Study, bool]:
    """The study and whether this call made it."""
    opened = insert_ignore(
        session,
        Study,
        study_instance_uid=new.study_instance_uid,
        state=StudyState.RECEIVING,
        version=0,
        first_received_at=new.received_at,
        last_received_at=new.received_at,
        check_at=new.received_at,
        completeness_reason="",
        calling_ae=new.calling_ae,
        patient_id=new.patient_id,
        patient_name=new.patient_name,
        accession_number=new.accession_number,
        study_description=new.study_description,
        expected_instances=new.expected_instances,
    )
    return session.scalars(select(Study).where(Study.study_instance_uid == new.study_instance_uid)).one(), opened


def _series(session: Session, study_id: int, new: NewInstance) -> tuple[int, bool]:
    """The series' row id and whether this call made it."""
    opened = insert_ignore(
        session,
        Series,
        study_id=study_id,
        series_instance_uid=new.series_instance_uid,
        modality=new.modality,
        series_description=new.series_description,
    )
    query = select(Series.id).where(Series.study_id == study_id, Series.series_instance_uid == new.series_instance_uid)
    return session.scalars(query).one(), opened


def _touch(session: Session, study_id: int, new: NewInstance) -> None:
    """The study has news: whoever was deciding on it must look again, and a late image reopens it."""
    values: dict[str, object] = {
        "version": Study.version + 1,
        "state": StudyState.RECEIVING,
        "last_received_at": new.received_at,
        "check_at": new.received_at,
    }
    if new.expected_instances is not None:
        values["expected_instances"] = new.expected_instances
    affected(session, update(Study).where(Study.id == study_id).values(**values))
