"""A process that is killed is found to be gone by the lock it held; one that lives never is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.settings import Settings
from workers import alive

SIGN_IN = """
import sys
from pathlib import Path
from node.settings import Settings
from workers import alive
print(alive.sign_in(Settings(data_dir=Path(sys.argv[1])), "infer"), flush=True)
sys.stdin.read()
"""


def other_process(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that has signed in, and the name it got."""
    process = subprocess.Popen(
        [sys.executable, "-c", SIGN_IN, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def gone(folder: Path) -> list[str]:
    return alive.free_dead(Settings(data_dir=folder), lambda _: None)


def test_who_is_killed_is_gone_at_the_next_look_and_only_once(tmp_path: Path) -> None:
    first, second = other_process(tmp_path), other_process(tmp_path)
    with first[0], second[0]:
        assert gone(tmp_path) == []
        first[0].kill()
        first[0].wait()
        assert gone(tmp_path) == [first[1]]
        assert gone(tmp_path) == []
        second[0].kill()
        second[0].wait()
        assert gone(tmp_path) == [second[1]]


def test_what_could_not_be_freed_is_tried_again(tmp_path: Path) -> None:
    process, name = other_process(tmp_path)
    with process:
        process.kill()
        process.wait()

    def fail(_: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        alive.free_dead(Settings(data_dir=tmp_path), fail)
    assert gone(tmp_path) == [name]


def test_a_name_is_never_given_twice_and_the_own_one_is_never_freed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    names = [alive.sign_in(settings, "relay") for _ in range(3)]
    assert len(set(names)) == 3
    assert str(os.getpid()) in names[0]
    assert gone(tmp_path) == []
    process, _ = other_process(tmp_path)
    with process:
        process.kill()
    assert not set(gone(tmp_path)) & set(names)
