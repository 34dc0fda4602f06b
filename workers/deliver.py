"""Results of one job to one destination: C-STORE each, remember each answer, then have it proved."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from db import audit, circuits, deliveries
from db.domain import DueDelivery, ResultRef
from db.errors import ConfigError, PeerUnavailable, PermanentError, StorageFull
from db.session import Record
from db.types import utcnow
from node import scu, storage
from node.handlers import write_commitment
from node.link import COMMITMENT_CONTEXTS, Link
from node.settings import Peer, Settings
from node.upper_layer.negotiation import Context
from workers import proof
from workers.backoff import backoff_s
from workers.links import Links
from workers.offers import COMPREHENSIVE_3D_SR, IMPLICIT_LE, KEY_OBJECTS, choose, offers
from workers.results import as_sop_class, naming_report

log = structlog.get_logger(__name__)

# Long enough for a handful of objects at the slowest; after a crash of this node its leases are freed at the restart.
_LEASE_S = 600.0
_QUEUE_S = 5.0


class ResultGone(PermanentError):
    """A stored result is no longer in the data folder."""


@dataclass
class Sender:
    """What one delivery process works with. Made after the fork."""

    settings: Settings
    record: Record
    owner: str
    chance: random.Random = field(default_factory=random.SystemRandom)
    links: Links = field(init=False)

    def __post_init__(self) -> None:
        self.links = Links(self.settings, partial(write_commitment, self.record))

    def close(self) -> None:
        """End the associations it keeps."""
        self.links.close()


class _Stale(Exception):
    """An association that was kept has ended before the peer answered anything on it."""


def run_delivery(sender: Sender, job_id: str, destination: str) -> None:
    """Send what is due of a job to a destination. Raises RecordUnavailable only."""
    with sender.record.write() as session:
        # A sender that still runs is stopped by the time limit long before its lease is given to another.
        lease_s = max(_LEASE_S, 2.0 * sender.settings.work.hard_time_limit_s)
        due = deliveries.claim(session, job_id, destination, sender.owner, lease_s=lease_s)
        wait = _not_now(sender, session, destination) if due else None
        if wait is not None:
            at, reason = wait
            for one in due:
                deliveries.postpone(session, one, sender.owner, reason=reason, at=at, count=False)
    if not due or wait is not None:
        return
    with structlog.contextvars.bound_contextvars(job=job_id, destination=destination):
        limit = sender.settings.delivery.max_attempts
        # Their senders were killed again and again before they could say how it went.
        _give_up(sender, [one for one in due if one.attempt > limit], f"tried {limit} times, no sender ever finished")
        _deliver(sender, destination, [one for one in due if one.attempt <= limit])


def _not_now(sender: Sender, session: Session, destination: str) -> tuple[datetime, str] | None:
    """Until when, and why, nothing is to be sent to a destination; None when it may be tried."""
    if circuits.tried_by_another(session, destination, sender.owner):
        # One that is slow to fail must not have all senders wait for it while other destinations get nothing.
        at = utcnow() + timedelta(seconds=_QUEUE_S * (0.5 + sender.chance.random()))
        return at, "the destination has failed, and is tried by one sender at a time"
    open_until = circuits.open_until(session, destination)
    return None if open_until is None else (open_until, "the destination is left alone after failures")


def hand_back_unsent(sender: Sender, job_id: str, destination: str, reason: str) -> None:
    """The delivery was cut short from outside (time limit, unforeseen error): later again, or a dead letter."""
    with sender.record.read() as session:
        due = deliveries.held(session, job_id, destination, sender.owner)
    _again(sender, due, reason)


def _deliver(sender: Sender, destination: str, due: list[DueDelivery]) -> None:
    if not due:
        return
    peer = sender.settings.peers.get(destination)
    if peer is None:
        _give_up(sender, due, f"no [peers.{destination}] entry in the settings; add it, then `radnode retry`")
        return
    open_ids = {one.id for one in due}
    try:
        sent = _on_link(sender, destination, peer, due, open_ids)
    except PeerUnavailable as error:
        _note_failure(sender, destination)
        _again(sender, [one for one in due if one.id in open_ids], str(error))
        return
    except StorageFull as error:
        _again(sender, [one for one in due if one.id in open_ids], str(error))
        return
    except (scu.PeerRefused, ConfigError) as error:
        _note_failure(sender, destination)
        _give_up(sender, [one for one in due if one.id in open_ids], str(error))
        return
    if sent:
        proof.read_back(sender.record, sender.settings, destination, sent)


def _on_link(sender: Sender, destination: str, peer: Peer, due: list[DueDelivery], open_ids: set[int]) -> list[int]:
    """Send all on one association; a kept one that turns out to be dead is replaced, once, by a new one.

    Nothing was answered on it, and the peer gets the same objects again, if it got them at all.
    """
    wanted = [Context(*kind) for kind in offers(_kinds(due), peer.sr_sop_class)]
    asks = peer.proof in {"auto", "commitment"}
    if asks:
        wanted.extend(COMMITMENT_CONTEXTS)
    for _ in range(2):
        with suppress(_Stale), sender.links.use(destination, peer, wanted) as link:
            _note_begun(sender, destination, peer, due)
            sent = _send_all(sender, peer, link, due, open_ids)
            _note_answer(sender, destination, sent)
            reported = bool(sent) and asks and proof.ask(sender.record, sender.settings, link, destination, sent)
            if not reported and peer.proof in proof.BY_FIND:
                # It is asked by C-FIND next, and may take one association at a time.
                link.release()
            return sent
    raise PeerUnavailable(f"{scu.at(peer)} ends its associations before it answers")


def _note_begun(sender: Sender, destination: str, peer: Peer, due: list[DueDelivery]) -> None:
    with sender.record.write() as session:
        audit.note(
            session,
            "sending_begun",
            actor=sender.owner,
            subject=due[0].job_id,
            study=due[0].ref.study_instance_uid,
            destination=destination,
            ae_title=peer.ae_title,
            address=peer.host,
            sop_classes=audit.count_by_class((one.ref.sop_class_uid, one.ref.sop_instance_uid) for one in due),
        )


def _kinds(due: list[DueDelivery]) -> list[tuple[str, str]]:
    return [(one.ref.sop_class_uid, one.transfer_syntax_uid) for one in due]


def _send_all(sender: Sender, peer: Peer, link: Link, due: list[DueDelivery], open_ids: set[int]) -> list[int]:
    """Send one after the other; returns the delivery ids the peer has taken. What is settled leaves `open_ids`."""
    accepted = [(context.abstract_syntax, context.transfer_syntax) for context in link.accepted]
    answered_before = link.answered
    sent = []
    for one in [one for one in due if one.id in open_ids]:
        how = choose(one.ref.sop_class_uid, one.transfer_syntax_uid, peer.sr_sop_class, accepted)
        if how is None:
            _give_up(sender, [one], f"the peer takes no {_name(one)}; let it accept the class, then `radnode retry`")
            open_ids.discard(one.id)
            continue
        try:
            path, ref = _object(sender.settings, one, _told_as(one, how.sop_class_uid, peer, accepted))
        except PermanentError as error:
            _give_up(sender, [one], str(error))
            open_ids.discard(one.id)
            continue
        syntax = IMPLICIT_LE if how.as_implicit else one.transfer_syntax_uid
        answer = link.store(path, Context(ref.sop_class_uid, syntax), ref.sop_instance_uid)
        if not link.usable and 0 < answered_before == link.answered:
            raise _Stale
        if answer.ok:
            with sender.record.write() as session:
                if deliveries.mark_sent(session, one.id, sender.owner, ref, answer.reason):
                    sent.append(one.id)
            log.info("result_sent", sop_instance_uid=ref.sop_instance_uid, attempt=one.attempt)
        elif answer.retriable:
            _again(sender, [one], answer.reason)
        else:
            _give_up(sender, [one], answer.reason)
        open_ids.discard(one.id)
    return sent


def _told_as(one: DueDelivery, sop_class_uid: str, peer: Peer, accepted: list[tuple[str, str]]) -> str:
    """The class an object is adapted to: its own, or of a key object selection the one the report goes out under."""
    if sop_class_uid != KEY_OBJECTS:
        return sop_class_uid
    report = choose(COMPREHENSIVE_3D_SR, one.transfer_syntax_uid, peer.sr_sop_class, accepted)
    return COMPREHENSIVE_3D_SR if report is None else report.sop_class_uid


def _name(one: DueDelivery) -> str:
    if one.ref.sop_class_uid == KEY_OBJECTS:
        return "key object selection"
    return "structured report" if one.ref.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.88.") else "result image"


def _object(settings: Settings, one: DueDelivery, sop_class_uid: str) -> tuple[Path, ResultRef]:
    """The file to send: the result, or made durable beside it, the same report under another class, or the same
    selection naming a report of that class.
    """
    path = settings.data_dir / one.path
    is_flags = one.ref.sop_class_uid == KEY_OBJECTS
    if sop_class_uid == (COMPREHENSIVE_3D_SR if is_flags else one.ref.sop_class_uid):
        return path, one.ref
    try:
        data, ref = (naming_report if is_flags else as_sop_class)(path.read_bytes(), sop_class_uid)
    except FileNotFoundError as error:
        raise ResultGone(f"result {one.ref.sop_instance_uid} is gone from {settings.data_dir}; restore it") from error
    except OSError as error:
        raise StorageFull(
            f"a result cannot be read below {settings.data_dir} ({error.strerror}); check the disk"
        ) from error
    relative = storage.derived_path(storage.RESULTS, ref.sop_instance_uid)
    return storage.store_bytes(settings.data_dir, relative, data), replace(one.ref, **_changed(ref))


def _changed(ref: ResultRef) -> dict[str, str]:
    return {"sop_class_uid": ref.sop_class_uid, "sop_instance_uid": ref.sop_instance_uid}


def _again(sender: Sender, due: list[DueDelivery], reason: str) -> None:
    """Later, with a growing wait; after the last attempt a dead letter."""
    delivery = sender.settings.delivery
    for one in due:
        if one.attempt >= delivery.max_attempts:
            _give_up(sender, [one], f"tried {one.attempt} times: {reason}")
            continue
        wait = backoff_s(one.attempt, delivery.backoff_first_s, delivery.backoff_max_s, sender.chance.random())
        with sender.record.write() as session:
            deliveries.postpone(session, one, sender.owner, reason=reason, at=utcnow() + timedelta(seconds=wait))
        log.warning(
            "delivery_postponed",
            sop_instance_uid=one.ref.sop_instance_uid,
            attempt=one.attempt,
            wait_s=round(wait, 1),
            reason=reason,
        )


def _give_up(sender: Sender, due: list[DueDelivery], reason: str) -> None:
    with sender.record.write() as session:
        for one in due:
            deliveries.bury(session, one, sender.owner, reason=reason)
    for one in due:
        log.error("delivery_dead", sop_instance_uid=one.ref.sop_instance_uid, attempt=one.attempt, reason=reason)


def _note_answer(sender: Sender, destination: str, sent: list[int]) -> None:
    """A destination that answers but takes nothing counts as failing."""
    if not sent:
        _note_failure(sender, destination)
        return
    with sender.record.write() as session:
        hurried = circuits.note_success(session, destination)
    if hurried:
        log.info("destination_works_again", destination=destination, hurried=hurried)


def _note_failure(sender: Sender, destination: str) -> None:
    delivery = sender.settings.delivery
    with sender.record.write() as session:
        circuits.note_failure(session, destination, threshold=delivery.circuit_failures, open_s=delivery.circuit_open_s)
