"""What a study's order means for a route that asks for it: go on, with which priority, wait, or stop. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from db.domain import OrderView, more_urgent
from db.states import OrderState
from node.rules import Route

MISMATCH = "the worklist has its order for another patient"

_UNKNOWN = {
    OrderState.WANTED: "the worklist did not answer in time",
    OrderState.ABSENT: "the worklist has no order for it",
    OrderState.VOUCHED: "a person vouches for its patient",
}


@dataclass(frozen=True)
class Gate:
    """priority: of the jobs. note: for people; "" where there is nothing to say.

    hold_until: when the wait for the answer ends; None goes on. stop: its images are put in quarantine.
    """

    priority: str
    note: str = ""
    hold_until: datetime | None = None
    stop: bool = False


def gate(route: Route, order: OrderView | None, wait_s: float, now: datetime) -> Gate:
    """Hold a route against what is known of a study's order; None while nobody has asked for it."""
    if not route.ask_worklist:
        return Gate(route.priority)
    wanted_at = now if order is None else order.wanted_at
    until = wanted_at + timedelta(seconds=wait_s)
    if order is None or (order.state is OrderState.WANTED and now < until):
        return Gate(route.priority, "asking for its order", until)
    if order.state is OrderState.MATCHED:
        return Gate(more_urgent(route.priority, order.priority), f"ordered as {order.priority}")
    if order.state is OrderState.MISMATCHED:
        return Gate(route.priority, MISMATCH, stop=True)
    return Gate(route.priority, f"{_UNKNOWN[order.state]}, priority of the route")
