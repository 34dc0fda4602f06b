"""Jobs in a line: so many at once, none forgotten, none begun before there is room; turns in the order of asking."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from queue import Queue

import pytest

from workers.line import Line
from workers.turn import Turn

WAIT_S = 30.0
HARD_S = 3600.0


class Jobs:
    """Jobs that say when they begin, and end when they are let."""

    def __init__(self) -> None:
        self.begun: Queue[str] = Queue()
        self.ends: dict[str, threading.Event] = {name: threading.Event() for name in "abcd"}

    def __call__(self, job_id: str) -> None:
        self.begun.put(job_id)
        assert self.ends[job_id].wait(WAIT_S)

    def take_all(self, line: Line, *names: str) -> threading.Thread:
        """As a consumer of messages does: one after the other, the next once there is room for it."""

        def take() -> None:
            for name in names:
                line.take(name)

        thread = threading.Thread(target=take)
        thread.start()
        return thread


def line_of(run: Callable[[str], None], at_once: int, *, alone: str = "") -> Line:
    return Line(run, at_once, HARD_S, lambda job_id: job_id == alone)


def test_jobs_overlap_up_to_as_many_as_are_allowed_at_once() -> None:
    jobs = Jobs()
    taking = jobs.take_all(line_of(jobs, 2), "a", "b", "c")
    assert {jobs.begun.get(timeout=WAIT_S), jobs.begun.get(timeout=WAIT_S)} == {"a", "b"}
    assert jobs.begun.empty()
    jobs.ends["b"].set()
    assert jobs.begun.get(timeout=WAIT_S) == "c"
    jobs.ends["a"].set()
    taking.join(WAIT_S)
    assert not taking.is_alive()
    jobs.ends["c"].set()


def test_one_at_a_time_is_over_when_it_is_taken() -> None:
    jobs = Jobs()
    taking = jobs.take_all(line_of(jobs, 1), "a")
    assert jobs.begun.get(timeout=WAIT_S) == "a"
    assert taking.is_alive()
    jobs.ends["a"].set()
    taking.join(WAIT_S)
    assert not taking.is_alive()


def test_one_that_may_end_its_process_has_nothing_beside_it() -> None:
    jobs = Jobs()
    taking = jobs.take_all(line_of(jobs, 2, alone="b"), "a", "b", "c")
    assert jobs.begun.get(timeout=WAIT_S) == "a"
    assert jobs.begun.empty()
    jobs.ends["a"].set()
    assert jobs.begun.get(timeout=WAIT_S) == "b"
    assert jobs.begun.empty()
    jobs.ends["b"].set()
    assert jobs.begun.get(timeout=WAIT_S) == "c"
    jobs.ends["c"].set()
    taking.join(WAIT_S)
    assert not taking.is_alive()


def test_the_end_waits_for_what_has_begun() -> None:
    jobs = Jobs()
    line = line_of(jobs, 3)
    line.take("a")
    line.take("b")
    closing = threading.Thread(target=line.close)
    closing.start()
    jobs.ends["a"].set()
    assert closing.is_alive()
    jobs.ends["b"].set()
    closing.join(WAIT_S)
    assert not closing.is_alive()


def test_the_end_waits_for_the_others_of_one_that_failed() -> None:
    other_ends, failed, ended = threading.Event(), threading.Event(), []

    def run(job_id: str) -> None:
        if job_id == "a":
            failed.set()
            raise LookupError("unforeseen")
        assert other_ends.wait(WAIT_S)
        ended.append(job_id)

    line = line_of(run, 3)
    line.take("a")
    line.take("b")
    assert failed.wait(WAIT_S)
    letting = threading.Timer(0.1, other_ends.set)
    letting.start()
    with pytest.raises(LookupError):
        line.close()
    assert ended == ["b"]
    letting.join()


def test_what_nobody_foresaw_is_raised_and_takes_no_room() -> None:
    def fail(_: str) -> None:
        raise LookupError("unforeseen")

    line = line_of(fail, 1)
    for name in "ab":
        with pytest.raises(LookupError):
            line.take(name)


def test_a_job_that_hangs_takes_its_process_with_it() -> None:
    program = (
        "import time; from workers.line import Line; Line(lambda _: time.sleep(60), 1, 0.05, lambda _: False).take('a')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=WAIT_S, check=False)
    assert done.returncode == -9


def test_turns_are_given_in_the_order_of_asking() -> None:
    turn, order, asking = Turn(), [], []

    def ask(number: int) -> None:
        with turn:
            order.append(number)

    with turn:
        for number in range(20):
            asking.append(threading.Thread(target=ask, args=(number,)))
            asking[-1].start()
            while turn.waiting <= number:
                pass
    for thread in asking:
        thread.join(WAIT_S)
    assert order == list(range(20))


def test_who_takes_turn_after_turn_lets_others_in_between() -> None:
    turn, let_in = Turn(), threading.Event()

    def ask() -> None:
        with turn:
            let_in.set()

    other = threading.Thread(target=ask)
    with turn:
        other.start()
        while not turn.waiting:
            pass
    with turn:
        assert let_in.is_set()
    other.join(WAIT_S)
