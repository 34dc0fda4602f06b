"""Start, stop and changed settings are on record, without what is secret in the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from db import audit, schema
from db.audit import Wanted
from db.session import Record
from node.audit import activity
from node.settings import Settings


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def run_once(**changes: Any) -> None:
        settings = Settings(data_dir=tmp_path, **changes)
        record = Record(settings.record_url)
        schema.upgrade(record)
        record.close()
        with activity.on_record(settings, "listener"):
            pass

    return run_once


def trail(folder: Path) -> list[audit.Entry]:
    record = Record(Settings(data_dir=folder).record_url)
    with record.read() as session:
        found = list(audit.entries(session, Wanted()))
    record.close()
    return found


def test_a_program_that_runs_is_on_record_from_start_to_stop(tmp_path: Path, run: Callable[..., None]) -> None:
    run()
    run()
    told = trail(tmp_path)
    assert [one.event for one in told] == [
        "settings_changed",
        *["application_started", "application_stopped"] * 2,
    ], "the same settings again are no change"
    assert told[1].subject.startswith("listener:")
    assert {one.outcome for one in told} == {"success"}
    assert told[0].detail["changed"] == []
    assert [one.position for one in told] == [1, 2, 3, 4, 5], "nothing waits for its place while no keeper runs"


def test_a_program_that_ends_by_an_error_says_so(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    record = Record(settings.record_url)
    schema.upgrade(record)
    record.close()

    def fail() -> None:
        with activity.on_record(settings, "keeper"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (trail(tmp_path)[-1].event, trail(tmp_path)[-1].outcome) == ("application_stopped", "failure")


def test_changed_sections_are_named_and_no_value_is(tmp_path: Path, run: Callable[..., None]) -> None:
    run()
    run(limits={"max_associations": 7}, broker_url="rediss://:hunter2@broker.example.org/0", log_level="DEBUG")
    run(limits={"max_associations": 7}, broker_url="rediss://:hunter3@broker.example.org/0", log_level="DEBUG")
    changes = [one for one in trail(tmp_path) if one.event == "settings_changed"]
    assert [one.detail["changed"] for one in changes] == [[], ["limits", "top"]], "a new password is no new setting"
    assert "hunter" not in repr(changes)
    assert "broker.example.org" not in repr(changes)


def test_a_record_that_is_away_does_not_keep_a_program_from_running(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    ran = []
    with activity.on_record(settings, "web"):
        ran.append(True)
    assert ran
