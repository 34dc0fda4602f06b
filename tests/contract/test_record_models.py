"""Model versions on both databases: one of them reads, whatever happens at the moment of the change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from db import jobs, listing, model_versions
from db.errors import ConflictError, IllegalTransition
from db.model_versions import NewModelVersion, UnknownModelVersion
from db.session import Record
from db.states import ModelState
from db.tables import Audit, ModelVersion
from tests.support.records import finished_job, queued_job, race

ROOT = Path(__file__).parents[2]
ACTOR = "tester"


def version(number: str = "1.0.0", model: str = "cxr", **changes: str) -> NewModelVersion:
    digest = f"{model}{number}".encode().hex().ljust(64, "0")
    return replace(NewModelVersion(model, number, digest, f"models/{digest}", "a" * 64, "key1"), **changes)


def install(record: Record, *numbers: str, model: str = "cxr") -> None:
    """Installed and validated."""
    for number in numbers:
        with record.write() as session:
            model_versions.install(session, version(number, model), actor=ACTOR)
            model_versions.validated(session, model, number, actor=ACTOR)


def activate(record: Record, number: str, model: str = "cxr") -> str | None:
    with record.write() as session:
        return model_versions.activate(session, model, number, actor=ACTOR)


def rollback(record: Record) -> tuple[str, str | None]:
    with record.write() as session:
        return model_versions.rollback(session, "cxr", actor=ACTOR)


def states(record: Record, model: str = "cxr") -> dict[str, str]:
    with record.read() as session:
        return {one.version: one.state.value for one in model_versions.versions(session) if one.model_id == model}


def active(record: Record, state: ModelState = ModelState.ACTIVE) -> str | None:
    with record.read() as session:
        found = model_versions.serving(session, "cxr", state)
    return None if found is None else found.version


def events(record: Record) -> list[tuple[str, str, str]]:
    with record.read() as session:
        return [(a.event, a.subject, a.actor) for a in session.scalars(select(Audit).order_by(Audit.id))]


def test_a_version_goes_from_the_zip_to_the_reading_room_and_out(record: Record) -> None:
    with record.write() as session:
        new = model_versions.install(session, version(), actor=ACTOR)
    assert (new.state, new.signed_by, new.folder) == (ModelState.UPLOADED, "key1", version().folder)
    with pytest.raises(IllegalTransition, match="not validated"):
        activate(record, "1.0.0")
    with record.write() as session:
        model_versions.validated(session, "cxr", "1.0.0", actor=ACTOR)
        model_versions.shadow(session, "cxr", "1.0.0", actor=ACTOR)
    assert active(record, ModelState.SHADOW) == "1.0.0"
    assert activate(record, "1.0.0") is None
    assert (active(record), active(record, ModelState.SHADOW)) == ("1.0.0", None)
    with record.write() as session:
        assert model_versions.retire(session, "cxr", "1.0.0", actor=ACTOR) is ModelState.ACTIVE
    assert states(record) == {"1.0.0": "retired"}
    assert [event for event, _, _ in events(record)] == [
        "model_installed",
        "model_validated",
        "model_shadowed",
        "model_activated",
        "model_retired",
    ]
    assert {(subject, actor) for _, subject, actor in events(record)} == {("cxr 1.0.0", ACTOR)}


def test_installing_again_changes_nothing_and_another_content_is_refused(record: Record) -> None:
    install(record, "1.0.0")
    activate(record, "1.0.0")
    with record.write() as session:
        assert model_versions.install(session, version(), actor="other").state is ModelState.ACTIVE
        model_versions.validated(session, "cxr", "1.0.0", actor="other")
    with record.write() as session, pytest.raises(ConflictError, match="another content"):
        model_versions.install(session, version(digest="f" * 64), actor=ACTOR)
    assert states(record) == {"1.0.0": "active"}
    assert "other" not in {actor for _, _, actor in events(record)}


def test_a_version_that_failed_its_test_stays_uploaded_and_says_why(record: Record) -> None:
    with record.write() as session:
        model_versions.install(session, version(), actor=ACTOR)
        model_versions.refused(session, "cxr", "1.0.0", reason="answers 3 off", actor=ACTOR)
    with pytest.raises(IllegalTransition, match="answers 3 off"):
        activate(record, "1.0.0")
    assert states(record) == {"1.0.0": "uploaded"}


def test_activation_retires_the_one_before_and_rollback_brings_it_back(record: Record) -> None:
    install(record, "1.0.0", "1.0.1", "1.0.2")
    assert [activate(record, number) for number in ("1.0.0", "1.0.1", "1.0.2")] == [None, "1.0.0", "1.0.1"]
    assert states(record) == {"1.0.0": "retired", "1.0.1": "retired", "1.0.2": "active"}
    assert rollback(record) == ("1.0.2", "1.0.1")
    assert rollback(record) == ("1.0.1", "1.0.0")
    assert rollback(record) == ("1.0.0", None)
    assert active(record) is None
    with pytest.raises(UnknownModelVersion, match="nothing to go back from"):
        rollback(record)
    assert activate(record, "1.0.1") is None


def test_no_rollback_leads_to_a_version_somebody_retired(record: Record) -> None:
    install(record, "1.0.0", "1.0.1", "1.0.2")
    for number in ("1.0.0", "1.0.1", "1.0.2"):
        activate(record, number)
    with record.write() as session:
        model_versions.retire(session, "cxr", "1.0.1", actor=ACTOR)
    with record.write() as session, pytest.raises(IllegalTransition, match="retired already"):
        model_versions.retire(session, "cxr", "1.0.1", actor=ACTOR)
    assert rollback(record) == ("1.0.2", "1.0.0")


def test_two_that_replaced_each_other_do_not_lead_to_themselves(record: Record) -> None:
    install(record, "1.0.0", "1.0.1")
    for number in ("1.0.0", "1.0.1", "1.0.0"):
        activate(record, number)
    with record.write() as session:
        model_versions.retire(session, "cxr", "1.0.1", actor=ACTOR)
    assert rollback(record) == ("1.0.0", None)


def test_one_version_is_in_the_shadow_and_models_do_not_mix(record: Record) -> None:
    install(record, "1.0.0", "1.0.1")
    install(record, "1.0.0", model="ct")
    activate(record, "1.0.0", "ct")
    with record.write() as session:
        assert model_versions.shadow(session, "cxr", "1.0.0", actor=ACTOR) is None
    with record.write() as session:
        assert model_versions.shadow(session, "cxr", "1.0.1", actor=ACTOR) == "1.0.0"
    assert states(record) == {"1.0.0": "validated", "1.0.1": "shadow"}
    assert states(record, "ct") == {"1.0.0": "active"}
    activate(record, "1.0.0")
    with record.write() as session, pytest.raises(IllegalTransition, match="only a validated one"):
        model_versions.shadow(session, "cxr", "1.0.0", actor=ACTOR)
    assert active(record, ModelState.SHADOW) == "1.0.1"


def test_what_is_not_installed_is_named_with_what_is(record: Record) -> None:
    install(record, "1.0.0")
    with pytest.raises(UnknownModelVersion, match=r"there is 1\.0\.0"):
        activate(record, "9.9.9")
    with record.read() as session, pytest.raises(UnknownModelVersion, match="there is none"):
        model_versions.find(session, "ct", "1.0.0")
    with pytest.raises(IllegalTransition, match="active already"):
        activate(record, activate(record, "1.0.0") or "1.0.0")


@pytest.mark.parametrize("state", [ModelState.ACTIVE, ModelState.SHADOW])
def test_the_database_itself_refuses_a_second_one(record: Record, state: ModelState) -> None:
    install(record, "1.0.0", "1.0.1")
    with pytest.raises(IntegrityError), record.write() as session:
        session.execute(update(ModelVersion).values(state=state))
    assert states(record) == {"1.0.0": "validated", "1.0.1": "validated"}


def test_an_activation_that_fails_half_way_never_happened(record: Record) -> None:
    install(record, "1.0.0", "1.0.1")
    activate(record, "1.0.0")
    before = events(record)

    def fail() -> None:
        with record.write() as session:
            model_versions.activate(session, "cxr", "1.0.1", actor=ACTOR)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert states(record) == {"1.0.0": "active", "1.0.1": "validated"}
    assert events(record) == before


KILLED = """
import os, signal, sys
from db import model_versions
from db.session import Record
with Record(sys.argv[1]).write() as session:
    getattr(model_versions, sys.argv[2])(session, "cxr", *sys.argv[3:], actor="killed")
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("change", [("activate", "1.0.1"), ("rollback",)])
def test_a_process_killed_before_the_commit_leaves_the_old_version_reading(
    record: Record, record_url: str, change: tuple[str, ...]
) -> None:
    install(record, "1.0.0", "1.0.1")
    activate(record, "1.0.0")
    before = (states(record), events(record))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, record_url, *change], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == -9, done.stderr
    assert (states(record), events(record)) == before
    assert activate(record, "1.0.1") == "1.0.0"


def test_activations_at_the_same_moment_take_turns(record: Record, other_record: Callable[[], Record]) -> None:
    numbers = [f"1.0.{n}" for n in range(4)]
    install(record, *numbers)
    records = [other_record() for _ in numbers]
    replaced = race(4, lambda n: activate(records[n], numbers[n]))
    last = active(record)
    assert last in numbers
    # Each replaced the one before it: together they are one chain, and its end reads.
    assert sorted([one for one in replaced if one], key=str) == sorted(set(numbers) - {last})
    assert replaced.count(None) == 1
    assert sorted(states(record).values()) == ["active", "retired", "retired", "retired"]


def test_what_the_shadow_said_lies_beside_the_summary_of_a_finished_job_only(record: Record) -> None:
    done, waiting = finished_job(record), queued_job(record, "1.2.840.77", 7)
    with record.write() as session:
        for job in (done, waiting, "no-such-job"):
            jobs.note_shadow(session, job, {"digest": "d"})
    with record.read() as session:
        found = {row["id"]: row["summary"] for row in listing.jobs(session)}
    assert found == {done: {"pneumonia": 0.25, "shadow": {"digest": "d"}}, waiting: {}}
