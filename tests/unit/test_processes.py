"""Children that come after another, and those that come all the same."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.processes import Child, stop_all, supervise

SAY = "from node.processes import report_ready; {before}; report_ready(); import time; time.sleep(60)"


def child(name: str, before: str, **options: object) -> Child:
    return Child(name, [sys.executable, "-c", SAY.format(before=before)], reports_ready=True, **options)  # type: ignore[arg-type]


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    first = child("first", f"import time; time.sleep(0.5); open({str(tmp_path / 'first')!r}, 'w').close()")
    there = f"import pathlib; assert pathlib.Path({str(tmp_path / 'first')!r}).exists()"
    made = [first, child("second", there, after=first)]
    yield made
    stop_all([(one, 5.0) for one in made])


def test_a_child_is_begun_with_once_the_one_before_it_is_ready(children: list[Child]) -> None:
    ready: list[float] = []
    deadline = time.monotonic() + 30
    supervise(children, lambda: bool(ready) or time.monotonic() > deadline, lambda: ready.append(time.monotonic()))
    assert len(ready) == 1
    assert [one.failures for one in children] == [0, 0]
    assert children[0].started_at < children[1].started_at
