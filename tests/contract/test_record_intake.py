"""Instances into the record: new, again, in conflict, of another patient, from many associations at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text

from db import intake
from db.domain import Intake, NewRefusal
from db.session import Record
from db.states import InstanceState, RefusalKind, StudyState
from db.tables import Audit, Instance, Refusal, Series, Study
from tests.support.processes import eventually
from tests.support.records import CR, NOON, STUDY, finished_job, image, load, race, receive, result

NEW, DUPLICATE, CONFLICT = Intake.NEW, Intake.DUPLICATE, Intake.CONFLICT


def rows(record: Record, table: type[Instance] | type[Study] | type[Series] | type[Refusal] | type[Audit]) -> list[Any]:
    with record.read() as session:
        return list(session.scalars(select(table).order_by(table.id)))


def test_a_new_instance_brings_its_study_and_series(record: Record) -> None:
    assert receive(record, image(1, expected_instances=3, modality="CR", series_description="AP")) == [NEW]
    (study,), (series,), (stored,) = rows(record, Study), rows(record, Series), rows(record, Instance)
    assert (study.study_instance_uid, study.state, study.version) == (STUDY, StudyState.RECEIVING, 1)
    assert (study.patient_id, study.calling_ae, study.expected_instances) == ("ID-1", "MODALITY", 3)
    assert study.first_received_at == study.last_received_at == study.check_at == NOON
    assert (series.study_id, series.modality, series.series_description) == (study.id, "CR", "AP")
    assert (stored.study_id, stored.series_id, stored.state) == (study.id, series.id, InstanceState.RECEIVED)
    assert (stored.path, stored.size_bytes, stored.sha256) == ("instances/1.dcm", 1001, f"{1:064x}")
    assert stored.facts == {"modality": "CR", "rows": 2}
    assert stored.own_result is False


def test_more_images_share_their_study(record: Record) -> None:
    assert receive(record, image(1), image(2), image(3, series_instance_uid="1.2.3")) == [NEW, NEW, NEW]
    (study,) = rows(record, Study)
    assert study.version == 3
    assert len(rows(record, Series)) == 2


def test_the_same_bytes_again_change_nothing(record: Record) -> None:
    assert receive(record, image(1), image(1)) == [NEW, DUPLICATE]
    (study,) = rows(record, Study)
    assert study.version == 1


def test_other_bytes_with_a_known_uid_are_a_conflict_and_the_first_stay(record: Record) -> None:
    other = image(1, sha256="f" * 64, path="instances/other.dcm", study="9.9")
    assert receive(record, image(1), other, other) == [NEW, CONFLICT, CONFLICT]
    (stored,) = rows(record, Instance)
    assert (stored.sha256, stored.path) == (f"{1:064x}", "instances/1.dcm")
    assert [study.study_instance_uid for study in rows(record, Study)] == [STUDY]


def test_another_patient_in_the_study_is_kept_apart(record: Record) -> None:
    assert receive(record, image(1), image(2, patient_id="ID-2"), image(3)) == [NEW, NEW, NEW]
    states = [(i.state, i.reason) for i in rows(record, Instance)]
    assert [state for state, _ in states] == ["RECEIVED", "QUARANTINED", "RECEIVED"]
    assert "Patient ID" in states[1][1]
    assert "ID-2" not in states[1][1]
    assert len(load(record).instances) == 2
    (noted,) = rows(record, Audit)
    assert (noted.event, noted.subject, noted.outcome) == ("patient_mismatch", image(2).sop_instance_uid, "warning")


def test_a_late_image_reopens_the_study_and_may_promise_more(record: Record) -> None:
    receive(record, image(1, expected_instances=1))
    with record.write() as session:
        session.execute(text("UPDATE studies SET state = 'COMPLETE'"))
    receive(record, image(2))
    (study,) = rows(record, Study)
    assert (study.state, study.version, study.expected_instances) == (StudyState.RECEIVING, 2, 1)
    receive(record, image(3, expected_instances=4))
    assert rows(record, Study)[0].expected_instances == 4


def test_what_this_node_made_is_recognised(record: Record) -> None:
    finished_job(record, result(7))
    made = result(7).ref.sop_instance_uid
    receive(record, image(2, sop_instance_uid=made), image(3, own_result=True), image(4))
    assert [i.own_result for i in rows(record, Instance)[1:]] == [True, True, False]


@pytest.mark.parametrize(
    "hostile", ["a\0b", "\0", "\ud800", "x" * 20_000, "Müller^Jürgen=山田^太郎", "'; DROP TABLE studies; --"]
)
def test_whatever_a_header_says_is_taken(record: Record, hostile: str) -> None:
    texts = ("patient_id", "patient_name", "accession_number", "study_description", "modality", "series_description")
    hostile_facts = {"study_description": hostile, "image_type": [hostile]}
    changes: dict[str, Any] = dict.fromkeys(texts, hostile) | {"facts": hostile_facts}
    assert receive(record, image(1, **changes), image(2, **changes)) == [NEW, NEW]
    assert {i.state for i in rows(record, Instance)} == {InstanceState.RECEIVED}
    stored = rows(record, Study)[0].patient_name
    assert len(stored) == len(hostile)
    assert stored == hostile or not set(hostile).isdisjoint("\0\ud800")
    assert load(record).instances[0].facts == hostile_facts


@pytest.mark.parametrize(
    ("promised", "kept"), [(0, 0), (-1, None), (2**31 - 1, 2**31 - 1), (2**31, None), (10**12, None)]
)
def test_impossible_promises_are_not_believed(record: Record, promised: int, kept: int | None) -> None:
    receive(record, image(1, expected_instances=promised))
    assert load(record).expected_instances == kept


def test_images_from_many_associations_at_once_are_all_there(record: Record) -> None:
    def send(association: int) -> list[Intake]:
        return receive(record, *(image(10 * association + k) for k in range(5)))

    assert race(6, send) == [[NEW] * 5] * 6
    (study,) = rows(record, Study)
    assert study.version == len(rows(record, Instance)) == 30
    assert len(rows(record, Series)) == 1


def test_the_same_image_from_many_associations_is_taken_once(record: Record) -> None:
    outcomes = race(6, lambda _: receive(record, image(1))[0])
    assert sorted(outcomes) == [DUPLICATE] * 5 + [NEW]
    assert rows(record, Study)[0].version == 1


def test_one_uid_with_many_contents_at_once_keeps_exactly_one(record: Record) -> None:
    outcomes = race(6, lambda n: receive(record, image(1, f"8.{n}", sha256=f"{n:064x}"))[0])
    assert sorted(outcomes) == [CONFLICT] * 5 + [NEW]
    (stored,), (study,) = rows(record, Instance), rows(record, Study)
    assert stored.study_id == study.id
    assert study.study_instance_uid == f"8.{outcomes.index(NEW)}"
    assert len(rows(record, Series)) == 1


def test_who_loses_a_race_leaves_nothing_behind(record: Record, other_record: Callable[[], Record]) -> None:
    loser = other_record()
    started = threading.Event()

    def lose() -> Intake:
        started.set()
        return receive(loser, image(1, "8.8", sha256="f" * 64))[0]

    with ThreadPoolExecutor(1) as pool:
        with record.write() as session:
            assert intake.record_instance(session, image(1)) is NEW
            lost = pool.submit(lose)
            assert started.wait(10)
            if record.dialect == "postgresql":
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                eventually("the loser to wait for the row", lambda: session.scalar(waiting))
        assert lost.result(30) is CONFLICT
    assert [study.study_instance_uid for study in rows(record, Study)] == [STUDY]
    assert len(rows(record, Series)) == 1


def refusal(**changes: object) -> NewRefusal:
    values = {
        "sop_instance_uid": "1.2.3",
        "sop_class_uid": CR,
        "status": 0xC000,
        "reason": "it is cut short",
        "calling_ae": "MODALITY",
        "peer_address": "127.0.0.1",
    }
    return NewRefusal(**(values | changes))  # type: ignore[arg-type]


def test_a_refusal_that_repeats_counts_up(record: Record) -> None:
    for one in (refusal(), refusal(), refusal(reason="other"), refusal()):
        with record.write() as session:
            intake.record_refusal(session, RefusalKind.REFUSED, one)
    with record.write() as session:
        intake.record_refusal(session, RefusalKind.CONFLICT, refusal(path="quarantine/x", sha256="a" * 64))
    found = [(r.kind, r.reason, r.occurrences, r.path) for r in rows(record, Refusal)]
    assert found == [
        ("REFUSED", "it is cut short", 3, ""),
        ("REFUSED", "other", 1, ""),
        ("CONFLICT", "it is cut short", 1, "quarantine/x"),
    ]
    assert [(a.event, a.detail["status"]) for a in rows(record, Audit)] == [("instance_refused", 0xC000)] * 3


def test_a_digest_of_an_earlier_release_is_compared_where_it_is_all_there_is(record: Record) -> None:
    earlier, now = image(1), image(1, sha256="", blake3="b" * 64)
    receive(record, earlier)
    # Nobody can tell by the record alone whether they are the same bytes.
    assert receive(record, now) == [CONFLICT]
    with record.read() as session:
        assert intake.sha256_of_earlier(session, earlier.sop_instance_uid) == earlier.sha256
    both = image(2, blake3="c" * 64)
    assert receive(record, both, image(2, sha256="", blake3="c" * 64)) == [NEW, DUPLICATE]
    assert receive(record, image(2, blake3="d" * 64)) == [CONFLICT]
    with record.read() as session:
        assert intake.sha256_of_earlier(session, both.sop_instance_uid) == ""
