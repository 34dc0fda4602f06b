"""An image that comes again while it is deleted: taken for good, or not acknowledged. Never a row without its file."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from db import deletions
from db.domain import Intake
from db.errors import ConflictError, StudyGoing
from db.session import Record
from db.states import StudyState
from db.tables import Instance, Study
from db.types import utcnow
from node.deletion import carry_out
from node.group_commit import GroupCommit
from node.settings import Settings
from tests.support.house import assert_record_and_files_agree, delivered_study, incoming_image, make_old
from tests.support.records import STUDY, load, settle

UID = f"{STUDY}.1"


class Held(Record):
    """A record at which something happens just before a group is written."""

    before: Callable[[], object] = staticmethod(lambda: None)

    @contextmanager
    def write_rows(self) -> Iterator[Connection]:
        self.before()
        with super().write_rows() as connection:
            yield connection


def delete_images(settings: Settings, record: Record) -> bool:
    with record.read() as session:
        study_id = session.scalars(select(Study.id).where(Study.study_instance_uid == UID)).one()
    with record.write() as session:
        begun = deletions.begin_images(
            session, study_id, before=utcnow() + timedelta(days=1), actor="test", reason="race", waiting=False
        )
    carry_out(settings, record, f"keeper-{threading.get_ident()}")
    return begun


def take_again(settings: Settings, commits: GroupCommit) -> Intake:
    return commits.take(*incoming_image(settings.data_dir, 1, UID))


def test_a_deletion_that_passes_between_name_and_row_takes_the_image_with_it(
    settings: Settings, record: Record, record_url: str
) -> None:
    delivered_study(record, settings.data_dir, 1)
    held = Held(record_url)
    held.before = lambda: delete_images(settings, record)  # type: ignore[method-assign]
    with pytest.raises(StudyGoing):
        take_again(settings, GroupCommit(settings.data_dir, held))
    held.close()
    assert_record_and_files_agree(record, settings.data_dir)
    with record.read() as session:
        assert session.scalars(select(Instance)).all() == []
    # The sender does as it was told.
    assert take_again(settings, GroupCommit(settings.data_dir, record)) is Intake.NEW
    assert_record_and_files_agree(record, settings.data_dir)


def test_the_file_for_which_quarantine_has_no_room_is_gone_before_another_may_come_in_its_place(
    settings: Settings, record: Record
) -> None:
    delivered_study(record, settings.data_dir, 1)
    temp, foreign = incoming_image(settings.data_dir, 2, UID, patient_id="ID-2")
    commits = GroupCommit(settings.data_dir, record, most_aside_bytes=0)
    assert commits.take(temp, foreign) is Intake.NO_ROOM
    # Whoever removed it later could take the file of a second arrival, which had found room.
    assert not (settings.data_dir / foreign.path).exists()
    assert_record_and_files_agree(record, settings.data_dir)


def test_senders_and_a_deleter_at_once(settings: Settings, record: Record, other_record: Callable[[], Record]) -> None:
    delivered_study(record, settings.data_dir, 1)
    make_old(record, timedelta(days=1))
    done = threading.Event()
    outcomes: Counter[str] = Counter()

    def send(_number: int) -> None:
        commits = GroupCommit(settings.data_dir, other_record())
        for _ in range(30):
            try:
                outcomes[take_again(settings, commits).value] += 1
            except StudyGoing:
                outcomes["told to come again"] += 1

    def delete() -> int:
        mine, count = other_record(), 0
        while not done.is_set():
            view = load(mine, UID)
            with suppress(ConflictError):
                settle(mine, view, stored=[(one.id, "not read") for one in view.instances])
            count += delete_images(settings, mine)
        return count

    with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(2) as senders:
        deleting = other.submit(delete)
        try:
            list(senders.map(send, range(2)))
        finally:
            done.set()
        assert deleting.result() > 0
    assert outcomes["NEW"] > 0
    with record.read() as session:
        rows = session.scalars(select(Instance.path)).all()
    assert all((settings.data_dir / Path(path)).is_file() for path in rows)
    assert deletions_closed(record)


def deletions_closed(record: Record) -> bool:
    with record.read() as session:
        return (
            not deletions.open_count(session) and session.scalars(select(Study.state)).one() is not StudyState.DELETING
        )
