"""A bell wakes who waits for it, at once, and harms nobody where nobody does."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from node import bell
from node.bell import SWEEPER, Bell

LONG_S = 30.0


@pytest.fixture
def hung(tmp_path: Path) -> Bell:
    return Bell(tmp_path, SWEEPER)


def seconds_waited(waiting: Bell, stop: threading.Event, timeout_s: float = LONG_S) -> float:
    began = time.monotonic()
    waiting.wait(stop, timeout_s)
    return time.monotonic() - began


def test_who_waits_is_woken(tmp_path: Path, hung: Bell) -> None:
    ringing = threading.Timer(0.02, bell.ring, (tmp_path, SWEEPER))
    ringing.start()
    assert hung.wait(threading.Event(), LONG_S) is False
    ringing.join()


def test_what_rang_before_is_not_missed(tmp_path: Path, hung: Bell) -> None:
    bell.ring(tmp_path, SWEEPER)
    assert seconds_waited(hung, threading.Event()) < LONG_S / 2


def test_however_often_it_rang_it_wakes_once(tmp_path: Path, hung: Bell) -> None:
    for _ in range(100):
        bell.ring(tmp_path, SWEEPER)
    assert seconds_waited(hung, threading.Event()) < LONG_S / 2
    assert seconds_waited(hung, threading.Event(), 0.05) >= 0.05


def test_without_a_bell_the_wait_ends_in_its_time(hung: Bell) -> None:
    assert 0.05 <= seconds_waited(hung, threading.Event(), 0.05) < LONG_S / 2


def test_who_is_to_stop_does_not_wait_on(hung: Bell) -> None:
    stop = threading.Event()
    stopping = threading.Timer(0.02, stop.set)
    stopping.start()
    assert hung.wait(stop, LONG_S) is True
    stopping.join()


def test_who_heard_it_a_moment_ago_is_deaf_for_a_moment(tmp_path: Path) -> None:
    hung = Bell(tmp_path, SWEEPER, deaf_s=0.2)
    bell.ring(tmp_path, SWEEPER)
    began = time.monotonic()
    assert hung.wait(threading.Event(), LONG_S) is False
    bell.ring(tmp_path, SWEEPER)
    assert hung.wait(threading.Event(), LONG_S) is False
    assert 0.2 <= time.monotonic() - began < LONG_S / 2


def test_nobody_need_be_there(tmp_path: Path) -> None:
    bell.ring(tmp_path, SWEEPER)
    Bell(tmp_path, SWEEPER).close()
    bell.ring(tmp_path, SWEEPER)


def test_a_pipe_that_is_full_holds_nobody_up(tmp_path: Path, hung: Bell) -> None:
    for _ in range(70_000):
        bell.ring(tmp_path, SWEEPER)
    assert seconds_waited(hung, threading.Event()) < LONG_S / 2


def test_what_is_no_pipe_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / bell.FOLDER).mkdir()
    file = tmp_path / bell.FOLDER / SWEEPER
    file.write_bytes(b"text")
    bell.ring(tmp_path, SWEEPER)
    assert 0.05 <= seconds_waited(Bell(tmp_path, SWEEPER), threading.Event(), 0.05) < LONG_S / 2
    assert file.read_bytes() == b"text"
