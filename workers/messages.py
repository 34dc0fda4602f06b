"""Results to HL7 destinations: one after the other, each the same to the byte until it is answered."""

from __future__ import annotations

import warnings

import structlog
from pydicom import Dataset, dcmread

from db import circuits, hl7_spool, identities
from db.domain import DueDelivery
from db.errors import ConfigError, PeerUnavailable, PermanentError, StorageFull
from db.hl7_spool import Matter, Spooled
from db.identities import Identity
from db.types import utcnow
from node.settings import Settings
from node.settings_hl7 import Hl7Destination
from node.worklist.findings import images_of
from node.worklist.hl7 import oru
from node.worklist.hl7.link import Answer, Link
from workers import queues
from workers.deliver import ResultGone, Sender
from workers.results.texts import DISCLAIMER

log = structlog.get_logger(__name__)


def run_messages(sender: Sender, destination: str) -> None:
    """Send what waits for an HL7 destination, in order, until something has to wait. Raises RecordUnavailable only."""
    to = sender.settings.hl7.destinations[destination]
    with structlog.contextvars.bound_contextvars(destination=destination), Link(sender.settings, to) as link:
        queues.run(sender, destination, lambda due: _send(sender, to, link, due))


def _send(sender: Sender, to: Hl7Destination, link: Link, due: DueDelivery) -> bool:
    """Bring one delivery as far as it goes now; False where the queue has to wait."""
    limit = sender.settings.delivery.max_attempts
    connected = False
    try:
        link.open()
        connected = True
        return _say_all(sender, to, link, due)
    except PeerUnavailable as error:
        queues.note_failure(sender, due.destination)
        # A system that is away for a week finds all of it when it is back.
        return queues.again(sender, due, str(error), limit, count=connected)
    except (StorageFull, ConfigError) as error:
        return queues.again(sender, due, str(error), limit, count=False)
    except PermanentError as error:
        return queues.give_up(sender, due, str(error))


def _say_all(sender: Sender, to: Hl7Destination, link: Link, due: DueDelivery) -> bool:
    report = _report(sender, to, due)
    if report is None:
        return queues.withdraw(sender, due, "not analysed, which the settings keep from this destination")
    kinds = [oru.RESULT]
    if to.priority_change != "off" and report.priority != "routine":
        kinds.append(to.priority_change)
    for kind in kinds:
        message = _message(sender, to, due, kind, report)
        if message is None:
            # Its lease ran out: another sender has it.
            return False
        if message.acknowledged:
            continue
        answer = link.exchange(message.body, message.control_id)
        with sender.record.write() as session:
            positive = answer.accepted
            hl7_spool.note_answer(session, due, sender.owner, kind, answer.code[:2], positive=positive)
            circuits.note_success(session, due.destination)
        if not positive:
            return _refused(sender, to, due, kind, answer)
        log.info("message_sent", kind=kind, control_id=message.control_id, attempt=due.attempt)
    return queues.accept(sender, due, "acknowledged (AA)")


def _refused(sender: Sender, to: Hl7Destination, due: DueDelivery, kind: str, answer: Answer) -> bool:
    if answer.try_again:
        return queues.again(sender, due, f"{kind} was answered {answer.code}: try again", to.max_errors)
    said = f"answered {answer.code}: refused" if answer.code in {"AR", "CR"} else "answered by no code of table 0008"
    return queues.give_up(sender, due, f"{kind} was {said}; see the receiver's log, then `radnode retry`")


def _message(sender: Sender, to: Hl7Destination, due: DueDelivery, kind: str, report: oru.Report) -> Spooled | None:
    """What is to be sent: what was sent before, or a new one, kept before it leaves; None where the lease is lost."""
    with sender.record.read() as session:
        kept = hl7_spool.spooled(session, due.id, kind)
    if kept is not None:
        return kept
    control_id = oru.control_id(kind, due.ref.sop_instance_uid, due.destination)
    build = oru.result if kind == oru.RESULT else oru.priority_change
    body = build(report, sender.settings.hl7, to, message_id=control_id, now=utcnow())
    with sender.record.write() as session:
        if not hl7_spool.keep(session, due, sender.owner, kind, control_id=control_id, body=body):
            return None
    return Spooled(control_id, body, acknowledged=False)


def _report(sender: Sender, to: Hl7Destination, due: DueDelivery) -> oru.Report | None:
    """What there is to tell; None for what could not be analysed where nobody wants to hear of it."""
    with sender.record.read() as session:
        matter = hl7_spool.matter(session, due.id)
        changed = identities.current(session, matter.study_id)
    if not matter.analysed and not to.not_analysed:
        return None
    identity = None if changed is None else changed.identity
    return report_of(_structured_report(sender.settings, due), due.ref.sop_instance_uid, matter, identity)


def _structured_report(settings: Settings, due: DueDelivery) -> Dataset:
    """The header of the report that the message is about: it holds patient and study as the images had them."""
    try:
        with warnings.catch_warnings():
            # They quote the offending value, which may be a patient's.
            warnings.simplefilter("ignore")
            return dcmread(settings.data_dir / due.path, specific_tags=list(_TAGS))
    except FileNotFoundError as error:
        raise ResultGone(f"result {due.ref.sop_instance_uid} is gone from {settings.data_dir}; restore it") from error
    except OSError as error:
        raise StorageFull(f"a result cannot be read below {settings.data_dir}; check the disk") from error


_TAGS = (
    "SpecificCharacterSet",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "DeviceSerialNumber",
)


def report_of(header: Dataset, report_uid: str, matter: Matter, identity: Identity | None) -> oru.Report:
    """The message's content. header: of the structured report. identity: where it has changed since the images came."""

    def value(name: str) -> str:
        return str(header.get(name) or "").strip()

    now = identity or Identity("")
    patient = oru.Patient(
        id=now.patient_id or value("PatientID"),
        issuer=now.issuer or value("IssuerOfPatientID"),
        name=now.name or value("PatientName"),
        birth_date=now.birth_date or value("PatientBirthDate"),
        sex=now.sex or value("PatientSex"),
    )
    return oru.Report(
        patient=patient,
        study_instance_uid=matter.study_instance_uid,
        accession_number=value("AccessionNumber"),
        study_date=value("StudyDate"),
        study_time=value("StudyTime"),
        placer_number=matter.placer_number,
        filler_number=matter.filler_number or value("AccessionNumber"),
        procedure=matter.procedure,
        report_uid=report_uid,
        model=matter.model,
        model_version=matter.model_version,
        device=value("DeviceSerialNumber") or "RADNODE",
        images=images_of(matter.summary),
        analysed_at=matter.finished_at,
        notice=DISCLAIMER,
    )
