"""The worker processes of one machine: one per GPU, or as many as the settings say, and those that deliver.

Each is a Celery worker whose child does the work; a decoder or a driver that takes a child down takes no other with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from db import outbox
from models.runner import visible_gpus
from node.processes import Child, stop_all, supervise
from node.settings import Settings
from workers.app import CONFIG_VARIABLE

log = structlog.get_logger(__name__)

INFER, DELIVER = "infer", "deliver"
_QUEUES = {
    INFER: f"{outbox.TOPIC_INFER_STAT},{outbox.TOPIC_INFER}",
    DELIVER: outbox.TOPIC_DELIVER,
}
_STOP_GRACE_S = 25.0


def run_pool(settings: Settings, config_file: Path | None, roles: Sequence[str]) -> None:
    """Run the workers of these roles until SIGTERM or SIGINT; jobs at hand are finished first."""
    children = plan(settings, config_file, roles, _gpus(settings))
    stopping = False

    def on_signal(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_signal)
    try:
        supervise(children, lambda: stopping, lambda: log.info("workers_started", processes=len(children)))
    finally:
        stop_all([(child, _STOP_GRACE_S) for child in children])


def plan(settings: Settings, config_file: Path | None, roles: Sequence[str], gpus: Sequence[str]) -> list[Child]:
    """The processes to run. gpus: device indices, each of which gets one inference process of its own."""
    base = {CONFIG_VARIABLE: str(config_file.resolve())} if config_file else {}
    children: list[Child] = []
    if INFER in roles and gpus:
        children += [
            Child(f"infer-gpu{gpu}", _argv(INFER, 1), {**base, "CUDA_VISIBLE_DEVICES": gpu, "RADNODE_WARM_UP": "1"})
            for gpu in gpus
        ]
    elif INFER in roles:
        children += [
            Child(f"infer-{number}", _argv(INFER, 1), {**base, "RADNODE_WARM_UP": "1"})
            for number in range(settings.work.infer_processes)
        ]
    if DELIVER in roles:
        children.append(Child("deliver", _argv(DELIVER, settings.work.deliver_processes), base))
    return children


def _gpus(settings: Settings) -> list[str]:
    return [] if settings.work.accelerator == "cpu" else visible_gpus()


def _argv(role: str, concurrency: int) -> list[str]:
    return [
        sys.executable,
        "-P",
        "-m",
        "workers.celery_process",
        "--quiet",
        "worker",
        "--queues",
        _QUEUES[role],
        "--pool",
        "prefork",
        "--concurrency",
        str(concurrency),
        "--hostname",
        f"{role}-{os.getpid()}@%h",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel",
        "WARNING",
    ]
