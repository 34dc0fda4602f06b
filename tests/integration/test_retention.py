"""The keeper deletes what the settings let go, and nothing else, whatever ends it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db import audit, audit_chain, deletions, files, listing, schema
from db.audit import Wanted
from db.domain import Intake
from db.intake import record_instances
from db.session import Record
from db.types import utcnow
from node import storage
from node.orphans import Orphans
from node.retention import Housekeeper
from node.settings import Settings, load
from node.settings_retention import Retention
from tests.support.figures import note_figure
from tests.support.house import (
    age,
    assert_record_and_files_agree,
    delivered_study,
    files_below,
    keep_house,
    make_old,
    stored_image,
)
from tests.support.processes import eventually
from tests.support.records import STUDY, receive

GIB = 1024**3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "radnode.toml"
    config.write_text(
        f'data_dir = "{tmp_path / "data"}"\n[limits]\nmin_free_bytes = 0\n[retention]\ninterval_s = 0.1\n'
    )
    return load(config)


@pytest.fixture
def record(settings: Settings) -> Iterator[Record]:
    opened = Record(settings.record_url)
    schema.upgrade(opened)
    yield opened
    opened.close()


def keeper(settings: Settings, record: Record, **keep: Any) -> Housekeeper:
    changed = settings.model_copy(update={"retention": Retention.model_validate(keep)})
    return Housekeeper(changed, record, "keeper-1")


def states(record: Record) -> dict[str, str]:
    with record.read() as session:
        return {row["study_instance_uid"].rpartition(".")[2]: row["state"] for row in listing.studies(session)}


def events(record: Record, name: str) -> list[audit.Entry]:
    with record.read() as session:
        return list(audit.entries(session, Wanted(events=(name,))))


def test_each_kind_goes_when_its_days_are_over(settings: Settings, record: Record) -> None:
    delivered_study(record, settings.data_dir, 1)
    make_old(record, timedelta(days=400))
    delivered_study(record, settings.data_dir, 2)
    make_old(record, timedelta(days=100))
    delivered_study(record, settings.data_dir, 3)
    receive(record, stored_image(settings.data_dir, 4, f"{STUDY}.4"))

    assert keeper(settings, record, images_days=0, results_days=0).run_once() == 0
    # With what the settings are if nobody sets anything: 90 days for images, a year for results.
    assert keeper(settings, record).run_once() == 3

    assert states(record) == {"1": "CLEARED", "2": "CLEARED", "3": "COMPLETE", "4": "RECEIVING"}
    kept = {path.partition("/")[0] for path in files_below(settings.data_dir)}
    assert (len(files_below(settings.data_dir)), kept) == (4, {"instances", "results"})
    assert_record_and_files_agree(record, settings.data_dir)
    assert sorted(one.detail["what"] for one in events(record, "instances_deleted")) == ["images", "images", "results"]


def test_a_disk_that_runs_low_takes_the_oldest_finished_first_and_stops(settings: Settings, record: Record) -> None:
    for number in (1, 2, 3, 4):
        delivered_study(record, settings.data_dir, number)
        make_old(record, timedelta(hours=5))
    receive(record, stored_image(settings.data_dir, 9, f"{STUDY}.9"))

    def free(folder: Path) -> int:
        # A disk on which each image takes one gibibyte of ten.
        return (10 - sum(path.startswith("instances/") for path in files_below(folder))) * GIB

    def look(**keep: Any) -> int:
        marks = {"early_below_bytes": 6 * GIB, "early_until_bytes": 7 * GIB}
        changed = settings.model_copy(update={"retention": Retention.model_validate({**marks, **keep})})
        return Housekeeper(changed, record, "keeper-1", free_bytes=free).run_once()

    assert look() == 0
    assert look(delete_early=True) == 2
    assert look(delete_early=True) == 0
    assert states(record) == {"1": "CLEARED", "2": "CLEARED", "3": "COMPLETE", "4": "COMPLETE", "9": "RECEIVING"}
    assert [one.detail["reason"] for one in events(record, "instances_deleted")] == ["the disk runs low"] * 2
    assert_record_and_files_agree(record, settings.data_dir)


def test_files_that_cannot_be_removed_wait_and_hold_up_no_other(settings: Settings, record: Record) -> None:
    for number in (1, 2):
        delivered_study(record, settings.data_dir, number)
    make_old(record, timedelta(days=100))
    with record.read() as session:
        (first, _) = [one.path for one in files.named_files(session) if one.kind == "image"]
    (settings.data_dir / first).unlink()
    # Nothing but an empty folder can be unlinked in the way of a file.
    (settings.data_dir / first / "in the way").mkdir(parents=True)
    assert keeper(settings, record).run_once() == 2
    assert states(record) == {"1": "DELETING", "2": "CLEARED"}
    with record.read() as session:
        assert (deletions.open_count(session), files.going_files(session)) == (1, {first})
    assert len(events(record, "instances_deleted")) == 1


def test_what_no_row_names_goes_after_a_month_and_what_is_new_or_named_stays(
    settings: Settings, record: Record
) -> None:
    delivered_study(record, settings.data_dir, 1)
    make_old(record, timedelta(days=60))
    named = files_below(settings.data_dir)
    lost, older = (stored_image(settings.data_dir, number, f"{STUDY}.{number}").path for number in (2, 4))
    # From before the record's time: it is not the record to judge by.
    age(settings.data_dir, {older}, days=61)
    age(settings.data_dir, {lost, *named}, days=31)
    young = stored_image(settings.data_dir, 3, f"{STUDY}.3").path
    # Whose meta information cannot be read may be one that the record names: it is left to a person.
    broken, damaged, cut = (storage.derived_path(storage.INSTANCES, name).as_posix() for name in ("b", "d", "c"))
    whole = (settings.data_dir / young).read_bytes()
    unknown_vr = whole.replace(b"\2\0\2\0UI", b"\2\0\2\0\x55\xeb")
    for path, data in ((broken, b"broken"), (damaged, unknown_vr), (cut, whole[:134])):
        storage.store_bytes(settings.data_dir, Path(path), data)
    age(settings.data_dir, {broken, damaged, cut}, days=31)
    orphans = Orphans(settings, record)
    before = utcnow() - timedelta(days=30)
    assert sum(orphans.look_at_next(before) for _ in range(2 * len(files_below(settings.data_dir)) + 2)) == 1
    assert files_below(settings.data_dir) == {*named, older, young, broken, damaged, cut}
    (told,) = events(record, "instances_deleted")
    assert (told.detail["what"], told.detail["files"]) == ("orphans", 1)


def test_a_file_that_was_moved_aside_by_a_killed_process_comes_back(settings: Settings, record: Record) -> None:
    delivered_study(record, settings.data_dir, 1)
    named = files_below(settings.data_dir)
    (path,) = (path for path in named if path.startswith("instances/"))
    lost = stored_image(settings.data_dir, 2, f"{STUDY}.2").path
    age(settings.data_dir, {lost}, days=31)
    young = Path(stored_image(settings.data_dir, 3, f"{STUDY}.3").path)
    aside = settings.data_dir / "removing"
    aside.mkdir()
    for one in (path, lost, young):
        (settings.data_dir / one).rename(aside / Path(one).name)
    Orphans(settings, record).look_at_next(utcnow() - timedelta(days=30))
    assert files_below(settings.data_dir) == named
    # It may be about to get its row.
    assert [one.name for one in aside.iterdir()] == [young.name]


def test_a_file_that_a_wrong_clock_makes_old_is_not_taken_from_who_is_recording_it(
    settings: Settings, record: Record
) -> None:
    delivered_study(record, settings.data_dir, 1)
    new = stored_image(settings.data_dir, 2, f"{STUDY}.2")
    aside = settings.data_dir / "removing" / Path(new.path).name
    orphans = Orphans(settings, record)
    years_ahead = utcnow() + timedelta(days=3650)
    looks = 2 * len(files_below(settings.data_dir)) + 2
    with ThreadPoolExecutor(1) as other:
        with record.write_rows() as connection:
            assert record_instances(connection, [new]) == [Intake.NEW]
            looking = other.submit(lambda: [orphans.look_at_next(years_ahead) for _ in range(looks)])
            # The listener has found its file in place, and ends its transaction only now.
            assert eventually("the file is moved aside", aside.exists, timeout_s=10)
        assert sum(looking.result(timeout=30)) == 0
    assert_record_and_files_agree(record, settings.data_dir)


def test_old_notes_and_the_oldest_audit_go_and_the_chain_holds(settings: Settings, record: Record) -> None:
    delivered_study(record, settings.data_dir, 1)
    spool = storage.incoming_dir(settings.data_dir, "gone") / "half.dcm"
    spool.write_bytes(b"half")
    age(settings.data_dir, {spool.relative_to(settings.data_dir).as_posix()}, days=1)
    with record.write() as session:
        sealed, _ = audit_chain.seal(session)
    assert sealed > 0
    house = keeper(settings, record, audit_days=1)
    house.run_once()
    assert not spool.exists()
    assert events(record, "audit_pruned") == []
    with record.write() as session:
        # As a day later: the triggers let nobody change a row.
        assert audit_chain.prune(session, before=utcnow() + timedelta(days=1), actor="retention") == sealed
    with record.read() as session:
        assert audit_chain.verify(session).problem == ""


def kill_again_and_again(settings: Settings, record: Record, config: Path, *, studies: int, rounds: int) -> int:
    """kill -9 at random moments of the deleting; returns how often something was under way. Then let it end."""
    chance = random.Random(7)
    for number in range(1, studies + 1):
        delivered_study(record, settings.data_dir, number)
    make_old(record, timedelta(days=400))
    young = delivered_study(record, settings.data_dir, studies + 1)
    cut_short = 0
    for _ in range(rounds):
        keep_house(config, kill_after_s=chance.uniform(0.0, 0.25))
        assert_record_and_files_agree(record, settings.data_dir)
        with record.read() as session:
            cut_short += deletions.open_count(session)
    assert keep_house(config) == 0
    assert_record_and_files_agree(record, settings.data_dir)
    # What is young is there, of the others nothing is, and the audit tells of each once.
    assert len(files_below(settings.data_dir)) == 2
    with record.read() as session:
        assert deletions.open_count(session) == 0
    told = [(one.subject, one.detail["what"]) for one in events(record, "instances_deleted")]
    assert sorted(told) == sorted(
        {(f"{STUDY}.{n}", what) for n in range(1, studies + 1) for what in ("images", "results")}
    )
    assert states(record)[young.rpartition(".")[2]] == "COMPLETE"
    return cut_short


def test_a_keeper_that_is_killed_while_it_deletes_is_taken_over(
    settings: Settings, record: Record, tmp_path: Path
) -> None:
    kill_again_and_again(settings, record, tmp_path / "radnode.toml", studies=12, rounds=2)


@pytest.mark.soak
def test_forty_kills_while_deleting_leave_nothing_behind(settings: Settings, record: Record, tmp_path: Path) -> None:
    cut_short = kill_again_and_again(settings, record, tmp_path / "radnode.toml", studies=400, rounds=40)
    note_figure("killed while deleting", kills=40, cut_short=cut_short, studies=400)
    assert cut_short > 0
