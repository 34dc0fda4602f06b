"""The operations page: what comes in, what waits, who works, how long it takes, what was given up.

Two things can be done there: a peer is asked for an echo, and what was given up is tried again.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from db import circuits, deliveries, jobs, operations, performances, workitem_queries
from db.operations import AtWork, LastRead
from db.states import DeliveryState, JobState
from db.types import utcnow
from node import scu
from node.settings import Peer
from node.web import figures, machine
from node.web.access import Access, read_form
from node.web.context import Context, context_of
from node.web.figures import Silence
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

Operator = Annotated[Principal, Depends(Access(Permission.OPERATIONS_READ))]
Caller = Annotated[Principal, Depends(Access(Permission.PEERS_ECHO))]
Mender = Annotated[Principal, Depends(Access(Permission.WORK_RETRY))]
Form = Annotated[dict[str, str], Depends(read_form)]
# Each keeps a thread that other pages need, for as long as a peer that does not answer lets it wait.
_MOST_ECHOES = 4
_echoes = threading.BoundedSemaphore(_MOST_ECHOES)
HOUR, DAY = timedelta(hours=1), timedelta(hours=24)


@dataclass(frozen=True)
class PeerRow:
    """A configured peer. age_s: since its latest image. left_alone: its circuit is open. waiting: objects for it."""

    name: str
    peer: Peer
    age_s: float | None
    silence: Silence | None
    left_alone: bool
    waiting: int


@dataclass(frozen=True)
class WorkerRow:
    """A process. here: it lives on this machine; one that holds a job without may live on another."""

    name: str
    role: str
    here: bool
    job: AtWork | None
    last: LastRead | None


def add_routes(app: FastAPI) -> None:
    page: dict[str, Any] = {"include_in_schema": False}
    app.get("/operations", **page)(show_operations)
    app.post("/operations/peers/{name}/echo", **page)(echo_peer)
    app.post("/operations/retry", **page)(retry_given_up)


def show_operations(request: Request, principal: Operator) -> Response:
    """The page. Everything on it is under way, or of the last day at most."""
    context, now = context_of(request), utcnow()
    settings = context.settings
    with context.record.read() as session:
        waiting = operations.queues(session)
        values = {
            "took": figures.spreads(operations.turnaround(session, now - DAY)),
            "finished": (operations.finished_since(session, now - HOUR), operations.finished_since(session, now - DAY)),
            "received": (operations.received_since(session, now - HOUR), operations.received_since(session, now - DAY)),
            "heard": operations.heard(session, now - HOUR),
            "workitems": _workitems(session),
            "letters": operations.dead_letters(session),
            "parked": operations.parked_jobs(session),
        }
    disk = shutil.disk_usage(settings.data_dir)
    return context.pages.render(
        "operations.html",
        request,
        principal=principal,
        now=now,
        queues=waiting,
        jobs=[(state.value.lower(), waiting.jobs[state]) for state in waiting.jobs],
        deliveries=[(state.value.lower(), waiting.deliveries[state]) for state in waiting.deliveries],
        given_up=waiting.jobs[JobState.PARKED] + waiting.deliveries[DeliveryState.DEAD],
        oldest_s=figures.waited_s(waiting.oldest_queued_at, now),
        workers=_workers(context, now),
        peers=_peers(context, now),
        others=_others(context),
        connections=machine.open_connections(settings.dicom_port),
        most_associations=settings.limits.max_associations,
        free_bytes=disk.free,
        disk_bytes=disk.total,
        least_bytes=settings.limits.min_free_bytes,
        stages=figures.STAGES,
        most_jobs=operations.MOST_JOBS,
        most_letters=operations.MOST_LETTERS,
        **values,
    )


def _workitems(session: Session) -> list[tuple[str, str, int]]:
    """(whose work items, state, how many), of those that there are."""
    pushed = [("Pushed work items", state, number) for state, number in workitem_queries.counts(session).items()]
    pulled = [(f"Work items of {name}", state, n) for (name, state), n in performances.counts(session).items()]
    return [(whose, state.lower().replace("_", " "), number) for whose, state, number in sorted(pushed + pulled)]


def _workers(context: Context, now: datetime) -> list[WorkerRow]:
    with context.record.read() as session:
        held = {one.owner: one for one in operations.at_work(session)}
        last = {one.owner: one for one in operations.last_read(session)}
    here = machine.living(context.settings)
    return [
        WorkerRow(machine.short(name), machine.role_of(name), name in here, held.get(name), last.get(name))
        # Workers on other machines are known by what they do.
        for name in dict.fromkeys([*here, *held, *(one.owner for one in last.values() if now - one.at < HOUR)])
    ]


def _peers(context: Context, now: datetime) -> list[PeerRow]:
    peers = context.settings.peers
    with context.record.read() as session:
        last = operations.last_study(session, {peer.ae_title.strip() for peer in peers.values()})
        alone = set(circuits.open_circuits(session))
        waiting = operations.waiting_by_destination(session)
    silent = {one.peer: one for one in figures.silences(peers, last, now)}
    rows = []
    for name, peer in peers.items():
        at = last.get(peer.ae_title.strip())
        age_s = None if at is None else max(0.0, (now - at).total_seconds())
        rows.append(PeerRow(name, peer, age_s, silent.get(name), name in alone, waiting.get(name, 0)))
    return rows


def _others(context: Context) -> list[tuple[str, int]]:
    """What waits for destinations that are no DICOM peer, or no longer."""
    with context.record.read() as session:
        waiting = operations.waiting_by_destination(session)
    return sorted((name, count) for name, count in waiting.items() if name not in context.settings.peers)


def echo_peer(request: Request, principal: Caller, name: str) -> Response:
    """C-ECHO to a configured peer, and no other: a form names no address."""
    context = context_of(request)
    peer = context.settings.peers.get(name)
    if peer is None:
        raise Problem(404, "no peer of that name is configured")
    if not _echoes.acquire(blocking=False):
        raise Problem(503, "other peers are being asked; try again", {"Retry-After": "10"})
    try:
        answer = scu.echo(peer, context.settings)
    finally:
        _echoes.release()
    return context.pages.render("echo.html", request, principal=principal, name=name, peer=peer, answer=answer)


def retry_given_up(request: Request, principal: Mender, form: Form) -> Response:
    """One parked job, the dead letters of one job, or all that was given up for one destination, are tried again."""
    job_id, destination = form.get("job", ""), form.get("destination", "")
    if not job_id and not destination:
        raise Problem(422, "name a job or a destination")
    with context_of(request).record.write() as session:
        tried = deliveries.retry(session, actor=principal.actor, job_id=job_id or None, destination=destination or None)
        if job_id and not destination:
            tried += jobs.retry(session, job_id, actor=principal.actor)
    if not tried:
        raise Problem(409, "nothing of it is given up any more; load the page again")
    return RedirectResponse("/operations#given-up", 303)
