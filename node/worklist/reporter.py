"""The loop that tells peers which instances this node commits itself to (PS3.4 J.3.3): on an association of its own."""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role

from db import pledges
from db.errors import PeerUnavailable, PermanentError, RetriableError
from db.pledges import Answer, DueAnswer
from db.session import Record
from db.types import utcnow
from node import scu
from node.commitment import COMMITMENT_CLASS, COMMITMENT_INSTANCE
from node.settings import Peer, Settings

log = structlog.get_logger(__name__)

_POLL_S = 0.5
# A process that dies while it tells gives the answer back after this.
_LEASE_S = 300.0
_ALL_COMMITTED, _SOME_FAILED = 1, 2
_SUCCESS = 0x0000


class CommitmentReporter:
    """Sends each report until the peer has taken it, or has had its time."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_POLL_S):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("reports_postponed", reason=str(error))

    def run_once(self) -> int:
        """Send what is due; returns how many reports were taken."""
        now = utcnow()
        with self.record.read() as session:
            if not pledges.any_due(session, now):
                return 0
        with self.record.write() as session:
            due = pledges.claim_due(session, now, lease_s=_LEASE_S)
        return sum(self._tell(one) for one in due)

    def _tell(self, due: DueAnswer) -> bool:
        limits, answer = self.settings.notices, due.answer
        peer = self.settings.peers.get(answer.peer)
        try:
            if peer is None:
                raise scu.PeerRefused(f"no [peers.…] entry names {answer.peer} any more")
            report(peer, self.settings, answer)
        except (RetriableError, PermanentError) as error:
            reason = str(error)
        else:
            with self.record.write() as session:
                pledges.told(session, due.id)
            log.info("commitment_told", peer=answer.peer, transaction_uid=answer.transaction_uid)
            return True
        again = utcnow() + timedelta(seconds=limits.commitment_retry_s)
        over = again > due.asked_at + timedelta(seconds=limits.commitment_for_s)
        with self.record.write() as session:
            if over:
                pledges.give_up(session, due.id, reason)
            else:
                pledges.postpone(session, due.id, again, reason)
        log.warning(
            "commitment_not_told",
            peer=answer.peer,
            transaction_uid=answer.transaction_uid,
            given_up=over,
            reason=reason,
        )
        return False


def report(peer: Peer, settings: Settings, answer: Answer) -> None:
    """N-EVENT-REPORT of an answer, in the provider's role.

    Raises:
        PeerUnavailable: no connection, or no answer.
        PeerRefused: the peer takes no reports, or answered a failure.
    """
    role = build_role(COMMITMENT_CLASS, scp_role=True)
    with scu.associate(peer, settings, [scu.commitment_context()], roles=[role]) as association:
        event = _SOME_FAILED if answer.failed else _ALL_COMMITTED
        try:
            status, _ = association.send_n_event_report(
                _information(answer), event, COMMITMENT_CLASS, COMMITMENT_INSTANCE
            )
        except ValueError as error:
            raise scu.PeerRefused(
                f"{answer.peer} takes no reports of storage commitment from their provider"
            ) from error
        except RuntimeError as error:
            raise PeerUnavailable(f"{answer.peer} has closed the association") from error
    code = status.get("Status")
    if code is None:
        raise PeerUnavailable(f"{answer.peer} did not answer the report")
    if code != _SUCCESS:
        raise scu.PeerRefused(f"{answer.peer} answered the report with status {code:#06x}")


def _information(answer: Answer) -> Dataset:
    information = Dataset()
    information.TransactionUID = answer.transaction_uid
    if answer.committed:
        information.ReferencedSOPSequence = [_item(*one) for one in answer.committed]
    if answer.failed:
        information.FailedSOPSequence = [_item(*one) for one in answer.failed]
    return information


def _item(sop_class_uid: str, sop_instance_uid: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if failure is not None:
        item.FailureReason = failure
    return item
