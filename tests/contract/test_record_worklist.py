"""The worklist and the study page's queries, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from db import audit, deliveries, jobs, study_details, worklist
from db.domain import InstanceOutcome, JobOutcome
from db.session import Record
from db.states import DeliveryState, InstanceState, JobState, StudyState
from db.worklist import Cursor, Filter, StudyRow
from tests.support.records import (
    NOON,
    SENDER,
    STUDY,
    WORKER,
    claim,
    image,
    load,
    outcome,
    queued_job,
    receive,
    result,
    revision,
    settle,
)


def reading(probability: float, *, shadow: bool = False) -> dict[str, object]:
    presence = "present" if probability >= 0.5 else "absent"
    found = {"label": "pneumonia", "presence": presence, "probability": probability, "threshold": 0.5}
    found["priority"] = "urgent"
    images = {"images": [{"sop_instance_uid": f"{STUDY}.1.1", "analysed": True, "findings": [found]}]}
    return {"images": [], "shadow": images} if shadow else images


def finish(record: Record, job_id: str, new: JobOutcome) -> None:
    assert claim(record, job_id) is not None
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, new)


def page(record: Record, *, after: Cursor | None = None, limit: int = 50, **wanted: object) -> worklist.Page:
    with record.read() as session:
        return worklist.page(session, Filter(**wanted), after=after, limit=limit)  # type: ignore[arg-type]


def uids(found: worklist.Page) -> list[str]:
    return [row.study_instance_uid for row in found.rows]


def one(record: Record, uid: str) -> StudyRow:
    with record.read() as session:
        found = worklist.study(session, uid)
    assert found is not None
    return found


def test_pages_hold_every_study_once_newest_first_whatever_arrives_meanwhile(record: Record) -> None:
    # Several of the same moment, so that the moment alone could not tell where a page ended.
    receive(record, *(image(n, f"5.{n}", received_at=NOON + timedelta(minutes=n // 3)) for n in range(1, 8)))
    seen, after = [], None
    while True:
        found = page(record, after=after, limit=2)
        seen += uids(found)
        receive(record, image(100 + len(seen), f"6.{len(seen)}", received_at=NOON + timedelta(hours=1)))
        after = found.after
        if after is None:
            break
    assert seen == [f"5.{n}" for n in (7, 6, 5, 4, 3, 2, 1)]
    assert page(record, limit=0).rows[0].study_instance_uid == "6.7"
    assert page(record, limit=11).after is None


def test_a_line_tells_of_images_jobs_and_deliveries(record: Record) -> None:
    done = queued_job(record, "5.1", 1, priority="stat")
    receive(record, image(9, "5.1", own_result=True, modality="SR"), image(2, "5.2", modality="DX"))
    finish(record, done, outcome(result(1, study="5.1"), summary=reading(0.9), destinations=("pacs", "archive")))
    with record.write() as session:
        (sent,) = deliveries.claim(session, done, "pacs", SENDER, lease_s=60)
        deliveries.mark_sent(session, sent.id, SENDER, sent.ref, "Success")
    row = one(record, "5.1")
    assert (row.instances, row.patient.name, row.patient.patient_id) == (1, "Doe^Jane", "ID-1")
    (job,) = row.jobs
    assert (job.model, job.model_version, job.state, job.priority, job.current) == (
        "cxr",
        "1.0.0",
        JobState.DONE,
        "stat",
        True,
    )
    assert row.deliveries == {DeliveryState.SENT: 1, DeliveryState.PENDING: 1}
    assert worklist.is_positive(job)
    assert [found["label"] for found in worklist.findings(job)] == ["pneumonia"]
    assert [found["sop_instance_uid"] for found in worklist.images(job)] == [f"{STUDY}.1.1"]
    other = one(record, "5.2")
    assert (other.state, other.jobs, other.modalities) == (StudyState.RECEIVING, (), ("DX",))
    with record.read() as session:
        assert worklist.study(session, "5.3") is None


def test_body_parts_come_from_the_images(record: Record) -> None:
    receive(record, image(1, "5.1", facts={"body_part": "CHEST"}), image(2, "5.1", facts={}))
    assert one(record, "5.1").body_parts == ("CHEST",)


def test_an_earlier_revision_is_told_from_the_present_one(record: Record) -> None:
    first = queued_job(record, "5.1", 1)
    receive(record, image(2, "5.1"))
    settle(record, load(record, "5.1"), revision(load(record, "5.1")))
    assert [(job.id == first, job.revision, job.current) for job in one(record, "5.1").jobs] == [
        (True, 1, False),
        (False, 2, True),
    ]


@pytest.fixture
def mixed(record: Record) -> Record:
    """5.1 positive STAT, 5.2 negative, 5.3 waiting, 5.4 receiving, 5.5 stored, 5.6 positive in the shadow only."""
    for number, priority in ((1, "stat"), (2, "routine"), (3, "routine"), (6, "routine")):
        queued_job(record, f"5.{number}", number, priority=priority, model="mg" if number == 2 else "cxr")
    by_study = {row.study_instance_uid: row.jobs[0].id for row in page(record).rows}
    finish(record, by_study["5.1"], outcome(result(1), summary=reading(0.9)))
    finish(record, by_study["5.2"], outcome(result(2), summary=reading(0.1), destinations=()))
    finish(record, by_study["5.6"], outcome(summary=reading(0.9, shadow=True), destinations=()))
    receive(
        record,
        image(4, "5.4", patient_name="O'Neil_50%^Ann", patient_id="X-7", accession_number="ACC9", modality="MG"),
        image(5, "5.5"),
    )
    settle(record, load(record, "5.5"), stored=((load(record, "5.5").instances[0].id, "no rule"),))
    return record


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"state": "receiving"}, {"5.4"}),
        ({"state": "stored"}, {"5.5"}),
        ({"state": "queued"}, {"5.3"}),
        ({"state": "done"}, {"5.1", "5.2", "5.6"}),
        ({"state": "parked"}, set()),
        ({"priority": "stat"}, {"5.1"}),
        ({"priority": "routine"}, {"5.2", "5.3", "5.6"}),
        ({"model": "mg"}, {"5.2"}),
        ({"modality": "MG"}, {"5.4"}),
        ({"delivery": "pending"}, {"5.1"}),
        ({"delivery": "dead"}, set()),
        ({"positive": True}, {"5.1"}),
        ({"positive": True, "priority": "routine"}, set()),
        ({"text": "o'neil_50%"}, {"5.4"}),
        ({"text": "%"}, set()),
        ({"text": "_'neil"}, set()),
        ({"text": "x-7"}, {"5.4"}),
        ({"text": "acc"}, {"5.4"}),
        ({"text": "5.5"}, {"5.5"}),
        ({"uid": "5."}, {"5.1", "5.2", "5.3", "5.4", "5.5", "5.6"}),
        ({"uid": "x-7"}, set()),
        ({"text": "'; DROP TABLE studies; --"}, set()),
    ],
)
def test_filters_find_what_they_say(mixed: Record, wanted: dict[str, object], found: set[str]) -> None:
    assert set(uids(page(mixed, **wanted))) == found


def test_a_finding_raises_the_priority_and_nothing_lowers_it(record: Record) -> None:
    for number, ordered in ((1, "routine"), (2, "stat"), (3, "routine")):
        job_id = queued_job(record, f"5.{number}", number, priority=ordered)
        finish(record, job_id, outcome(summary=reading(0.1 if number == 3 else 0.9), destinations=()))
    receive(record, image(4, "5.4"))
    told = {row.study_instance_uid: worklist.priority(row) for row in page(record).rows}
    assert told == {"5.1": "urgent", "5.2": "stat", "5.3": "routine", "5.4": ""}
    assert uids(page(record, priority="urgent")) == ["5.1"]
    assert uids(page(record, priority="routine")) == ["5.3"]


def test_a_page_of_positives_goes_on_after_what_only_looked_positive(mixed: Record) -> None:
    first = page(mixed, positive=True, limit=1)
    seen = uids(first)
    while first.after is not None:
        first = page(mixed, positive=True, limit=1, after=first.after)
        seen += uids(first)
    assert seen == ["5.1"]


def test_every_change_gives_another_mark_and_none_the_same(record: Record) -> None:
    def mark() -> object:
        with record.read() as session:
            return worklist.change_mark(session)

    marks = [mark()]
    job_id = queued_job(record, "5.1")
    marks.append(mark())
    assert claim(record, job_id) is not None
    marks.append(mark())
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, outcome(result(1), summary=reading(0.9)))
    marks.append(mark())
    with record.write() as session:
        (sent,) = deliveries.claim(session, job_id, "pacs", SENDER, lease_s=60)
    marks.append(mark())
    with record.write() as session:
        deliveries.mark_sent(session, sent.id, SENDER, sent.ref, "Success")
    marks.append(mark())
    with record.write() as session:
        deliveries.confirm(session, [sent.id], "read back")
    marks.append(mark())
    assert len({str(one) for one in marks}) == len(marks)
    assert mark() == marks[-1]


def test_that_somebody_looked_gives_no_other_mark(record: Record) -> None:
    """Else a list that names patients, which is noted each time, would renew itself without end."""
    queued_job(record, "5.1")
    marks = []
    for event in ("study_routed", "patients_shown", "study_viewed", "report_viewed", "finding_judged"):
        with record.write() as session:
            audit.note(session, event, actor="test", subject="5.1")
        with record.read() as session:
            marks.append(worklist.change_mark(session))
    assert marks[0] == marks[1] == marks[2] == marks[3] != marks[4]


def test_a_study_in_detail(record: Record) -> None:
    job_id = queued_job(record, "5.1", 1)
    receive(record, image(2, "5.1", patient_id="SOMEBODY-ELSE"), image(3, "5.2"))
    receive(record, image(4, "5.1", own_result=True))
    view = load(record, "5.1").instances[0]
    refused = InstanceOutcome(view.id, InstanceState.NOT_ANALYSED, "lateral view")
    made = result(1, study="5.1")
    finish(record, job_id, replace(outcome(made), instances=(refused,)))
    row = one(record, "5.1")
    with record.read() as session:
        (shown,) = study_details.study_images(session, row.id)
        (found,) = study_details.study_results(session, row.id)
        history = study_details.history(session, "5.1", [job_id])
        path = study_details.stored_file(session, "5.1", shown.sop_instance_uid)
        assert study_details.stored_file(session, "5.2", shown.sop_instance_uid) is None
        assert study_details.stored_file(session, "5.1", f"{STUDY}.1.2") is None
        assert study_details.stored_file(session, "5.1", f"{STUDY}.1.4") is None
        others = study_details.history(session, "5.2", [])
    assert {event for _, event, _, _ in others} <= {"instances_received"}
    assert (shown.state, shown.reason, shown.rows) == (InstanceState.NOT_ANALYSED, "lateral view", 2)
    assert path == "instances/1.dcm"
    assert (found.kind, found.path, found.job_id) == ("SR", "results/1.dcm", job_id)
    assert [(one.destination, one.state) for one in found.deliveries] == [("pacs", DeliveryState.PENDING)]
    told = [event for _, event, _, _ in history if event != "instances_received"]
    assert told == ["study_routed", "patient_mismatch", "job_finished"]
