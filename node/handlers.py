"""What the node does with what an association asks: thin, everything decided elsewhere."""

from __future__ import annotations

import socket
from datetime import timedelta
from functools import partial

import structlog
from pydicom._uid_dict import UID_dictionary
from sqlalchemy.exc import SQLAlchemyError

from db import deliveries
from db.domain import NewRefusal
from db.errors import RetriableError
from db.intake import record_refusal
from db.session import Record
from db.states import RefusalKind
from db.types import utcnow
from node import access
from node.audit.alerts import Alerts
from node.commitment import COMMITMENT_CLASS, MOST_REPORT_BYTES, CommitmentReport, decode_report, settle_report
from node.intake import Arrival, Receiver
from node.settings import Settings, Use
from node.statuses import Status
from node.syntaxes import UPS_EVENT_CLASS, WORKITEM_CLASSES, storage_sop_classes, supported_contexts
from node.upper_layer import commands, negotiation
from node.upper_layer.association import Answer, Caller, DataSet, Rejected, TurnedAway, printable
from node.upper_layer.commands import Command
from node.upper_layer.negotiation import Accepted, Context, Request
from node.worklist.manager_events import ManagerEvents
from node.worklist.provider import NoticeProvider
from node.worklist.pushed_provider import WorkitemProvider

log = structlog.get_logger(__name__)

_NOT_COMMITTED_RETRY = timedelta(seconds=5)
_MOST_NAMED = 16
_IS_PERMISSION = frozenset({*(uid for uid, _ in storage_sop_classes()), *WORKITEM_CLASSES})
_REPORTED = (COMMITMENT_CLASS, UPS_EVENT_CLASS)
_USE: dict[int, Use] = {commands.C_STORE_RQ: "store", commands.N_ACTION_RQ: "commit"}
# Abstract syntax not supported, transfer syntaxes not supported (PS3.8 9.3.3.2).
_NOT_SUPPORTED, _NO_SYNTAX = 0x03, 0x04
_APPLICATION_CONTEXT_NOT_SUPPORTED = Rejected(1, 1, 2)
_PROTOCOL_VERSION_NOT_SUPPORTED = Rejected(1, 2, 2)


class Handlers:
    """The listener's services; called from the threads of its associations.

    owner: the name of this process's folder for unfinished files.
    """

    def __init__(self, settings: Settings, record: Record, owner: str) -> None:
        self.settings = settings
        self.record = record
        self.alerts = Alerts(record)
        self.receiver = Receiver(settings, record, owner, self.alerts)
        self.notices = NoticeProvider(settings, record)
        self.workitems = WorkitemProvider(settings, record)
        self.manager_events = ManagerEvents(settings, record, addresses_of)

    def judge(self, request: Request, address: str) -> Rejected | None:
        """None where the association may be opened; a rejection is on record."""
        if not request.protocol_version & 1:
            return self._reject(request, address, _PROTOCOL_VERSION_NOT_SUPPORTED, "it speaks another protocol version")
        if request.application_context != negotiation.APPLICATION_CONTEXT:
            return self._reject(request, address, _APPLICATION_CONTEXT_NOT_SUPPORTED, "its application is not DICOM's")
        rejection = access.judge(
            self.settings,
            called_ae=request.called_ae,
            calling_ae=request.calling_ae,
            address=address,
            resolve=addresses_of,
        )
        if rejection is None:
            return None
        rejected = Rejected(rejection.result, rejection.source, rejection.diagnostic)
        return self._reject(request, address, rejected, rejection.reason)

    def _reject(self, request: Request, address: str, rejected: Rejected, reason: str) -> Rejected:
        caller = Caller(printable(request.calling_ae)[:16], address)
        self.turned_away("association_rejected", caller, reason)
        return rejected

    def turned_away(self, what: TurnedAway, caller: Caller, reason: str) -> None:
        """Put on record whom the node refused. Without an AE title, the address is all that is known of it."""
        self.alerts.note(what, caller.ae_title or caller.address, caller.address, reason)

    def close(self) -> None:
        """Put on record what is not yet; the server has stopped."""
        self.alerts.close()

    def accept(self, request: Request, caller: Caller) -> Accepted:
        """Answer the proposals. A sender drops in silence what was not negotiated, so the record says it here."""
        told, may = self.settings.notices, self._may(request.calling_ae, caller.address)
        supported = supported_contexts(
            store="store" in may,
            ian=told.ian and "notify" in may,
            mpps=told.mpps and "notify" in may,
            commitment=told.commitment and "commit" in may,
            manager_events=bool(self.settings.ups.managers),
            workitems=self.settings.ups.push and "workitems" in may,
        )
        accepted = negotiation.accept(request, supported, self.settings.limits.max_pdu_bytes)
        if accepted.missed:
            self._note_missed(accepted.missed, caller)
        return accepted

    def _may(self, calling_ae: str, address: str) -> frozenset[Use]:
        return access.permitted(self.settings, calling_ae=calling_ae, address=address, resolve=addresses_of)

    def _note_missed(self, missed: dict[str, int], caller: Caller) -> None:
        """Classes of the standard have a row each. All others share one, as a peer may invent 128 in every
        association; the log names the first of them.
        """
        named = [uid for uid in missed if uid in UID_dictionary][:_MOST_NAMED]
        log.warning(
            "contexts_rejected",
            calling_ae=caller.ae_title,
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
                calling_ae=caller.ae_title,
                peer_address=caller.address,
            )
            for uid, status, reason in told
        ]
        try:
            with self.record.write() as session:
                for refusal in refusals:
                    record_refusal(session, RefusalKind.CONTEXT, refusal)
        except (RetriableError, SQLAlchemyError) as error:
            log.error("refusal_not_recorded", cause=type(error).__name__)

    def serve(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> int | Answer:
        """The answer to C-ECHO, C-STORE, a notice, a report or what is asked of work items; nothing else is known."""
        if command.field == commands.C_ECHO_RQ:
            return Status.SUCCESS
        # A storage context is the permission to store, one of work items that for these. Others could be tried for what
        # is not permitted: C-ECHO's, which everybody has, and that of commitment, as whoever is asked for it reports
        # there.
        use = None if context.abstract_syntax in _IS_PERMISSION else _USE.get(command.field)
        if use is not None and use not in self._may(caller.ae_title, caller.address):
            log.warning("operation_not_permitted", calling_ae=caller.ae_title, peer_address=caller.address, use=use)
            return Status.UNRECOGNISED_OPERATION
        if command.field == commands.C_STORE_RQ:
            return self.receiver.take(self._arrival(command, context, caller), data_set)
        if command.field == commands.N_EVENT_REPORT_RQ and context.abstract_syntax in _REPORTED:
            return self._on_report(command, context, data_set, caller)
        for service in (self.notices, self.workitems):
            if service.serves(command, context):
                return service.serve(command, context, data_set, caller)
        return Status.UNRECOGNISED_OPERATION

    def _on_report(self, command: Command, context: Context, data_set: DataSet, caller: Caller) -> Status:
        """On commitment (PS3.4 J.3.3), or of a work item that this node performs (CC.2.4)."""
        if context.abstract_syntax == UPS_EVENT_CLASS:
            return self.manager_events.take(command, data_set, caller)
        report = data_set.whole(MOST_REPORT_BYTES)
        if report is None:
            log.warning("commitment_report_refused", reason=f"it is longer than {MOST_REPORT_BYTES} bytes")
            return Status.PROCESSING_FAILURE
        return settle_report(
            lambda: decode_report(report, context.transfer_syntax), partial(write_commitment, self.record)
        )

    def _arrival(self, command: Command, context: Context, caller: Caller) -> Arrival:
        return Arrival(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            abstract_syntax=context.abstract_syntax,
            transfer_syntax_uid=context.transfer_syntax,
            calling_ae=caller.ae_title,
            called_ae=self.settings.ae_title,
            peer_address=caller.address,
            received_at=utcnow(),
            move_originator=command.move_originator,
        )


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


def addresses_of(host: str) -> list[str]:
    """The addresses a host name has now; none where it cannot be resolved."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        log.warning("peer_host_not_resolved", host=host, cause=type(error).__name__)
        return []


def _why_rejected(result: int) -> str:
    if result == _NO_SYNTAX:
        return "none of the proposed transfer syntaxes can be read here"
    return "the SOP class is not one this node takes, or not from this peer: see its entry's may"
