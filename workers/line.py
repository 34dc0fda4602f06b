"""The jobs of one inference process, several at a time, so that its slowest part is always at work.

While one job's network runs (`workers.loaded` lets one at a time), the next one's images are decoded in their own
processes, and the results of the one before are built. Each job is claimed when it is begun, and is in the record what
any other is: a process that dies has tried all that it had begun, and none that it had not.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import structlog

log = structlog.get_logger(__name__)


class Line:
    """Runs jobs in threads. Belongs to the thread that made it; made after a fork.

    run: brings one job to its end, whatever comes of it, and raises only what nobody foresaw. at_once: jobs, and hence
    decoded images in memory. hard_limit_s: seconds after which a job takes its process with it. alone: whether a job is
    to have nothing beside it; one that may end its process, time after time, would take the tries of others with it.
    """

    def __init__(
        self, run: Callable[[str], None], at_once: int, hard_limit_s: float, alone: Callable[[str], bool]
    ) -> None:
        self._run = run
        self._alone = alone
        self._at_once = at_once
        self._hard_limit_s = hard_limit_s
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="job")
        self._running: set[Future[None]] = set()

    def take(self, job_id: str) -> None:
        """Begin with a job; returns once there is room for another, so that what is urgent finds nothing before it.

        Raises what an earlier job, or this one, raised.
        """
        alone = self._alone(job_id)
        if alone:
            self._make_room(0)
        self._running.add(self._threads.submit(self._watched, job_id))
        self._make_room(0 if alone else self._at_once - 1)

    def close(self) -> None:
        """Wait for all that has begun, then raise like `take`."""
        self._threads.shutdown()
        self._make_room(0)

    def _make_room(self, most: int) -> None:
        # May be left by an exception in any place (Celery's time limit): what is done then is found done next time.
        while len(self._running) > most:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()

    def _watched(self, job_id: str) -> None:
        watch = threading.Timer(self._hard_limit_s, _end_process, (job_id,))
        watch.daemon = True
        watch.start()
        try:
            self._run(job_id)
        finally:
            watch.cancel()


def _end_process(job_id: str) -> None:
    """Nothing else ends a thread that hangs. What the process held is free once it is gone."""
    log.error("job_hangs", job=job_id, pid=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
