"""Whether the peer really holds what it took: storage commitment (PS3.4 annex J), else reading back by C-FIND."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import structlog
from pydicom.uid import generate_uid

from db import deliveries
from db.domain import ResultRef
from db.errors import ConfigError, PeerUnavailable, RetriableError
from db.session import Record
from db.types import utcnow
from node import scu
from node.link import Link
from node.settings import Settings

log = structlog.get_logger(__name__)

# An archive may index what it has taken a moment later.
_LOOKS_S = (0.0, 0.3, 1.0, 3.0)
_ROUND_S = 2.0
# After that long without a trace the object is sent again.
LOST_AFTER_S = 900.0
BY_FIND = frozenset({"auto", "read-back"})
"""Settings of a peer under which it is asked by C-FIND where storage commitment proves nothing."""

# Settings of a peer under which nobody asks it by C-FIND, and what is said of its deliveries then.
_WITHOUT_FIND = {
    "none": "the settings ask for no proof",
    "commitment": "it answered no request for storage commitment; the settings allow no other proof",
}


def ask(record: Record, settings: Settings, link: Link, destination: str, delivery_ids: Sequence[int]) -> bool:
    """Request storage commitment; whether a report is to come. It comes on the link, which stays open for it, or to the
    listener.

    A peer that offers none is not a failure: `read_back` comes next.
    """
    open_refs = _unproved(record, destination, delivery_ids)
    if not open_refs:
        return False
    transaction = generate_uid(prefix=None)
    deadline = utcnow() + timedelta(seconds=settings.delivery.commitment_timeout_s)
    with record.write() as session:
        deliveries.ask_commitment(session, transaction, destination, [i for i, _ in open_refs], deadline_at=deadline)
    refs = [(ref.sop_class_uid, ref.sop_instance_uid) for _, ref in open_refs]
    try:
        link.request_commitment(transaction, refs)
    except (scu.PeerRefused, PeerUnavailable) as error:
        with record.write() as session:
            deliveries.withdraw_commitment(session, transaction)
        log.info("no_storage_commitment", destination=destination, reason=str(error))
        return False
    return True


def read_back(
    record: Record,
    settings: Settings,
    destination: str,
    delivery_ids: Sequence[int],
    looks_s: Sequence[float] = _LOOKS_S,
) -> set[int]:
    """Ask by C-FIND, a few times, for what no storage commitment report is to come for.

    Returns the deliveries that the peer was asked for and does not find; they stay SENT. A peer that answers no C-FIND
    leaves its deliveries UNCONFIRMED, which is said; one that is away is asked another time.
    """
    peer = settings.peers.get(destination)
    if peer is None:
        return set()
    if peer.proof in _WITHOUT_FIND:
        open_refs = _unproved(record, destination, delivery_ids, report_to_come=False)
        _leave(record, [i for i, _ in open_refs], _WITHOUT_FIND[peer.proof])
        return set()
    missing: set[int] = set()
    for wait_s in looks_s:
        time.sleep(wait_s)
        open_refs = _unproved(record, destination, delivery_ids, report_to_come=False)
        if not open_refs:
            return set()
        try:
            held = scu.holds(peer, settings, [ref for _, ref in open_refs])
        except (scu.PeerRefused, ConfigError) as error:
            _leave(record, [i for i, _ in open_refs], f"neither storage commitment nor C-FIND: {error}")
            return set()
        except PeerUnavailable as error:
            log.warning("read_back_postponed", destination=destination, reason=str(error))
            return set()
        found = [i for i, ref in open_refs if ref.sop_instance_uid in held]
        missing = {i for i, _ in open_refs} - set(found)
        if found:
            with record.write() as session:
                deliveries.confirm(session, found, "found by C-FIND")
    return missing


def check_overdue(record: Record, settings: Settings, destination: str, after_s: float) -> None:
    """Look again for what was sent more than `after_s` ago and is not proved; send again what stays away.

    Only what the peer was asked for and did not find is sent again; every sending counts as an attempt.
    """
    now = utcnow()
    with record.read() as session:
        entries = deliveries.awaiting_proof(session, destination, now - timedelta(seconds=after_s))
    missing = read_back(record, settings, destination, [i for i, _ in entries], looks_s=(0.0,))
    for delivery_id, sent_at in entries:
        if delivery_id in missing and now - sent_at > timedelta(seconds=LOST_AFTER_S):
            with record.write() as session:
                deliveries.send_again(session, delivery_id, "the peer took it but does not find it", at=now)


class Prover:
    """Looks after what was sent and is not proved, a thread for each destination: a slow one holds up no other.

    after_s: how long ago a delivery was sent before it is looked for again. rest_s: between two looks at a destination.
    """

    def __init__(self, settings: Settings, record: Record, *, after_s: float = 60.0, rest_s: float = 15.0) -> None:
        self.settings = settings
        self.record = record
        self.after_s = after_s
        self.rest_s = rest_s
        self._asking: dict[str, threading.Thread] = {}
        self._asked_at: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Who is being asked then is not waited for: the threads end with the process."""
        while not stop.wait(_ROUND_S):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("proof_postponed", reason=str(error))

    def run_once(self) -> list[str]:
        """Begin to ask whoever may hold something unproved; returns their names. Raises RecordUnavailable."""
        now = utcnow()
        with self.record.read() as session:
            expired = deliveries.any_expired(session, now)
        if expired:
            with self.record.write() as session:
                deliveries.expire_commitments(session, now)
        with self.record.read() as session:
            names = deliveries.destinations_awaiting_proof(session, now - timedelta(seconds=self.after_s))
        begun = [name for name in names if self._may_ask(name)]
        for name in begun:
            self._asked_at[name] = time.monotonic()
            self._asking[name] = threading.Thread(target=self._ask, args=(name,), name=f"proof-{name}", daemon=True)
            self._asking[name].start()
        return begun

    def _may_ask(self, name: str) -> bool:
        known = self._asking.get(name)
        rested = time.monotonic() - self._asked_at.get(name, -math.inf) >= self.rest_s
        return rested and not (known is not None and known.is_alive())

    def _ask(self, name: str) -> None:
        try:
            check_overdue(self.record, self.settings, name, self.after_s)
        except RetriableError as error:
            log.warning("proof_postponed", destination=name, reason=str(error))


def _unproved(
    record: Record, destination: str, delivery_ids: Sequence[int], *, report_to_come: bool = True
) -> list[tuple[int, ResultRef]]:
    with record.read() as session:
        return deliveries.unproved(session, destination, delivery_ids, report_to_come=report_to_come)


def _leave(record: Record, delivery_ids: Sequence[int], reason: str) -> None:
    with record.write() as session:
        deliveries.leave_unconfirmed(session, delivery_ids, reason)
