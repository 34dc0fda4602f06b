"""Celery tasks and the life of a worker's child process: thin, everything decided elsewhere.

Imported by worker processes only. What a child works with is made in the child: neither a database connection nor a
loaded model survives a fork.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import signals
from celery.platforms import SecurityWarning

from db.errors import PermanentError
from db.session import Record
from node import logs
from node.processes import end_with_parent
from workers import alive, queues, results
from workers.analysis import terms_for
from workers.app import DELIVER_TASK, INFER_TASK, make_app, settings_of_process
from workers.bundles import run_bundles
from workers.deliver import Sender, hand_back_unsent, run_delivery
from workers.line import Line
from workers.loaded import LoadedModels
from workers.messages import run_messages
from workers.pipeline import Worker, finish_job, was_cut_short
from workers.sandbox import Decoders, DecoderUnavailable

log = structlog.get_logger(__name__)

# Set by `workers.pool` for processes that infer: they load their models before the first message.
WARM_UP_VARIABLE = "RADNODE_WARM_UP"


class MalformedMessage(PermanentError):
    """A message that this release did not write."""


# Celery warns root of pickled messages; this application takes JSON only.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = make_app(settings_of_process())
_process: dict[str, Any] = {}


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings_of_process())


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _start_child(**_: Any) -> None:
    # Killed because it did not stop in time: what its child does must not go on unseen.
    end_with_parent(signal.SIGKILL)
    settings = settings_of_process()
    # They quote what stands in patients' files, and catching them holds for a process and not for one of its threads.
    warnings.simplefilter("ignore")
    # Each job has a thread that works and one that renews its lease.
    record = Record(settings.record_url, pool_size=2 * settings.work.jobs_at_once + 2)
    models = LoadedModels(settings, record)
    decoders = Decoders(terms_for(settings.work))
    worker = Worker(settings, record, models, decoders, alive.sign_in(settings, "infer"))
    _process["worker"] = worker
    _process["line"] = Line(
        partial(finish_job, worker),
        settings.work.jobs_at_once,
        settings.work.hard_time_limit_s,
        alone=partial(was_cut_short, worker),
    )
    _process["sender"] = Sender(settings, record, alive.sign_in(settings, "deliver"))
    if os.environ.get(WARM_UP_VARIABLE):
        try:
            decoders.warm_up()
        except DecoderUnavailable as error:
            # Each job will ask for one again, and be handed back where there is none.
            log.warning("decoders_not_started", reason=str(error))
        results.warm_up()
        models.warm_up(dict.fromkeys(model for route in settings.routes for model in route.models))


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end_child(**_: Any) -> None:
    # They would end by themselves, as orphans, which not everything that runs as process 1 looks after.
    if "worker" in _process:
        _process["line"].close()
        _process["worker"].decoders.close()
        _process["sender"].close()


@app.task(name=INFER_TASK)  # type: ignore[untyped-decorator]
def infer(job_id: str) -> None:
    """Begin one job; ends once there is room for the next. What becomes of it is for the record to say."""
    line: Line = _process["line"]
    try:
        line.take(job_id)
    except SoftTimeLimitExceeded:
        # Each job has a clock of its own; who was to be begun is announced again.
        log.warning("no_room_for_a_job", job=job_id)


@app.task(name=DELIVER_TASK)  # type: ignore[untyped-decorator]
def deliver(subject: str) -> None:
    """Send the results of one job to one destination, as far as they are due."""
    job_id, separator, destination = subject.partition(":")
    if not separator:
        raise MalformedMessage("a delivery is named job:destination")
    sender: Sender = _process["sender"]
    hand_back: Callable[[str], None]
    if destination in sender.settings.told:
        told = run_messages if destination in sender.settings.hl7.destinations else run_bundles
        run = partial(told, sender, destination)
        hand_back = partial(queues.hand_back, sender, destination)
    else:
        run = partial(run_delivery, sender, job_id, destination)
        hand_back = partial(hand_back_unsent, sender, job_id, destination)
    try:
        run()
    except SoftTimeLimitExceeded:
        hand_back(f"it took longer than work.soft_time_limit_s = {sender.settings.work.soft_time_limit_s} s")
    except Exception as error:
        hand_back(f"unforeseen {type(error).__name__}; see the worker's log")
        raise
