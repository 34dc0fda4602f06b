"""What happens on each event of an association: thin, everything decided elsewhere."""

from __future__ import annotations

import socket
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from sqlalchemy.exc import SQLAlchemyError

from db import audit, deliveries
from db.domain import NewRefusal
from db.errors import RetriableError
from db.intake import record_refusal
from db.session import Record
from db.states import RefusalKind
from db.types import utcnow
from node import access, guard, storage
from node.commitment import CommitmentReport, parse_report
from node.dataset_source import HeaderError
from node.intake import Arrival, Receiver, printable
from node.settings import Settings
from node.statuses import Status

log = structlog.get_logger(__name__)

_NOT_COMMITTED_RETRY = timedelta(seconds=5)
_MOST_NAMED = 16
# Abstract syntax not supported, transfer syntaxes not supported (PS3.8 9.3.3.2).
_NOT_SUPPORTED, _NO_SYNTAX = 0x03, 0x04


class Handlers:
    """The listener's event handlers."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self.receiver = Receiver(settings, record)

    def bindings(self) -> list[Any]:
        """(event, handler) pairs as pynetdicom takes them."""
        return [
            (evt.EVT_CONN_OPEN, self.on_open),
            (evt.EVT_CONN_CLOSE, self.on_close),
            (evt.EVT_REQUESTED, self.on_requested),
            (evt.EVT_ACCEPTED, self.on_accepted),
            (evt.EVT_C_ECHO, self.on_echo),
            (evt.EVT_C_STORE, self.on_store),
            (evt.EVT_N_EVENT_REPORT, self.on_event_report),
        ]

    def on_open(self, event: Event) -> None:
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            # Nagle's algorithm and delayed acknowledgements together add 40 ms to each answer.
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guard.attach(
            event.assoc,
            self.settings.limits,
            self.on_unserved,
            lambda: storage.require_room(self.settings),
        )

    def on_close(self, event: Event) -> None:
        guard.discard_unfinished(event.assoc)

    def on_requested(self, event: Event) -> None:
        request: Any = event.assoc.requestor.primitive
        address = event.assoc.requestor.address
        rejection = access.judge(
            self.settings,
            called_ae=str(request.called_ae_title),
            calling_ae=str(request.calling_ae_title),
            address=address,
            resolve=addresses_of,
        )
        if rejection is None:
            return
        calling = printable(str(request.calling_ae_title).strip()[:16])
        log.warning("association_rejected", calling_ae=calling, peer_address=address, reason=rejection.reason)
        try:
            with self.record.write() as session:
                audit.note(
                    session,
                    "association_rejected",
                    actor=calling,
                    outcome="failure",
                    reason=rejection.reason,
                    address=address,
                )
        except (RetriableError, SQLAlchemyError) as error:
            log.error("rejection_not_recorded", cause=type(error).__name__)
        event.assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        event.assoc.is_rejected = True
        # Waits until the rejection is sent and the peer has closed, or for acse_timeout_s.
        event.assoc.kill()

    def on_accepted(self, event: Event) -> None:
        """A sender drops in silence what was not negotiated, so the record says it here.

        Classes of the standard have a row each. All others share one, as a peer may invent 128 in every association;
        the log names the first of them.
        """
        taken = {str(context.abstract_syntax) for context in event.assoc.accepted_contexts}
        rejected = {str(c.abstract_syntax): c.result for c in event.assoc.rejected_contexts}
        missed = {uid: int(result or 0) for uid, result in rejected.items() if uid not in taken}
        if not missed:
            return
        named = [uid for uid in missed if uid in UID_dictionary][:_MOST_NAMED]
        calling = guard.calling_ae(event.assoc)
        log.warning(
            "contexts_rejected",
            calling_ae=calling,
            count=len(missed),
            sop_classes=[printable(uid) for uid in list(missed)[:_MOST_NAMED]],
        )
        told = [(uid, missed[uid], _why_rejected(missed[uid])) for uid in named]
        if len(named) < len(missed):
            told.append(("", _NOT_SUPPORTED, "SOP classes this node does not know; its log names them"))
        refusals = [
            NewRefusal(
                sop_instance_uid="",
                sop_class_uid=uid,
                status=status,
                reason=reason,
                calling_ae=calling,
                peer_address=event.assoc.requestor.address,
            )
            for uid, status, reason in told
        ]
        try:
            with self.record.write() as session:
                for refusal in refusals:
                    record_refusal(session, RefusalKind.CONTEXT, refusal)
        except (RetriableError, SQLAlchemyError) as error:
            log.error("refusal_not_recorded", cause=type(error).__name__)

    def on_echo(self, event: Event) -> int:
        return Status.SUCCESS

    def on_store(self, event: Event) -> int:
        arrival = _arrival(event.assoc, event.request, self.settings, str(event.context.transfer_syntax))
        if event.request._dataset_path is None:
            return self.receiver.refuse(arrival, Status.CANNOT_UNDERSTAND, "empty: it comes without a data set")
        if event.request._dataset_file is not None:
            event.request._dataset_file.close()
        return self.receiver.take(arrival)

    def on_unserved(self, association: Association, request: C_STORE, status: Status, reason: str) -> None:
        self.receiver.refuse(_arrival(association, request, self.settings, ""), status, reason)

    def on_event_report(self, event: Event) -> tuple[int, Dataset | None]:
        """Storage commitment, on an association that the peer opened (PS3.4 J.3.3)."""
        return report_commitment(event, partial(write_commitment, self.record))


def write_commitment(record: Record, report: CommitmentReport) -> bool:
    """Write a report down; False for a transaction this node never asked for. Raises RetriableError."""
    with record.write() as session:
        return deliveries.apply_commitment(
            session,
            report.transaction_uid,
            report.committed,
            report.failed,
            retry_at=utcnow() + _NOT_COMMITTED_RETRY,
        )


def report_commitment(event: Event, apply: Any) -> tuple[int, Dataset | None]:
    """Answer an N-EVENT-REPORT: Success only after `apply` has written it down."""
    try:
        report = parse_report(event.event_information)
    except HeaderError as error:
        log.warning("commitment_report_refused", reason=str(error))
        return Status.PROCESSING_FAILURE, None
    try:
        known = apply(report)
    except (RetriableError, SQLAlchemyError) as error:
        log.error("commitment_report_postponed", cause=type(error).__name__)
        return Status.PROCESSING_FAILURE, None
    log.info(
        "commitment_reported",
        transaction_uid=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
        known=known,
    )
    return (Status.SUCCESS if known else Status.NO_SUCH_INSTANCE), None


def addresses_of(host: str) -> list[str]:
    """The addresses a host name has now; none where it cannot be resolved."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        log.warning("peer_host_not_resolved", host=host, cause=type(error).__name__)
        return []


def _arrival(association: Association, request: Any, settings: Settings, transfer_syntax_uid: str) -> Arrival:
    return Arrival(
        path=request._dataset_path or settings.data_dir,
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        transfer_syntax_uid=transfer_syntax_uid,
        calling_ae=guard.calling_ae(association),
        called_ae=settings.ae_title,
        peer_address=str(association.requestor.address),
        received_at=utcnow(),
    )


def _why_rejected(result: int | None) -> str:
    if result == _NO_SYNTAX:
        return "none of the proposed transfer syntaxes can be read here"
    return "the SOP class is not one this node takes"
