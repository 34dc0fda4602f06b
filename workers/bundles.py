"""Results to FHIR servers: one transaction after the other, each made from the record when it is sent.

A transaction says PUT of the same ids however often it is sent, so nothing of it is kept: what changed since, such as
whose the images are or a later report, is in it.
"""

from __future__ import annotations

import structlog

from db import audit, circuits, fhir_view, identities, queues
from db.domain import DueDelivery
from db.errors import ConfigError, PeerUnavailable, PermanentError
from db.fhir_view import Wanted, Work
from db.identities import Correction, IdentityChanged
from node.settings_fhir import FhirDestination
from node.worklist.fhir.bundles import transaction
from node.worklist.fhir.client import Answer, NoConnection, Server, Verdict
from node.worklist.fhir.ids import report_id
from node.worklist.fhir.models import checked
from node.worklist.fhir.resources import Writer
from node.worklist.fhir.values import Json
from node.worklist.findings import images_of
from workers import queues as sending
from workers.deliver import Sender

log = structlog.get_logger(__name__)


def run_bundles(sender: Sender, destination: str) -> None:
    """Send what waits for a FHIR server, in order, until something has to wait. Raises RecordUnavailable only."""
    to = sender.settings.fhir.destinations[destination]
    connect_timeout_s = sender.settings.delivery.connect_timeout_s
    with structlog.contextvars.bound_contextvars(destination=destination), Server(to, connect_timeout_s) as server:
        sending.run(sender, destination, lambda due: _send(sender, to, server, due))


def _send(sender: Sender, to: FhirDestination, server: Server, due: DueDelivery) -> bool:
    """Bring one delivery as far as it goes now; False where the queue has to wait."""
    limit = sender.settings.delivery.max_attempts
    # Before the bundle is made: it says the same of the patient, or what is newer.
    with sender.record.read() as session:
        heeded = identities.of_study(session, due.ref.study_instance_uid)
    try:
        bundle, reason = _bundle(sender, to, due)
        if bundle is None:
            return sending.withdraw(sender, due, reason)
        answer = server.send(bundle)
    except PeerUnavailable as error:
        sending.note_failure(sender, due.destination)
        # A server that is away for a week finds all of it when it is back.
        return sending.again(sender, due, str(error), limit, count=not isinstance(error, NoConnection))
    except ConfigError as error:
        return sending.again(sender, due, str(error), limit, count=False)
    except PermanentError as error:
        return sending.give_up(sender, due, str(error))
    return _settle(sender, to, due, answer, heeded)


def _settle(sender: Sender, to: FhirDestination, due: DueDelivery, answer: Answer, heeded: Correction | None) -> bool:
    limit = sender.settings.delivery.max_attempts
    if answer.verdict in {Verdict.BUSY, Verdict.CLOSED}:
        sending.note_failure(sender, due.destination)
        return sending.again(sender, due, answer.said, limit, least_s=answer.wait_s)
    with sender.record.write() as session:
        # Whatever it thinks of this bundle, it is there.
        circuits.note_success(session, due.destination)
    if answer.verdict is Verdict.ACCEPTED:
        try:
            return _accept(sender, due, answer, heeded)
        except IdentityChanged:
            reason = "the patient's identity was changed while it was sent; it is sent again"
            return sending.again(sender, due, reason, limit, count=False)
    if answer.verdict is Verdict.REFUSED:
        return sending.give_up(sender, due, answer.said)
    return sending.again(sender, due, answer.said, min(limit, to.max_errors), least_s=answer.wait_s)


def _accept(sender: Sender, due: DueDelivery, answer: Answer, heeded: Correction | None) -> bool:
    """Raises IdentityChanged where the server was told of a patient as it is known no longer."""
    report = report_id(due.ref.sop_instance_uid)
    with sender.record.write() as session:
        identities.require_unchanged(session, due.ref.study_instance_uid, heeded)
        if not queues.accepted(session, due, sender.owner, answer.said):
            return False
        audit.note(
            session,
            "message_sent",
            actor=sender.owner,
            subject=report,
            study=due.ref.study_instance_uid,
            destination=due.destination,
            kind="FHIR transaction",
        )
    log.info("message_sent", kind="FHIR transaction", report=report, attempt=due.attempt)
    return True


def _bundle(sender: Sender, to: FhirDestination, due: DueDelivery) -> tuple[Json | None, str]:
    """What there is to tell, or None and why there is nothing. Raises PermanentError where it cannot be told."""
    with sender.record.read() as session:
        found, _ = fhir_view.works(session, Wanted(job_id=due.job_id), limit=1)
        earlier: list[Work] = fhir_view.earlier(session, found[0]) if found else []
    if not found:
        return None, "its study was deleted"
    # What takes the place of a reading with findings is told in any case: the earlier one would stand there for ever.
    findings = (image.findings for one in (found[0], *earlier) for image in images_of(one.summary))
    if not to.not_analysed and not any(findings):
        return None, "not analysed, which the settings keep from this destination"
    writer = Writer(sender.settings.fhir, to.imaging_study)
    return checked(transaction(found[0], earlier, writer, to.url)), ""
