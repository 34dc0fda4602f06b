"""Results to a FHIR server: in order, each until it is taken, the same resources however often; on both databases."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from sqlalchemy import select, update

from db import circuits, deliveries, identities, queues
from db.session import Record
from db.states import StudyState
from db.tables import Audit, Delivery, Job, Study
from node.settings_fhir import FhirDestination
from node.web.metrics import render
from tests.support import records
from tests.support.certificates import authority
from tests.support.fhir_results import OWNER, SUMMARY, finished, hurry, resources, rows, sender, states
from tests.support.fhir_server import HANG_UP, FhirServer, Say
from tests.support.processes import free_port
from workers.bundles import run_bundles
from workers.queues import hand_back

OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}


def test_a_result_is_put_as_resources_that_refer_to_each_other(record: Record, tmp_path: Path) -> None:
    job_id = finished(record)
    (tmp_path / "token").write_text("s3cret\n")
    with FhirServer() as server:
        to = server.destination(token_file=tmp_path / "token")
        run_bundles(sender(record, tmp_path, to, "urn:oid:1.2.3"), "repository")
        headers, bundle = server.sent.get(timeout=5)
    assert Bundle.model_validate(bundle).type == "transaction"
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["content-type"].startswith("application/fhir+json")
    assert all(one["fullUrl"] == f"{to.url}/{one['request']['url']}" for one in bundle["entry"])
    (report,), (found,) = resources(bundle, "DiagnosticReport"), resources(bundle, "Observation")
    (study,), (device,), (task,) = (resources(bundle, kind) for kind in ("ImagingStudy", "Device", "Task"))
    assert (report["status"], found["status"], task["status"]) == ("preliminary", "preliminary", "completed")
    assert report["subject"]["identifier"]["system"] == "urn:oid:1.2.3"
    assert report["result"][0]["reference"] == f"Observation/{found['id']}"
    assert report["imagingStudy"][0]["reference"] == f"ImagingStudy/{study['id']}"
    assert found["device"]["reference"] == f"Device/{device['id']}"
    assert task["output"][0]["valueReference"]["reference"] == f"DiagnosticReport/{report['id']}"
    assert device["property"][0]["valueCode"][0]["text"] == "ab" * 32
    assert "not verified" in report["conclusion"]
    (row,) = rows(record)
    assert (row["state"], row["reason"]) == ("CONFIRMED", "accepted")
    with record.read() as session:
        (told,) = session.scalars(select(Audit).where(Audit.event == "message_sent")).all()
    assert (told.subject, told.detail["kind"]) == (report["id"], "FHIR transaction")
    assert told.detail["study"] == f"{records.STUDY}.1"
    assert task["id"] == job_id


def test_a_failure_and_then_a_take_leave_each_resource_once(record: Record, tmp_path: Path) -> None:
    finished(record)
    with FhirServer([HANG_UP, Say(500, body=OUTCOME)]) as server:
        mine = sender(record, tmp_path, server.destination())
        seen = []
        for _ in range(3):
            run_bundles(mine, "repository")
            seen.append(rows(record)[0]["reason"])
            hurry(record)
        bundles = [server.take() for _ in range(3)]
        # Taken, but nobody heard of it: the next one puts the same.
        with record.write() as session:
            session.execute(update(Delivery).where(Delivery.destination == "repository").values(state="PENDING"))
        run_bundles(mine, "repository")
        bundles.append(server.take())
    assert "failed (RemoteProtocolError)" in seen[0]
    assert seen[1:] == ["answered 500 (invalid): it failed", "accepted"]
    assert bundles[0] == bundles[1] == bundles[2] == bundles[3]
    assert sorted(server.held) == sorted(one["request"]["url"] for one in bundles[0]["entry"])
    assert states(record) == ["CONFIRMED"]


def test_a_sender_that_was_killed_leaves_its_place_in_the_queue(record: Record, tmp_path: Path) -> None:
    finished(record, 1)
    finished(record, 2)
    with FhirServer() as server:
        mine = sender(record, tmp_path, server.destination())
        with record.write() as session:
            assert queues.claim_head(session, "repository", "host:killed:1", lease_s=600) is not None
        run_bundles(mine, "repository")
        assert server.sent.empty()
        with record.write() as session:
            session.execute(update(Delivery).values(lease_until=records.NOON))
        run_bundles(mine, "repository")
        told = [resources(server.take(), "ImagingStudy")[0]["id"] for _ in range(2)]
    assert told == [f"{records.STUDY}.1", f"{records.STUDY}.2"]
    assert states(record) == ["CONFIRMED", "CONFIRMED"]


def test_a_refused_bundle_is_a_dead_letter_and_the_queue_goes_on(record: Record, tmp_path: Path) -> None:
    finished(record, 1)
    finished(record, 2)
    quoting = [{"severity": "error", "code": "invariant", "diagnostics": "Doe^Jane"}]
    with FhirServer([Say(422, body={**OUTCOME, "issue": quoting})]) as server:
        mine = sender(record, tmp_path, server.destination())
        with record.write() as session:
            # It was away before: that it answers at all is what ends that.
            circuits.note_failure(session, "repository", threshold=1, open_s=0.0)
        run_bundles(mine, "repository")
        assert states(record) == ["DEAD", "CONFIRMED"]
        with record.read() as session:
            assert circuits.open_circuits(session) == []
        dead = rows(record)[0]["reason"]
        with record.write() as session:
            assert deliveries.retry(session, actor="anna", destination="repository") == 1
        run_bundles(mine, "repository")
        assert server.sent.qsize() == 3
    assert dead == "answered 422 (invariant): refused; see the server's log, then `radnode retry`"
    assert states(record) == ["CONFIRMED", "CONFIRMED"]


NO_MATTER_OF_THE_BUNDLE = (
    (Say(503), "busy"),
    (Say(401), "check url and token"),
    (Say(404), "check url and token"),
    (Say(302, {"Location": "http://127.0.0.1:1/R4"}), "redirections are not followed"),
    (Say(200, body={"resourceType": "Bundle", "entry": []}), "no transaction-response"),
    (Say(200, {"Content-Type": "text/html"}), "no transaction-response"),
    (Say(429, {"Retry-After": "3600"}), "busy"),
)


def test_what_is_no_matter_of_the_bundle_makes_the_queue_wait(record: Record, tmp_path: Path) -> None:
    finished(record, 1)
    finished(record, 2)
    with FhirServer([answer for answer, _ in NO_MATTER_OF_THE_BUNDLE]) as server:
        mine = sender(record, tmp_path, server.destination(), max_attempts=20, circuit_failures=20)
        for number, (_, said) in enumerate(NO_MATTER_OF_THE_BUNDLE, 1):
            hurry(record)
            run_bundles(mine, "repository")
            assert server.sent.qsize() == number
            first, second = rows(record)
            assert (first["state"], second["state"], second["attempts"]) == ("PENDING", "PENDING", 0)
            assert said in first["reason"]
    with record.read() as session:
        at = session.scalars(select(Delivery.next_attempt_at).where(Delivery.attempts > 0)).one()
    assert at - datetime.now(UTC) > timedelta(minutes=50)


def test_an_entry_that_was_not_taken_is_not_taken_for_one(record: Record, tmp_path: Path) -> None:
    finished(record)
    entries = [{"response": {"status": "201 Created"}}] * 4 + [{"response": {"status": "400 Jane Doe"}}]
    with FhirServer([Say(200, body={"resourceType": "Bundle", "entry": entries})]) as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
    assert rows(record)[0]["reason"] == "answered Success, but for 1 of 5 entries 400; see its log"
    assert states(record) == ["DEAD"]


def test_a_server_that_fails_at_one_bundle_does_not_hold_the_others_for_ever(record: Record, tmp_path: Path) -> None:
    finished(record)
    with FhirServer([Say(500)] * 3) as server:
        mine = sender(record, tmp_path, server.destination(max_errors=2))
        for _ in range(3):
            run_bundles(mine, "repository")
            hurry(record)
        assert server.sent.qsize() == 2
    assert rows(record)[0]["reason"] == "tried 2 times: answered 500: it failed"


def test_a_server_that_is_away_loses_nothing_however_long(record: Record, tmp_path: Path) -> None:
    finished(record)
    port = free_port()
    mine = sender(record, tmp_path, FhirDestination(url=f"http://127.0.0.1:{port}/R4"))
    for _ in range(7):
        run_bundles(mine, "repository")
        hurry(record)
    told = render(mine.settings, record).decode()
    assert 'radnode_fhir_waiting{destination="repository"} 1.0' in told
    assert 'radnode_fhir_oldest_wait_seconds{destination="repository"}' in told
    assert [(row["state"], row["attempts"]) for row in rows(record)] == [("PENDING", 0)]
    with record.write() as session:
        circuits.note_success(session, "repository")
    hurry(record)
    with FhirServer(port=port):
        run_bundles(mine, "repository")
    assert states(record) == ["CONFIRMED"]


def test_a_later_reading_takes_the_place_of_the_earlier_one(record: Record, tmp_path: Path) -> None:
    finished(record, 1)
    with FhirServer() as server:
        mine = sender(record, tmp_path, server.destination())
        run_bundles(mine, "repository")
        before = dict(server.held)
        finished(record, 2, study=1)
        run_bundles(mine, "repository")
    reports = {one["id"]: one for place, one in server.held.items() if place.startswith("DiagnosticReport/")}
    (old,) = (one["id"] for place, one in before.items() if place.startswith("DiagnosticReport/"))
    (new,) = reports.keys() - {old}
    assert (reports[old]["status"], reports[new]["status"]) == ("entered-in-error", "preliminary")
    assert reports[new]["extension"][0]["valueReference"]["reference"] == f"DiagnosticReport/{old}"
    found = {place: one["status"] for place, one in server.held.items() if place.startswith("Observation/")}
    assert sorted(found.values()) == ["entered-in-error", "preliminary"]
    assert all(found[place] == "entered-in-error" for place in before if place.startswith("Observation/"))


def test_a_dead_letter_that_is_sent_after_its_successor_says_so(record: Record, tmp_path: Path) -> None:
    finished(record, 1)
    with FhirServer([Say(400)]) as server:
        mine = sender(record, tmp_path, server.destination())
        run_bundles(mine, "repository")
        finished(record, 2, study=1)
        run_bundles(mine, "repository")
        with record.write() as session:
            deliveries.retry(session, actor="anna", destination="repository")
        run_bundles(mine, "repository")
    statuses = sorted(one["status"] for place, one in server.held.items() if place.startswith("DiagnosticReport/"))
    assert statuses == ["entered-in-error", "preliminary"]


def test_a_merge_reaches_what_was_not_sent(record: Record, tmp_path: Path) -> None:
    finished(record)
    merge = identities.Change("ID-1", identities.Identity("ID-2", name="Maier^Eva"), "merge", "ADT|HOSP", "77")
    with record.write() as session:
        assert identities.change(session, merge, messages_to=["repository"]).applied == 1
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
        (report,) = resources(server.take(), "DiagnosticReport")
    assert (report["subject"]["identifier"]["value"], report["subject"]["display"]) == ("ID-2", "Eva Maier")


class MergingServer(FhirServer):
    """While it is told for the first time, the hospital merges the patient with another one."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def _put(self, bundle: Any) -> Say:
        if not self.held:
            merge = identities.Change("ID-1", identities.Identity("ID-2"), "merge", "ADT|HOSP", "78")
            with self._record.write() as session:
                assert identities.change(session, merge, messages_to=["repository"]).applied == 1
        return super()._put(bundle)


def test_a_merge_while_it_is_sent_has_it_sent_again(record: Record, tmp_path: Path) -> None:
    finished(record)
    with MergingServer(record) as server:
        mine = sender(record, tmp_path, server.destination())
        run_bundles(mine, "repository")
        (row,) = rows(record)
        assert (row["state"], row["attempts"]) == ("PENDING", 0)
        assert "identity was changed" in row["reason"]
        hurry(record)
        run_bundles(mine, "repository")
    (report,) = (one for place, one in server.held.items() if place.startswith("DiagnosticReport/"))
    assert report["subject"]["identifier"]["value"] == "ID-2"
    assert states(record) == ["CONFIRMED"]


@pytest.mark.parametrize("patient_id", ["", "ID\x011", "x" * 65])
def test_what_nobody_could_file_is_not_sent(record: Record, tmp_path: Path, patient_id: str) -> None:
    finished(record)
    with record.write() as session:
        session.execute(update(Study).values(patient_id=patient_id))
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
        assert server.sent.empty()
    (row,) = rows(record)
    assert row["state"] == "DEAD"
    assert "nobody could file" in row["reason"]
    assert not patient_id or patient_id not in row["reason"]


def test_what_could_not_be_analysed_is_said_or_kept_as_wanted(record: Record, tmp_path: Path) -> None:
    summary = {"images": [{"sop_instance_uid": "1.2", "analysed": False, "reason": "lateral view"}]}
    finished(record, 1, summary=summary, analysed=False)
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
        bundle = server.take()
    (report,) = resources(bundle, "DiagnosticReport")
    assert "result" not in report
    assert report["conclusion"].startswith("Not analysed: lateral view. AI-generated")
    assert resources(bundle, "Task")[0]["status"] == "rejected"
    finished(record, 2, summary=summary, analysed=False)
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination(not_analysed=False)), "repository")
        assert server.sent.empty()
    assert states(record) == ["CONFIRMED", "WITHDRAWN"]


def test_a_reading_that_was_told_is_withdrawn_though_what_replaces_it_was_not_analysed(
    record: Record, tmp_path: Path
) -> None:
    finished(record, 1)
    summary = {"images": [{"sop_instance_uid": "1.2", "analysed": False, "reason": "lateral view"}]}
    with FhirServer() as server:
        mine = sender(record, tmp_path, server.destination(not_analysed=False))
        run_bundles(mine, "repository")
        finished(record, 2, study=1, summary=summary, analysed=False)
        run_bundles(mine, "repository")
        told = server.held
    statuses = sorted(one["status"] for place, one in told.items() if place.startswith("DiagnosticReport/"))
    assert statuses == ["entered-in-error", "preliminary"]
    assert states(record) == ["CONFIRMED", "CONFIRMED"]


def test_an_archive_may_have_its_own_imaging_study(record: Record, tmp_path: Path) -> None:
    finished(record)
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination(imaging_study=False)), "repository")
        bundle = server.take()
    assert resources(bundle, "ImagingStudy") == []
    (named,) = resources(bundle, "DiagnosticReport")[0]["imagingStudy"]
    assert "reference" not in named
    assert named["identifier"]["value"] == f"urn:oid:{records.STUDY}.1"


def test_nothing_of_a_study_that_is_being_deleted_leaves(record: Record, tmp_path: Path) -> None:
    finished(record)
    with record.write() as session:
        session.execute(update(Study).values(state=StudyState.DELETING))
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
        assert server.sent.empty()
    assert states(record) == ["WITHDRAWN"]


def test_a_result_that_no_resource_can_hold_is_a_dead_letter_that_quotes_nothing(
    record: Record, tmp_path: Path
) -> None:
    job_id = finished(record)
    broken = json.loads(json.dumps(SUMMARY))
    broken["images"][0]["findings"][0]["code"] = ["", "SCT", "Secret"]
    with record.write() as session:
        session.get_one(Job, job_id).summary = broken
    with FhirServer() as server:
        run_bundles(sender(record, tmp_path, server.destination()), "repository")
        assert server.sent.empty()
    assert rows(record)[0]["reason"] == "no valid Bundle can be made of a result (ValidationError)"


def test_tls_is_checked_and_a_wrong_token_waits(record: Record, tmp_path: Path, monkeypatch: Any) -> None:
    finished(record)
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.issue("server"))
    with FhirServer(tls=context) as server:
        run_bundles(sender(record, tmp_path, server.destination(ca=theirs.ca)), "repository")
        assert "check url, ca" in rows(record)[0]["reason"]
        for changes, said in (
            ({"ca": tmp_path / "nowhere"}, "ca cannot be read"),
            ({"ca": ours.ca, "token_file": tmp_path / "nowhere"}, "token_file cannot be read"),
            ({"ca": ours.ca, "token_variable": "NO_SUCH_TOKEN"}, "the variable NO_SUCH_TOKEN holds no token"),
        ):
            hurry(record)
            run_bundles(sender(record, tmp_path, server.destination(**changes)), "repository")
            assert said in rows(record)[0]["reason"]
        monkeypatch.setenv("REPOSITORY_TOKEN", "abc")
        hurry(record)
        run_bundles(
            sender(record, tmp_path, server.destination(ca=ours.ca, token_variable="REPOSITORY_TOKEN")), "repository"
        )
        headers, _ = server.sent.get(timeout=5)
    assert headers["authorization"] == "Bearer abc"
    assert states(record) == ["CONFIRMED"]


def test_sending_cut_short_is_tried_again_and_then_given_up(record: Record, tmp_path: Path) -> None:
    finished(record)
    mine = sender(record, tmp_path, FhirDestination(url=f"http://127.0.0.1:{free_port()}/R4"))
    seen = []
    for _ in range(5):
        hurry(record)
        with record.write() as session:
            assert queues.claim_head(session, "repository", OWNER, lease_s=600) is not None
        hand_back(mine, "repository", "it took too long")
        seen.append(states(record)[0])
    assert seen == ["PENDING"] * 4 + ["DEAD"]
