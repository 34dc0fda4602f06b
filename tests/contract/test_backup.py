"""Back-up and restore on both databases: what comes back is whole, and nothing of it is sent as another object."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url, select

from db import audit, audit_chain, deletions, deliveries, files, schema
from db.audit import Wanted
from db.domain import DueDelivery
from db.errors import ConfigError
from db.session import Record
from db.states import DeliveryState
from db.tables import Delivery, Result
from node.backup import RECORD, back_up
from node.deletion import carry_out, path_of_result
from node.record_check import compare
from node.settings import Settings
from tests.support.house import delivered_study, files_below, stored_image, stored_result
from tests.support.postgres import PostgresServer
from tests.support.processes import program
from tests.support.records import STUDY, WORKER, claim, finished_job, queued_job, receive

Restore = Callable[[Path, Path], Record]


@pytest.fixture
def restore(record: Record, request: pytest.FixtureRequest) -> Restore:
    """The commands of docs/operations.md: what was copied becomes a data folder and a record elsewhere."""

    def from_postgresql(copy: Path, place: Path) -> Record:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = make_url(server.url(server.new_database()))
        options = ["--no-owner", "--exit-on-error", "--dbname", libpq(url.render_as_string())]
        run("pg_restore", *options, str(copy / "radnode.dump"))
        shutil.copytree(copy, place, dirs_exist_ok=True)
        return Record(url.render_as_string())

    def from_sqlite(copy: Path, place: Path) -> Record:
        shutil.copytree(copy, place, dirs_exist_ok=True)
        return Record(f"sqlite:///{place / RECORD}")

    return from_postgresql if record.dialect == "postgresql" else from_sqlite


def libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def run(name: str, *arguments: str) -> None:
    subprocess.run([program(name, "postgresql-client"), *arguments], check=True, timeout=60)


def backed_up(settings: Settings, record: Record, copy: Path) -> None:
    if record.dialect == "postgresql":
        copy.mkdir(exist_ok=True)
        url = libpq(record.url.render_as_string(hide_password=False))
        run("pg_dump", "--format=custom", "--file", str(copy / "radnode.dump"), url)
    told = back_up(settings, record, copy, actor="anna")
    assert (told.missing, told.schema) == ([], schema.head())


def due(record: Record, job_id: str) -> list[DueDelivery]:
    with record.write() as session:
        return deliveries.claim(session, job_id, "pacs", "sender", lease_s=60)


def test_what_is_restored_is_whole_and_gives_the_same_objects(
    settings: Settings, record: Record, restore: Restore, tmp_path: Path
) -> None:
    delivered_study(record, settings.data_dir, 1)
    unsent = finished_job(record, stored_result(settings.data_dir, 7, f"{STUDY}.7"), number=7)
    unread = queued_job(record, f"{STUDY}.3", 3)
    with record.write() as session:
        audit_chain.seal(session)
    with record.read() as session:
        missing = {one.path for one in files.named_files(session)} - files_below(settings.data_dir)
    # The shorter helpers write rows alone.
    for path in missing:
        (settings.data_dir / path).write_bytes(bytes(1000 + int(Path(path).stem)))
    backed_up(settings, record, tmp_path / "copy")
    # The node goes on: it sends, reads and receives, and then its disk is lost.
    first_sent, first_read = due(record, unsent), claim(record, unread)
    receive(record, stored_image(settings.data_dir, 5, f"{STUDY}.5"))

    place = tmp_path / "restored"
    restored = restore(tmp_path / "copy", place)
    schema.require_current(restored)
    found = compare(restored, place)
    assert (found.named, found.missing, found.damaged, found.orphans) == (5, [], [], [])
    with restored.read() as session:
        assert audit_chain.verify(session).problem == ""
        # What was proved to be there is not sent again.
        states = dict(session.execute(select(Result.path, Delivery.state).join(Delivery)).all())
    assert sorted(states.values()) == [DeliveryState.CONFIRMED, DeliveryState.PENDING]
    # What the record does not know to be sent is sent again, as the same object; what is read again is the same job.
    assert due(restored, unsent) == first_sent
    again = claim(restored, unread)
    assert first_read is not None
    assert again is not None
    assert (again.id, again.identity, again.created_at) == (first_read.id, first_read.identity, first_read.created_at)
    # An image that came after the backup is new to it, and comes again.
    assert [one.value for one in receive(restored, stored_image(place, 5, f"{STUDY}.5"))] == ["NEW"]
    restored.close()


def test_a_second_backup_copies_what_is_new_and_lets_go_of_what_is_deleted(
    settings: Settings, record: Record, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    (settings.data_dir / "models").mkdir(parents=True)
    (settings.data_dir / "models" / "one").write_text("a model")
    uid = delivered_study(record, settings.data_dir, 1)
    told = back_up(settings, record, copy, actor="anna")
    assert (told.files, told.kept, told.removed) == (2, 0, 0)
    with record.read() as session:
        (exported,) = audit.entries(session, Wanted(events=("study_exported",)))
    assert (exported.actor, exported.subject) == ("anna", "")
    assert exported.detail == {"destination": str(copy), "studies": "all"}
    delivered_study(record, settings.data_dir, 2)
    with record.write() as session:
        deletions.begin_study(session, uid, path_of=path_of_result, actor="anna", reason="asked for")
    carry_out(settings, record, WORKER)
    told = back_up(settings, record, copy, actor="anna")
    assert (told.files, told.kept, told.removed) == (2, 0, 2)
    assert files_below(copy) == files_below(settings.data_dir)
    assert (copy / "models" / "one").read_text() == "a model"
    # Nobody else reads it, whatever folder it was put into.
    assert [path.stat().st_mode & 0o077 for path in copy.glob(RECORD)] == [0] * (record.dialect == "sqlite")


def test_a_backup_goes_neither_into_the_data_folder_nor_over_other_things(
    settings: Settings, record: Record, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    for wrong in (tmp_path / "other", settings.data_dir / "copy"):
        with pytest.raises(ConfigError):
            back_up(settings, record, wrong, actor="anna")
    with record.read() as session:
        assert audit.latest(session, Wanted(events=("study_exported",))) is None
