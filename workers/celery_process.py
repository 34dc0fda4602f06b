"""One Celery worker, from a broker that answers to the exit status, under the eyes of a thread that sees it work.

It ends without taking the interpreter down: by then all work is finished or handed back, and taking down every module
of this process one by one takes a second or two of a busy machine and does nothing for anybody. What was registered for
the end runs, though: the pool's folder of temporary files would stay behind.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
import structlog
from celery import signals
from celery.worker import state

from db.errors import BrokerUnavailable
from node import logs
from node.broker import client, ping
from workers.app import settings_of_process
from workers.tasks import app

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_MOST_IDLE_LOOKS = 5


def main() -> None:
    """Arguments are those of `celery worker`; --queues is among them."""
    arguments = sys.argv[1:]
    settings = settings_of_process()
    logs.configure(settings)
    url = settings.effective_broker_url
    _wait_for_broker(url)
    queues = arguments[arguments.index("--queues") + 1].split(",")
    watch = threading.Thread(target=_watch, args=(url, queues), name="watch", daemon=True)

    # Before that it may well leave messages lying: its processes are loading their models.
    def begin(**_: Any) -> None:
        watch.start()

    signals.worker_ready.connect(begin)
    status: object = 0
    try:
        app.worker_main(arguments)
    except SystemExit as end:
        status = end.code
    atexit._run_exitfuncs()
    _leave(status if isinstance(status, int) else int(status is not None))


def _wait_for_broker(url: str) -> None:
    """Celery would wait too, longer each time; after an outage of an hour half a minute too long."""
    told = False
    while True:
        try:
            ping(url)
        except BrokerUnavailable as error:
            if not told:
                log.warning("broker_waited_for", reason=str(error))
            told = True
            time.sleep(_POLL_S)
        else:
            return


def _watch(url: str, queues: Sequence[str]) -> None:
    """End this process when it has nothing to do and leaves lying what is there to be done.

    Celery counts a message as being worked on until its acknowledgement got through. Where the broker went away just
    then, the worker believes for good that its hands are full (seen with Celery 5.7). Whoever watches this process
    starts a new one.
    """
    looks = 0
    with client(url) as asking:
        while looks < _MOST_IDLE_LOOKS:
            time.sleep(_POLL_S)
            try:
                waiting = sum(int(asking.llen(name)) for name in queues)
            except redis.RedisError:
                # Of a broker that is away the worker itself speaks.
                waiting = 0
            looks = looks + 1 if waiting and not state.reserved_requests else 0
    log.error("worker_takes_nothing", waiting=waiting, seconds=_MOST_IDLE_LOOKS * _POLL_S)
    _leave(1)


def _leave(status: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
