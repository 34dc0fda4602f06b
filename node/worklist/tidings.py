"""The loop that reports events of pushed work items to their subscribers (UPS Event, PS3.4 CC.2.4)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role
from pynetdicom.association import Association

from db import workitem_subscriptions, workitem_tidings
from db.errors import PeerUnavailable, PermanentError, RetriableError
from db.session import Record
from db.types import utcnow
from db.workitem_rules import GLOBAL_SUBSCRIPTION, PUSH_CLASS, EventType, restarted
from db.workitem_tidings import DueTidings, Tiding
from node import scu
from node.commitment import MALFORMED
from node.dataset_source import IMPLICIT_VR_LITTLE_ENDIAN
from node.settings import Peer, Settings
from node.syntaxes import UPS_EVENT_CLASS
from node.worklist.pushed_reading import encoded

log = structlog.get_logger(__name__)

_POLL_S = 0.3
# A process that dies while it tells gives the queue back at once (`db.leftovers.free`), a lost machine after this.
_LEASE_S = 300.0
# One event, and what it takes pynetdicom to notice that it goes unanswered.
_WITHIN = 2.0
_SUCCESS = 0x0000
_WARNINGS = range(0xB000, 0xC000)


class TidingReporter:
    """Tells each subscriber in order, on one association for all that waits.

    A thread for each: a slow one holds up no other. owner: the name it takes leases under.
    """

    def __init__(self, settings: Settings, record: Record, owner: str) -> None:
        self.settings = settings
        self.record = record
        self.owner = owner
        # Of two entries with one AE title the first counts, as elsewhere.
        self._peers = {peer.ae_title.strip(): peer for peer in reversed(settings.peers.values())}
        self._telling: dict[str, threading.Thread] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Who is being told then is not waited for: the threads end with the process."""
        begun = False
        while not stop.wait(_POLL_S):
            try:
                if not begun:
                    self.announce_start()
                    begun = True
                self.run_once()
            except RetriableError as error:
                log.warning("tidings_postponed", reason=str(error))

    def announce_start(self) -> None:
        """Whoever is subscribed hears that this node has been started, and has lost neither items nor subscriptions."""
        with self.record.read() as session:
            everybody = workitem_subscriptions.everybody(session)
        if not everybody:
            return
        with self.record.write() as session:
            workitem_tidings.announce(session, GLOBAL_SUBSCRIPTION, EventType.SCP_STATUS_CHANGE, restarted(), everybody)

    def run_once(self) -> list[threading.Thread]:
        """Begin to report what is due; returns the threads that do. Raises RecordUnavailable."""
        now = utcnow()
        free = [name for name in self._peers if name not in self._telling or not self._telling[name].is_alive()]
        with self.record.read() as session:
            if not workitem_tidings.any_due(session, now, free):
                return []
        with self.record.write() as session:
            due = workitem_tidings.claim_due(session, now, free, self.owner, lease_s=_LEASE_S)
        begun = []
        for one in due:
            thread = threading.Thread(target=self._tell, args=(one,), name=f"events-{one.ae_title}", daemon=True)
            self._telling[one.ae_title] = thread
            thread.start()
            begun.append(thread)
        return begun

    def _tell(self, due: DueTidings) -> None:
        peer = self._peers[due.ae_title]
        left = list(due.tidings)
        try:
            try:
                with _reporting(peer, self.settings) as association:
                    while left:
                        self._settle(due.ae_title, left[0], report(association, peer, self.settings, left[0]))
                        del left[0]
            except (RetriableError, PermanentError) as error:
                self._postpone(due.ae_title, left, str(error))
        except RetriableError as error:
            # The record is away: the lease gives them back.
            log.warning("tidings_postponed", subscriber=due.ae_title, reason=str(error))

    def _settle(self, ae_title: str, tiding: Tiding, refusal: str) -> None:
        with self.record.write() as session:
            if refusal:
                workitem_tidings.give_up(session, tiding.id, refusal)
            else:
                workitem_tidings.told(session, tiding.id)
        if refusal:
            log.warning("event_refused", subscriber=ae_title, workitem=tiding.sop_instance_uid, reason=refusal)

    def _postpone(self, ae_title: str, left: list[Tiding], reason: str) -> None:
        again = utcnow() + timedelta(seconds=self.settings.ups.event_retry_s)
        limit = timedelta(seconds=self.settings.ups.event_for_s)
        over = [one.id for one in left if again > one.created_at + limit]
        with self.record.write() as session:
            for tiding_id in over:
                workitem_tidings.give_up(session, tiding_id, reason)
            workitem_tidings.postpone(session, [one.id for one in left], again, reason)
        log.warning("events_not_told", subscriber=ae_title, waiting=len(left), given_up=len(over), reason=reason)


@contextmanager
def _reporting(peer: Peer, settings: Settings) -> Iterator[Association]:
    """An association in which this node is the provider. Raises as `node.scu.associate`."""
    role = build_role(UPS_EVENT_CLASS, scp_role=True)
    with scu.associate(peer, settings, [build_context(UPS_EVENT_CLASS)], roles=[role]) as association:
        yield association


def report(association: Association, peer: Peer, settings: Settings, tiding: Tiding) -> str:
    """N-EVENT-REPORT of one event; "" where it was taken, else why not.

    Raises:
        PeerUnavailable: no answer.
        PeerRefused: the peer takes no events from their provider.
    """
    try:
        encoded(tiding.information, IMPLICIT_VR_LITTLE_ENDIAN)
        with warnings.catch_warnings(action="ignore"):
            information = Dataset.from_json(tiding.information)
        information.SpecificCharacterSet = "ISO_IR 192"
    except MALFORMED as error:
        # It must not hold up what comes after it.
        return f"its information cannot be written as a data set ({type(error).__name__})"
    try:
        with scu.within(_WITHIN * settings.delivery.response_timeout_s, lambda: association):
            status, _ = association.send_n_event_report(
                information, int(tiding.event_type), PUSH_CLASS, tiding.sop_instance_uid, meta_uid=UPS_EVENT_CLASS
            )
    except ValueError as error:
        raise scu.PeerRefused(f"{scu.at(peer)} takes no events of work items from their manager") from error
    except RuntimeError as error:
        raise PeerUnavailable(f"{scu.at(peer)} has closed the association") from error
    answered = status.get("Status")
    if answered is None:
        raise PeerUnavailable(f"{scu.at(peer)} did not answer an event")
    return "" if answered == _SUCCESS or answered in _WARNINGS else f"it answered with status {answered:#06x}"
