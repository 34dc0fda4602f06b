"""Images that are ready together share syncs and a commit; what befalls one befalls no other."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from db.domain import Intake, NewInstance
from db.errors import RadnodeError, RecordUnavailable, StorageFull
from db.session import Record
from db.tables import Instance
from node.bell import SWEEPER, Bell
from node.group_commit import GroupCommit
from tests.support.records import image


def submit(commits: GroupCommit, folder: Path, new: NewInstance) -> Intake | RadnodeError:
    temp = folder / f"{new.sop_instance_uid}.tmp"
    if new.path != "instances/absent.dcm":
        temp.write_text(new.sop_instance_uid)
    try:
        return commits.take(temp, new)
    except RadnodeError as error:
        return error


def stored(record: Record) -> set[str]:
    with record.read() as session:
        return set(session.scalars(select(Instance.sop_instance_uid)))


def test_one_alone_is_named_and_recorded(record: Record, tmp_path: Path) -> None:
    new = image(1, path="instances/aa/1.dcm")
    assert submit(GroupCommit(tmp_path, record), tmp_path, new) is Intake.NEW
    assert (tmp_path / new.path).read_text() == new.sop_instance_uid
    assert stored(record) == {new.sop_instance_uid}
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_recorded_wakes_the_sweeper(record: Record, tmp_path: Path) -> None:
    hung = Bell(tmp_path, SWEEPER)
    began = time.monotonic()
    submit(GroupCommit(tmp_path, record), tmp_path, image(1, path="instances/aa/1.dcm"))
    hung.wait(threading.Event(), 60)
    hung.close()
    assert time.monotonic() - began < 30


def test_those_that_wait_share_a_commit(record: Record, tmp_path: Path) -> None:
    commits = GroupCommit(tmp_path, record)
    first_is_in, go_on = threading.Event(), threading.Event()
    committed: list[Any] = []

    def on_commit(connection: Any) -> None:
        committed.append(connection)
        first_is_in.set()
        assert go_on.wait(30)

    event.listen(record.engine, "commit", on_commit)
    news = [image(number, path=f"instances/{number % 3:02}/{number}.dcm") for number in range(20)]
    waiting = threading.Barrier(20)

    def later(new: NewInstance) -> Intake | RadnodeError:
        waiting.wait(30)
        return submit(commits, tmp_path, new)

    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(submit, commits, tmp_path, news[0])
        assert first_is_in.wait(30)
        rest = [threads.submit(later, new) for new in news[1:]]
        waiting.wait(30)
        go_on.set()
        assert [one.result(60) for one in (first, *rest)] == [Intake.NEW] * 20
    assert len(committed) < 20
    assert stored(record) == {new.sop_instance_uid for new in news}
    assert all((tmp_path / new.path).read_text() == new.sop_instance_uid for new in news)


def test_a_failure_stays_with_the_one_it_befalls(record: Record, tmp_path: Path) -> None:
    commits = GroupCommit(tmp_path, record)
    news = [image(number, path=f"instances/00/{number}.dcm") for number in range(10)]
    news[3] = image(3, path="instances/00/3.dcm", calling_ae=None)
    news[6] = image(6, path="instances/absent.dcm")
    with ThreadPoolExecutor(10) as threads:
        outcomes = list(threads.map(lambda new: submit(commits, tmp_path, new), news))
    assert isinstance(outcomes[3], RecordUnavailable)
    assert isinstance(outcomes[6], StorageFull)
    assert [o for n, o in enumerate(outcomes) if n not in (3, 6)] == [Intake.NEW] * 8
    assert stored(record) == {new.sop_instance_uid for n, new in enumerate(news) if n not in (3, 6)}


@pytest.mark.parametrize("blocked", ["instances", "instances/00"])
def test_a_folder_that_cannot_be_made_fails_only_its_own(record: Record, tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    commits = GroupCommit(tmp_path, record)
    assert isinstance(submit(commits, tmp_path, image(1, path="instances/00/1.dcm")), StorageFull)
    assert stored(record) == set()
    (tmp_path / blocked).unlink()
    assert submit(commits, tmp_path, image(1, path="instances/00/1.dcm")) is Intake.NEW
