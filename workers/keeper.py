"""The keeper: judges studies, relays messages, has deliveries proved, picks up what a crash left. Loads no model.

Several keepers may run at once: every step is a compare-and-set or a lease in the record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
import typer

from db.errors import PermanentError, RadnodeError
from db.session import Record
from node import logs
from node.audit import activity
from node.audit import service as audit_service
from node.bell import RELAY, SWEEPER, Bell
from node.cli.common import Config, open_record
from node.cli.run import stop_event
from node.processes import report_ready
from node.retention import Housekeeper
from node.retrieve.desk import PriorDesk
from node.settings import Settings
from node.sweeper import Sweeper
from node.worklist.desk import OrderDesk
from node.worklist.performer import loops as performer_loops
from node.worklist.pushed_performer import loops as pushed_loops
from node.worklist.reporter import CommitmentReporter
from workers.alive import sign_in
from workers.app import Publisher, make_app
from workers.broker_watch import BrokerWatch
from workers.proof import Prover
from workers.relay import Relay
from workers.upkeep import Upkeep

log = structlog.get_logger(__name__)

app = typer.Typer()

_STOP_GRACE_S = 5.0
_PROOF_AFTER_S = 60.0
# Images that arrive within this time are judged together.
_TOGETHER_S = 0.05


@app.command()
def keeper(config: Config = None) -> None:
    """Judge studies, relay work to the broker and pick up what was left behind."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        with activity.on_record(settings, "keeper"):
            run_keeper(settings, record, stop_event())


def run_keeper(settings: Settings, record: Record, stop: threading.Event) -> None:
    """Until `stop` is set, or until one of the loops fails in a way that waiting does not mend."""
    arrivals = Bell(settings.data_dir, SWEEPER, deaf_s=_TOGETHER_S)
    due = Bell(settings.data_dir, RELAY)
    relay = Relay(record, Publisher(make_app(settings)), sign_in(settings, "relay"), due.wait)
    failed: list[RadnodeError] = []
    loops: dict[str, Callable[[threading.Event], None]] = {
        "sweeper": Sweeper(settings, record, wait=arrivals.wait).run,
        "orders": OrderDesk(settings, record).run,
        **({"priors": PriorDesk(settings, record).run} if settings.priors.peer else {}),
        **({"commitments": CommitmentReporter(settings, record).run} if settings.notices.commitment else {}),
        "relay": relay.run,
        "upkeep": Upkeep(settings, record).run,
        "broker": BrokerWatch(settings, record).run,
        "retention": Housekeeper(settings, record, sign_in(settings, "retention")).run,
        "proof": Prover(settings, record, after_s=min(_PROOF_AFTER_S, settings.delivery.commitment_timeout_s)).run,
        **performer_loops(settings, record),
        **pushed_loops(settings, record, sign_in(settings, "events")),
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
    # A loop may be in the middle of asking a peer; what it learns then is asked for again.
    deadline = time.monotonic() + _STOP_GRACE_S
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
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
