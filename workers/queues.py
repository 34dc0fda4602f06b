"""What goes to a destination one after the other: the next leaves when the one before is settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from db import circuits, deliveries, queues
from db.domain import DueDelivery
from db.types import utcnow
from workers.backoff import backoff_s
from workers.deliver import Sender

log = structlog.get_logger(__name__)

_LEASE_S = 600.0
# Then another message of the broker goes on with it: a task must end long before its time limit.
_AT_MOST_S = 60.0


def run(sender: Sender, destination: str, send: Callable[[DueDelivery], bool]) -> None:
    """Hand one delivery after the other to `send` until it gives False or there is none. Raises RecordUnavailable only.

    send: brings one delivery as far as it goes now; False where the queue has to wait.
    """
    until = time.monotonic() + _AT_MOST_S
    while (due := _next(sender, destination)) is not None:
        if due.attempt > sender.settings.delivery.max_attempts:
            give_up(sender, due, f"tried {sender.settings.delivery.max_attempts} times, no sender ever finished")
            continue
        if not send(due):
            return
        if time.monotonic() > until:
            with sender.record.write() as session:
                queues.announce(session, destination)
            return


def hand_back(sender: Sender, destination: str, reason: str) -> None:
    """Sending was cut short from outside (time limit, unforeseen error): later again, or a dead letter."""
    with sender.record.read() as session:
        due = queues.held(session, destination, sender.owner)
    for one in due:
        again(sender, one, reason, sender.settings.delivery.max_attempts)


def _next(sender: Sender, destination: str) -> DueDelivery | None:
    with sender.record.read() as session:
        if not queues.head_due(session, destination):
            return None
    lease_s = max(_LEASE_S, 2.0 * sender.settings.work.hard_time_limit_s)
    with sender.record.write() as session:
        # By the same index as before: somebody else may have taken the head meanwhile.
        if not queues.head_due(session, destination):
            return None
        open_until = circuits.open_until(session, destination)
        if open_until is not None:
            queues.rest(session, destination, open_until, "the destination is left alone after failures")
            return None
        return queues.claim_head(session, destination, sender.owner, lease_s=lease_s)


def accept(sender: Sender, due: DueDelivery, reason: str) -> bool:
    """The receiver has it."""
    with sender.record.write() as session:
        return queues.accepted(session, due, sender.owner, reason)


def withdraw(sender: Sender, due: DueDelivery, reason: str) -> bool:
    """The destination is not to be told of it."""
    with sender.record.write() as session:
        return queues.withdraw(session, due, sender.owner, reason)


def again(
    sender: Sender, due: DueDelivery, reason: str, limit: int, *, count: bool = True, least_s: float = 0.0
) -> bool:
    """Later, after a growing wait of at least `least_s` seconds; a dead letter after `limit` attempts that count."""
    if count and due.attempt >= limit:
        return give_up(sender, due, f"tried {due.attempt} times: {reason}")
    delivery = sender.settings.delivery
    wait_s = backoff_s(due.attempt, delivery.backoff_first_s, delivery.backoff_max_s, sender.chance.random())
    wait_s = max(wait_s, least_s)
    with sender.record.write() as session:
        at = utcnow() + timedelta(seconds=wait_s)
        deliveries.postpone(session, due, sender.owner, reason=reason, at=at, count=count)
    log.warning("message_postponed", attempt=due.attempt, wait_s=round(wait_s, 1), reason=reason)
    return False


def give_up(sender: Sender, due: DueDelivery, reason: str) -> bool:
    """A dead letter; what is behind it in the queue goes on."""
    with sender.record.write() as session:
        deliveries.bury(session, due, sender.owner, reason=reason)
    log.error("message_dead", attempt=due.attempt, reason=reason)
    return True


def note_failure(sender: Sender, destination: str) -> None:
    """Count it: after so many in a row the destination is left alone."""
    delivery = sender.settings.delivery
    with sender.record.write() as session:
        circuits.note_failure(session, destination, threshold=delivery.circuit_failures, open_s=delivery.circuit_open_s)
