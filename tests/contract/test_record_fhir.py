"""What FHIR resources are made of, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from db import fhir_view, identities, jobs, orders
from db.domain import NewOrder
from db.fhir_view import FINISHED, Key, ModelMatter, Wanted, Work
from db.session import Record
from db.states import InstanceState, JobState, StudyState
from db.tables import Instance, Job, Study
from tests.support.records import (
    STUDY,
    WORKER,
    claim,
    image,
    job_ids,
    load,
    outcome,
    queued_job,
    receive,
    result,
    revision,
    settle,
)

MODEL = {"name": "Sample", "weights_sha256": "ab" * 32}


def read(record: Record, study: int, number: int, **changes: Any) -> str:
    """A study, or with another number a later image of it, that was read. Gives the job's id."""
    uid, before = f"{STUDY}.{study}", set(job_ids(record))
    receive(record, image(number, uid, accession_number=f"ACC-{study}"))
    view = load(record, uid)
    settle(record, view, revision(view))
    (job_id,) = set(job_ids(record)) - before
    assert claim(record, job_id) is not None
    done = outcome(result(number, study=uid), result(500 + number, "SC", study=uid), summary={"model": MODEL})
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, replace(done, **changes))
    return job_id


def works(record: Record, **wanted: Any) -> list[Work]:
    with record.read() as session:
        return fhir_view.works(session, Wanted(**wanted), limit=50)[0]


def numbers(record: Record, **wanted: Any) -> list[str]:
    return [one.report_uid.rpartition(".")[2] for one in works(record, **wanted)]


def test_work_is_told_with_its_study_its_report_and_what_it_replaced(record: Record) -> None:
    first, second = read(record, 1, 1), read(record, 1, 2)
    other = queued_job(record, f"{STUDY}.3", 3, priority="stat")
    waiting, new, old = works(record)
    assert [one.job_id for one in (waiting, new, old)] == [other, second, first]
    assert (waiting.state, waiting.priority, waiting.report_uid) == (JobState.QUEUED, "stat", "")
    assert (new.replaces, new.replaced_at) == (old.report_uid, None)
    assert (old.replaces, old.replaced_at) == ("", new.finished_at)
    assert old.changed_at == new.changed_at == new.finished_at
    assert (new.study.accession_number, new.study.patient_id, new.study.ordered) == ("ACC-1", "ID-1", "")
    assert [(one.series_instance_uid, one.images) for one in new.study.series] == [(f"{STUDY}.1.1", 2)]
    with record.read() as session:
        assert [one.job_id for one in fhir_view.earlier(session, new)] == [first]
        assert fhir_view.earlier(session, old) == []
        assert fhir_view.models(session) == [ModelMatter("cxr", "1.0.0", "m" * 64, MODEL)]
        assert fhir_view.models(session, "m" * 64) == fhir_view.models(session)
        assert fhir_view.models(session, "n" * 64) == []
    assert fhir_view.told_of({}) == fhir_view.told_of({"model": 3}) == {}


def test_each_condition_narrows(record: Record) -> None:
    read(record, 1, 1)
    read(record, 1, 2)
    third = read(record, 2, 3, model_digest="n" * 64)
    (_, second, first) = works(record)
    assert numbers(record, states=FINISHED) == ["3", "2", "1"]
    assert numbers(record, states=(JobState.QUEUED,)) == []
    assert numbers(record, study_uid=f"{STUDY}.1") == numbers(record, numbers="ACC-1") == ["2", "1"]
    assert numbers(record, numbers=f"{STUDY}.2") == numbers(record, job_id=third) == numbers(record, digest="n" * 64)
    assert numbers(record, report_uid=second.report_uid) == ["2"]
    # The pictures of a job are no report of it.
    assert numbers(record, report_uid=f"{STUDY}.9.501") == []
    assert (numbers(record, replaced=True), numbers(record, replaced=False)) == (["1"], ["3", "2"])
    assert numbers(record, patient_id="ID-1") == ["3", "2", "1"]
    assert numbers(record, patient_id="ID-2") == []
    # What was replaced has changed when its successor came.
    at, later = second.changed_at, timedelta(microseconds=1)
    assert first.changed_at == at
    assert numbers(record, study_uid=f"{STUDY}.1", since=at) == ["2", "1"]
    assert numbers(record, study_uid=f"{STUDY}.1", since=at + later) == []
    assert numbers(record, study_uid=f"{STUDY}.1", before=at + later) == ["2", "1"]
    assert numbers(record, study_uid=f"{STUDY}.1", before=at) == []


def test_pages_follow_each_other(record: Record) -> None:
    for number in (1, 2, 3):
        read(record, number, number)
    seen, key = [], None
    with record.read() as session:
        for _ in range(4):
            found, key = fhir_view.works(session, Wanted(), after=key, limit=1)
            seen += [one.study.study_instance_uid for one in found]
            if key is None:
                break
        assert seen == [f"{STUDY}.3", f"{STUDY}.2", f"{STUDY}.1"]
        (same,), _ = fhir_view.works(session, Wanted(), after=Key(works(record)[1].key.revision_id, "cxr", 0), limit=1)
        assert same.study.study_instance_uid == f"{STUDY}.2"
        listed, after = fhir_view.studies(session, Wanted(), limit=2)
        rest, end = fhir_view.studies(session, Wanted(), after=after, limit=2)
    assert [one.study_instance_uid for one in (*listed, *rest)] == seen
    assert end is None


def test_studies_are_found_by_what_names_them(record: Record) -> None:
    for number in (1, 2):
        read(record, number, number)
    with record.write() as session:
        session.execute(update(Instance).where(Instance.id == 1).values(state=InstanceState.QUARANTINED))

    def found(**wanted: Any) -> list[str]:
        with record.read() as session:
            return [one.study_instance_uid for one in fhir_view.studies(session, Wanted(**wanted), limit=9)[0]]

    assert found(numbers="ACC-2") == found(study_uid=f"{STUDY}.2") == [f"{STUDY}.2"]
    assert found(patient_id="ID-9") == []
    with record.read() as session:
        moment = session.get_one(Study, 1).last_received_at
        assert fhir_view.studies(session, Wanted(study_uid=f"{STUDY}.1"), limit=1)[0][0].series == ()
    assert len(found(since=moment)) == 2
    assert found(before=moment) == []


def test_a_study_is_whose_it_is_today(record: Record) -> None:
    read(record, 1, 1)
    merge = identities.Change("ID-1", identities.Identity("ID-2", "HOSP", "Maier^Eva"), "merge", "ADT|HOSP", "77")
    with record.write() as session:
        identities.change(session, merge)
    (told,) = works(record, patient_id="ID-2")
    assert (told.study.patient_id, told.study.issuer, told.study.patient_name) == ("ID-2", "HOSP", "Maier^Eva")
    assert works(record, patient_id="ID-1") == []


def test_an_order_counts_where_it_is_of_the_same_patient(record: Record) -> None:
    read(record, 1, 1)
    with record.write() as session:
        orders.store(session, NewOrder("hl7:RIS", "ACC-1", "RP-1", "ID-9"))
    assert works(record)[0].study.ordered == ""
    with record.write() as session:
        orders.store(session, NewOrder("hl7:RIS", "ACC-1", "RP-2", "ID-1"))
    assert works(record)[0].study.ordered == "ACC-1"


def test_of_a_deleted_study_there_is_nothing(record: Record) -> None:
    read(record, 1, 1)
    with record.write() as session:
        session.execute(update(Study).values(state=StudyState.DELETED))
        session.execute(update(Job).values(summary={}))
    with record.read() as session:
        assert fhir_view.works(session, Wanted(), limit=9) == ([], None)
        assert fhir_view.studies(session, Wanted(), limit=9) == ([], None)
        assert fhir_view.models(session) == []
