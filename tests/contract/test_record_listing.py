"""What people and scripts get to see, and the promise that the suite reaches all of the record."""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

from db import deliveries, intake, jobs, listing
from db.domain import NewRefusal
from db.session import Record
from db.states import RefusalKind
from node.web.counting import SeldomCounts
from tests.support.records import (
    CR,
    EXPLICIT,
    NOON,
    SC,
    SENDER,
    SR,
    STUDY,
    WORKER,
    claim,
    finished_job,
    image,
    outcome,
    queued_job,
    receive,
    result,
)

ROOT = Path(__file__).parents[2]


def test_lists_of_nothing_are_empty(record: Record) -> None:
    with record.read() as session:
        assert listing.studies(session) == []
        assert listing.instances(session) == []
        assert listing.jobs(session) == []
        assert listing.deliveries(session) == []
        assert listing.result_paths(session, "no such job") == []


def test_studies_are_listed_newest_first(record: Record) -> None:
    receive(record, image(1, "5.1"), image(2, "5.2", received_at=NOON + timedelta(hours=1)), image(3, "5.1"))
    with record.read() as session:
        listed = listing.studies(session)
        assert listing.studies(session, limit=1) == listed[:1]
    assert json.loads(json.dumps(listed)) == listed
    assert [(row["study_instance_uid"], row["instances"]) for row in listed] == [("5.2", 1), ("5.1", 2)]
    assert listed[1] == {
        "study_instance_uid": "5.1",
        "state": "RECEIVING",
        "reason": "",
        "instances": 2,
        "order": "",
        "order_reason": "",
        "calling_ae": "MODALITY",
        "first_received_at": "2026-03-01T12:00:00+00:00",
        "last_received_at": "2026-03-01T12:00:00+00:00",
    }


def test_instances_are_listed_with_what_was_refused(record: Record) -> None:
    receive(record, image(1, "5.1"), image(2, "5.2"))
    refused = NewRefusal("1.2.3", CR, 0xC000, "it is cut short", "MODALITY", "127.0.0.1", study_instance_uid="5.1")
    with record.write() as session:
        intake.record_refusal(session, RefusalKind.REFUSED, refused)
        intake.record_refusal(session, RefusalKind.REFUSED, refused)
    with record.read() as session:
        listed = listing.instances(session)
        of_one = listing.instances(session, "5.1")
    assert json.loads(json.dumps(listed)) == listed
    assert [row["sop_instance_uid"] for row in listed] == [f"{STUDY}.1.1", f"{STUDY}.1.2", "1.2.3"]
    assert of_one == [listed[0], listed[2]]
    assert listed[0] == {
        "sop_instance_uid": f"{STUDY}.1.1",
        "study_instance_uid": "5.1",
        "series_instance_uid": "5.1.1",
        "sop_class_uid": CR,
        "transfer_syntax_uid": EXPLICIT,
        "state": "RECEIVED",
        "reason": "",
        "size_bytes": 1001,
        "calling_ae": "MODALITY",
        "received_at": "2026-03-01T12:00:00+00:00",
    }
    assert (listed[2]["state"], listed[2]["status"], listed[2]["occurrences"]) == ("REFUSED", "0xc000", 2)
    assert set(listed[0]) - {"size_bytes"} <= set(listed[2])


def test_jobs_and_deliveries_are_listed_with_their_fate(record: Record) -> None:
    done = finished_job(record, result(1, "SR"), result(2, "SC"))
    queued = queued_job(record, "5.9", 9, priority="stat")
    with record.write() as session:
        sr, _ = deliveries.claim(session, done, "pacs", SENDER, lease_s=60)
        deliveries.mark_sent(session, sr.id, SENDER, sr.ref, "Success")
        deliveries.confirm(session, [sr.id], "storage commitment")
    with record.read() as session:
        first, second = listing.jobs(session)
        sent, sending = listing.deliveries(session)
        assert listing.result_paths(session, done) == [("SR", "results/1.dcm"), ("SC", "results/2.dcm")]
    assert json.loads(json.dumps([first, second, sent, sending])) == [first, second, sent, sending]
    assert (first["id"], first["state"], first["reason"], first["attempts"]) == (done, "DONE", "analysed", 1)
    assert (first["study_instance_uid"], first["route"], first["revision"]) == (f"{STUDY}.1", "chest", 1)
    assert (first["model"], first["model_version"], first["summary"]) == ("cxr", "1.0.0", {"pneumonia": 0.25})
    assert (second["id"], second["state"], second["priority"]) == (queued, "QUEUED", "stat")
    assert (second["started_at"], second["finished_at"]) == (None, None)
    assert (sent["sop_instance_uid"], sent["sop_class_uid"]) == (result(1).ref.sop_instance_uid, SR)
    assert (sent["destination"], sent["state"], sent["reason"]) == ("pacs", "CONFIRMED", "storage commitment")
    assert (sending["kind"], sending["sop_class_uid"], sending["state"], sending["attempts"]) == (
        "SC",
        SC,
        "SENDING",
        1,
    )
    assert (sending["job_id"], sending["sent_at"], sending["confirmed_at"]) == (done, None, None)
    for moment in (first["finished_at"], sent["sent_at"], sent["confirmed_at"], sending["next_attempt_at"]):
        assert datetime.fromisoformat(moment).utcoffset() == timedelta(0)


def test_no_list_names_a_patient(record: Record) -> None:
    marks = {"patient_id": "PATIENT-MARK", "patient_name": "NAME^MARK", "accession_number": "ACC-MARK"}
    receive(record, image(1, **marks), image(2, patient_id="OTHER-MARK"))
    finished_job(record, number=3)
    with record.read() as session:
        everything = [listing.studies(session), listing.instances(session), listing.jobs(session)]
        text = json.dumps([*everything, listing.deliveries(session), listing.counts(session)])
    assert "MARK" not in text


def test_rows_are_counted_by_state(record: Record) -> None:
    job_id = queued_job(record)
    receive(record, image(2, patient_id="ID-2"))
    claim(record, job_id)
    with record.write() as session:
        jobs.finish(session, job_id, WORKER, outcome(result(1), result(2)))
    with record.read() as session:
        assert listing.counts(session) == {
            "studies": {"RECEIVING": 1},
            "instances": {"QUARANTINED": 1, "ROUTED": 1},
            "jobs": {"DONE": 1},
            "deliveries": {"PENDING": 2},
            "orders": {},
        }
        assert listing.open_counts(session) == {
            "studies": {"RECEIVING": 1},
            "instances": {"QUARANTINED": 1, "ROUTED": 1},
            "jobs": {},
            "deliveries": {"PENDING": 2},
        }


def test_what_has_ended_is_counted_again_once_that_takes_a_hundredth_of_the_time(record: Record) -> None:
    now = [0.0]

    def clock() -> float:
        # A quarter of a second goes by with each look at it.
        now[0] += 0.25
        return now[0]

    counting = SeldomCounts(clock)

    def counted() -> dict[str, dict[str, int]]:
        with record.read() as session:
            return counting.counts(session)

    receive(record, image(1))
    assert counted()["instances"] == {"RECEIVED": 1}
    receive(record, image(2), image(3, patient_id="ID-2"))
    finished_job(record, number=4)
    soon = counted()
    assert soon["instances"] == {"RECEIVED": 2, "QUARANTINED": 1, "ROUTED": 1}
    assert "DONE" not in soon["jobs"]
    now[0] += 25
    assert counted() == listing_now(record)
    assert counted()["jobs"] == {"DONE": 1}


def listing_now(record: Record) -> dict[str, dict[str, int]]:
    with record.read() as session:
        return listing.counts(session)


def test_the_suite_reaches_every_public_function_of_the_record() -> None:
    """Over both databases; what decides without one is reached by unit tests."""
    suite = [*Path(__file__).parent.glob("test_record_*.py"), ROOT / "tests/support/records.py"]
    over_both = "\n".join(path.read_text() for path in suite)
    pure = "\n".join(path.read_text() for path in (ROOT / "tests/unit").glob("*.py"))
    forgotten = []
    for module in sorted((ROOT / "db").glob("*.py")):
        source = module.read_text()
        tree = ast.parse(source)
        spoken = over_both if "sqlalchemy" in source else over_both + pure
        public = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
        forgotten += [
            f"{module.stem}.{name}"
            for name in public
            if not re.search(rf"\b(?:{module.stem}\.)?{name}\(|{name},", spoken)
        ]
    assert forgotten == []
