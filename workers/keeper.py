"""The keeper: judges studies, relays messages, and picks up what a crash left behind. Loads no model.

Several keepers may run at once: every step is a compare-and-set or a lease in the record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
import typer

from db import deliveries, jobs
from db.errors import PermanentError, RadnodeError, RetriableError
from db.session import Record
from db.types import utcnow
from node import logs
from node.audit import activity
from node.audit import service as audit_service
from node.cli.common import Config, open_record
from node.cli.run import stop_event
from node.identity import owner
from node.processes import report_ready
from node.settings import Settings
from node.sweeper import Sweeper
from workers import proof
from workers.app import Publisher, make_app
from workers.relay import Relay

log = structlog.get_logger(__name__)

app = typer.Typer()

_UPKEEP_S = 2.0
_DELIVERY_GRACE_S = 30.0
_PROOF_AFTER_S = 60.0


@app.command()
def keeper(config: Config = None) -> None:
    """Judge studies, relay work to the broker and pick up what was left behind."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        with activity.on_record(settings, "keeper"):
            run_keeper(settings, record, stop_event())


def run_keeper(settings: Settings, record: Record, stop: threading.Event) -> None:
    """Until `stop` is set, or until one of the loops fails in a way that waiting does not mend."""
    relay = Relay(record, Publisher(make_app(settings)), owner(settings, "relay"))
    failed: list[RadnodeError] = []
    loops: dict[str, Callable[[threading.Event], None]] = {
        "sweeper": Sweeper(settings, record).run,
        "relay": relay.run,
        "upkeep": lambda event: run_upkeep(settings, record, event),
        **audit_service.loops(settings, record),
    }
    threads = [
        threading.Thread(target=_guard, args=(name, loop, stop, failed), name=name, daemon=True)
        for name, loop in loops.items()
    ]
    for thread in threads:
        thread.start()
    report_ready()
    stop.wait()
    for thread in threads:
        thread.join(timeout=10.0)
    if failed:
        raise failed[0]


class LoopEnded(PermanentError):
    """One of the keeper's loops ended by an error nobody foresaw."""


def _guard(
    name: str, loop: Callable[[threading.Event], None], stop: threading.Event, failed: list[RadnodeError]
) -> None:
    """A loop that ends takes the keeper with it: the supervisor starts it again, instead of half of it going on."""
    try:
        loop(stop)
    except Exception as error:
        log.exception("loop_ended", loop=name)
        failed.append(LoopEnded(f"the keeper's {name} ended by {type(error).__name__}; see its log"))
        failed[-1].__cause__ = error
    finally:
        stop.set()


def run_upkeep(settings: Settings, record: Record, stop: threading.Event) -> None:
    """Announce again what a lost message or a dead worker left, and look after unproved deliveries."""
    while not stop.wait(_UPKEEP_S):
        try:
            upkeep_once(settings, record)
        except RetriableError as error:
            log.warning("upkeep_postponed", reason=str(error))


def upkeep_once(settings: Settings, record: Record) -> None:
    """One round. Raises RecordUnavailable."""
    now = utcnow()
    with record.write() as session:
        again = jobs.sweep(session, now)
        sends = deliveries.sweep(session, now, grace_s=_DELIVERY_GRACE_S)
    if again or sends:
        log.info("left_behind", jobs=again, deliveries=sends)
    proof.check_overdue(record, settings, _PROOF_AFTER_S)
