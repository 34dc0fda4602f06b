"""A message that came in: taken apart, written down, done, and only then acknowledged (HL7 v2.5.1 section 2.9.2).

AA: it is in the record, with all that it asks for. AE: not now, it may be sent again. AR: it never will be taken as it
is. The text of an answer names what is wrong and quotes nothing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import audit, hl7_received, identities, orders
from db.errors import RetriableError
from db.hl7_received import NewMessage
from db.session import Record
from db.types import utcnow
from node.audit.alerts import Alerts
from node.settings import Settings
from node.worklist.hl7 import inbound
from node.worklist.hl7.er7 import (
    MalformedMessage,
    Message,
    Segment,
    UnsupportedMessage,
    UnusableMessage,
    codec_of,
    escape,
    read,
    read_head,
    segment,
)
from node.worklist.hl7.oru import control_id as derived_id

log = structlog.get_logger(__name__)

_LONGEST = 200
_PRUNE_EVERY_S = 3600.0
# Table 0357.
_INTERNAL = ("207", "Application internal error")


@dataclass(frozen=True)
class _Head:
    """What an answer needs of a message's MSH, also where the rest of it cannot be used."""

    control_id: str = ""
    application: str = ""
    facility: str = ""
    trigger: str = ""
    character_set: str = ""

    @property
    def sender(self) -> str:
        return f"{self.application}^{self.facility}"


class Reception:
    """Answers messages, from any number of threads."""

    def __init__(self, settings: Settings, record: Record, alerts: Alerts) -> None:
        self._settings = settings
        self._record = record
        self._alerts = alerts
        self._lock = threading.Lock()
        self._prune_at = time.monotonic()

    def answer(self, data: bytes, address: str) -> bytes:
        """The acknowledgement of a message; never raises for what a peer may send."""
        head = _Head()
        try:
            head = _head(read_head(data))
            message = read(data, self._settings.hl7.listener.character_set)
            head = _head(message.msh)
            outcome = self._take(message, head, address)
        except UnusableMessage as error:
            log.warning("message_refused", peer_address=address, reason=str(error))
            return self._acknowledge(head, "AR", _error(error.code, str(error)))
        except RetriableError as error:
            log.warning("message_put_off", peer_address=address, reason=str(error))
            return self._acknowledge(head, "AE", _error(_INTERNAL, "the record does not answer; send it again"))
        except SQLAlchemyError as error:
            # Two connections told of the same thing at once; what the database says of it quotes the message.
            log.error("message_not_recorded", peer_address=address, cause=type(error).__name__)
            return self._acknowledge(head, "AE", _error(_INTERNAL, "the record did not take it; send it again"))
        log.info("message_taken", kind=message.kind, peer_address=address, outcome=outcome)
        return self._acknowledge(head, "AA")

    def _take(self, message: Message, head: _Head, address: str) -> str:
        self._check(message, head, address)
        new = NewMessage(
            sender=head.sender,
            control_id=head.control_id,
            digest=_digest(message),
            kind=message.kind,
            peer_address=address,
        )
        with self._record.write() as session:
            if not hl7_received.take(session, new):
                return "taken before"
            outcome = self._do(session, message, head, address)
            hl7_received.note_outcome(session, new, outcome)
            self._prune(session)
        return outcome

    def _check(self, message: Message, head: _Head, address: str) -> None:
        """Raises UnusableMessage for what is not to be taken from this sender, or at all."""
        if not head.control_id:
            raise UnusableMessage("the message has no control id (MSH-10)")
        if len(head.control_id) > _LONGEST or len(head.sender) > _LONGEST:
            raise UnusableMessage(f"MSH-10, or MSH-3 with MSH-4, is longer than {_LONGEST} characters")
        allowed = self._settings.hl7.listener.sending_applications
        if allowed and head.application not in allowed:
            reason = "hl7.listener.sending_applications does not name it"
            self._alerts.note("message_refused", head.sender, address, reason)
            raise UnusableMessage("this node takes no messages from the application in MSH-3")
        if message.kind not in inbound.KINDS:
            raise UnsupportedMessage(f"this node takes {', '.join(sorted(inbound.KINDS))} only")

    def _do(self, session: Session, message: Message, head: _Head, address: str) -> str:
        if message.kind in inbound.ORDERS:
            return _keep_orders(session, message, head, address, self._settings.hl7.listener.assigning_authority)
        listener = self._settings.hl7.listener
        reached = [
            identities.change(session, change, messages_to=sorted(self._settings.told))
            for change in inbound.changes(message, head.sender, head.control_id, listener.assigning_authority)
        ]
        return (
            f"work on {sum(one.applied for one in reached)} studies takes the new identity, "
            f"{sum(one.superseded for one in reached)} studies have finished results that keep the old one"
        )

    def _prune(self, session: Session) -> None:
        with self._lock:
            due = time.monotonic() >= self._prune_at
            if due:
                self._prune_at = time.monotonic() + _PRUNE_EVERY_S
        if due:
            hl7_received.prune(session, utcnow() - timedelta(days=self._settings.hl7.listener.kept_days))

    def _acknowledge(self, head: _Head, code: str, error: str = "") -> bytes:
        hl7 = self._settings.hl7
        now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
        msh = {
            1: "^~\\&",
            2: hl7.sending_application,
            3: hl7.sending_facility,
            4: escape(head.application),
            5: escape(head.facility),
            6: now,
            8: f"ACK^{escape(head.trigger)}^ACK" if head.trigger else "ACK",
            9: derived_id("ACK", head.sender, head.control_id, code),
            10: "P",
            11: "2.5.1",
            17: escape(head.character_set),
        }
        segments = [segment("MSH", msh), segment("MSA", {1: code, 2: escape(head.control_id)})]
        if error:
            segments.append(error)
        try:
            codec = codec_of(head.character_set or hl7.listener.character_set)
        except MalformedMessage:
            codec = "ascii"
        return ("\r".join(segments) + "\r").encode(codec, "replace")


def _error(code: tuple[str, str], reason: str) -> str:
    return segment("ERR", {3: f"{code[0]}^{code[1]}^HL70357", 4: "E", 8: escape(reason, 250)})


def _head(msh: Segment) -> _Head:
    return _Head(msh.get(10), msh.get(3), msh.get(4), msh.get(9, 2), msh.get(18))


def _digest(message: Message) -> str:
    """Of all that a message says; its time may be another one when it is sent again."""
    said = [message.kind, *("\0".join((one.name, *one.fields)) for one in message.segments[1:])]
    return hashlib.sha256("\r".join(said).encode()).hexdigest()


def _keep_orders(session: Session, message: Message, head: _Head, address: str, authority: str) -> str:
    source = f"hl7:{head.application}"[:64]
    given, withdrawn = inbound.orders(message, source, authority)
    for order in given:
        orders.tell(session, order)
    gone = sum(orders.withdraw(session, order) for order in withdrawn)
    audit.note(
        session,
        "order_received",
        actor=head.sender,
        subject=head.control_id,
        address=address,
        orders=len(given),
        withdrawn=gone,
        priorities=sorted({order.priority for order in given}),
    )
    return f"{len(given)} orders kept, {gone} taken back"
