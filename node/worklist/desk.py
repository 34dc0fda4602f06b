"""The loop that asks for orders: the hospital's worklist, and the record, which HL7 may have filled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog

from db import orders
from db.domain import NewOrder, WantedOrder
from db.errors import PermanentError, RetriableError
from db.session import Record
from db.states import OrderState
from db.types import utcnow
from node.settings import Settings
from node.worklist import query
from node.worklist.matching import Key, Match, key_of, match

log = structlog.get_logger(__name__)

_POLL_S = 0.2
# A process that dies while it asks gives its questions back after this.
_LEASE_S = 60.0
_MOST_DOUBLINGS = 16
_FORGET_EVERY_S = 600.0

# Key -> the worklist's answers. Raises RetriableError or PermanentError.
Ask = Callable[[Key], list[NewOrder]]


class OrderDesk:
    """Finds the orders of studies; a worklist that is away is left alone for a while, and holds up nobody."""

    def __init__(self, settings: Settings, record: Record, ask: Ask | None = None) -> None:
        self.settings = settings
        self.record = record
        peer = settings.peers.get(settings.worklist.peer)
        if ask is None and peer is not None:
            ask = partial(query.ask, peer, settings, settings.worklist.peer)
        self._ask = ask
        self._silent_until = 0.0
        self._silent_because = ""
        self._forget_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_POLL_S):
            try:
                self._forget()
                self.run_once()
            except RetriableError as error:
                log.warning("orders_postponed", reason=str(error))

    def run_once(self) -> int:
        """Answer the questions that are due; returns for how many studies an order was found."""
        now = utcnow()
        with self.record.read() as session:
            if not orders.any_due(session, now):
                return 0
        with self.record.write() as session:
            due = orders.claim_due(session, now, lease_s=_LEASE_S)
        return sum(self._answer(wanted) for wanted in due)

    def _forget(self) -> None:
        if time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + _FORGET_EVERY_S
        before = utcnow() - timedelta(days=self.settings.worklist.keep_days)
        # The look goes through all orders; nobody who writes has to wait for it.
        with self.record.read() as session:
            old = orders.unused(session, before)
        if not old:
            return
        with self.record.write() as session:
            gone = orders.forget(session, old, before)
        if gone:
            log.info("orders_forgotten", orders=gone)

    def _answer(self, wanted: WantedOrder) -> bool:
        key = key_of(wanted)
        if key is None:
            reason = "its accession number, or its patient's id and its date, are missing or cannot be asked by"
            return self._settle(wanted, Match(OrderState.ABSENT, reason), final=True)
        asked = self._ask_worklist(key)
        found = match(wanted, key, asked or ())
        if found.state is OrderState.ABSENT:
            with self.record.read() as session:
                told = orders.known(session, key.accession_number)
            # What the worklist said before is no answer to what it says now.
            found = match(wanted, key, [one for one in told if one.source != self.settings.worklist.peer])
        if found.state is OrderState.ABSENT and asked is None:
            with self.record.write() as session:
                orders.postpone(session, [wanted.study_id], self._again_at(wanted), self._silent_because)
            return False
        return self._settle(wanted, found)

    def _ask_worklist(self, key: Key) -> list[NewOrder] | None:
        """No answers where there is no worklist; None where it does not answer."""
        if self._ask is None:
            return []
        if time.monotonic() < self._silent_until:
            return None
        try:
            return self._ask(key)
        except (RetriableError, PermanentError) as error:
            self._silent_until = time.monotonic() + self.settings.worklist.retry_first_s
            self._silent_because = str(error)
            log.warning("worklist_silent", peer=self.settings.worklist.peer, reason=str(error))
            return None

    def _settle(self, wanted: WantedOrder, found: Match, *, final: bool = False) -> bool:
        absent = found.state is OrderState.ABSENT
        with self.record.write() as session:
            settled = orders.settle(
                session,
                wanted.study_id,
                found.state,
                reason=found.reason,
                order=found.order,
                again_at=self._again_at(wanted) if absent and not final else None,
            )
        if settled:
            event = "order_not_found" if absent else f"order_{found.state.value.lower()}"
            log.info(event, study_instance_uid=wanted.study_instance_uid, reason=found.reason)
        return settled and not absent

    def _again_at(self, wanted: WantedOrder) -> datetime | None:
        """Later each time; None once it was asked for long enough."""
        limits, now = self.settings.worklist, utcnow()
        wait_s = min(limits.retry_first_s * 2 ** min(wanted.attempts - 1, _MOST_DOUBLINGS), limits.retry_max_s)
        again = now + timedelta(seconds=wait_s)
        return again if again < wanted.wanted_at + timedelta(seconds=limits.retry_for_s) else None
