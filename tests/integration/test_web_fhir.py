"""FHIR R4 as a program reads it: what is told, to whom, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from db import jobs
from db.domain import NewJob
from db.states import StudyState
from db.tables import Job, Study
from tests.support.records import WORKER, claim, image, job_ids, load, outcome, receive, result, revision, settle
from tests.support.web import Site, site
from tests.support.web_studies import HOSTILE, read_study, refused_study, waiting_study

KINDS = ("DiagnosticReport", "Observation", "Task", "ImagingStudy", "Device")
JSON = "application/fhir+json"


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("RADNODE_FHIR__SERVE", "true")
    monkeypatch.setenv("RADNODE_FHIR__PATIENT_ID_SYSTEM", "urn:oid:1.2.3")
    with site(tmp_path) as made:
        yield made


def program(doors: Site, *scopes: str) -> TestClient:
    """A client with a key of these scopes."""
    client = doors.browser()
    client.headers.update({"accept": JSON, **doors.key(*(scopes or ("patients:read",)))})
    return client


def valid(resource: Any) -> Any:
    """The resource, which FHIR's own model takes."""
    kind = resource["resourceType"]
    getattr(import_module(f"fhir.resources.R4B.{kind.lower()}"), kind).model_validate(resource)
    return resource


def found(client: TestClient, query: str) -> list[Any]:
    """All resources of a search, page after page."""
    resources, address = [], f"/fhir/R4/{query}"
    for _ in range(100):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == JSON
        page = valid(answer.json())
        resources += [one["resource"] for one in page.get("entry", [])]
        links = {one["relation"]: one["url"] for one in page["link"]}
        if "next" not in links:
            return resources
        parts = urlsplit(links["next"])
        address = f"{parts.path}?{parts.query}"
    raise AssertionError("the pages never end")


def ids(client: TestClient, query: str) -> list[str]:
    return [one["id"] for one in found(client, query)]


def again(doors: Site, study: str, number: int) -> str:
    """A later reading of a study: a late image came. Gives the job's id."""
    receive(doors.record, image(number, study))
    view = load(doors.record, study)
    before = set(job_ids(doors.record))
    settle(doors.record, view, revision(view, jobs=(NewJob("cxr-sample", "routine", ()),)))
    (job_id,) = set(job_ids(doors.record)) - before
    assert claim(doors.record, job_id) is not None
    with doors.record.write() as session:
        jobs.finish(
            session,
            job_id,
            WORKER,
            outcome(result(number, study=study), summary={"images": []}, destinations=(), model_digest="e" * 64),
        )
    return job_id


def test_nothing_is_served_unless_the_settings_say_so(tmp_path: Path) -> None:
    with site(tmp_path) as closed:
        answer = program(closed).get("/fhir/R4/metadata")
    assert answer.status_code == 404
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_what_is_there_is_told_to_everybody_and_nothing_more(doors: Site) -> None:
    answer = doors.browser().get("/fhir/R4/metadata", headers={"accept": "*/*"})
    statement = valid(answer.json())
    assert (statement["fhirVersion"], statement["kind"]) == ("4.0.1", "instance")
    assert {one["type"] for one in statement["rest"][0]["resource"]} == set(KINDS)
    assert {code["code"] for one in statement["rest"][0]["resource"] for code in one["interaction"]} == {
        "read",
        "search-type",
    }


def test_every_kind_is_found_and_read_by_its_id(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir, priority="stat")
    client = program(doors)
    for kind in KINDS:
        found_and_read(client, made.study, kind)


def found_and_read(client: TestClient, study: str, kind: str) -> None:
    (resource,) = found(client, kind)
    alone = client.get(f"/fhir/R4/{kind}/{resource['id']}")
    assert alone.status_code == 200
    assert valid(alone.json()) == resource
    assert ids(client, f"{kind}?_id={resource['id']}") == [resource["id"]]
    if kind != "Device":
        assert ids(client, f"{kind}?study={study}") == [resource["id"]]
        assert ids(client, f"{kind}?study=urn:dicom:uid%7Curn:oid:{study}") == [resource["id"]]
        assert ids(client, f"{kind}?study=1.2.3") == []
    assert client.get(f"/fhir/R4/{kind}/no-such-id").status_code == 404
    assert ids(client, f"{kind}?_id=no-such-id") == []


def test_a_report_says_what_was_found_and_that_nobody_verified_it(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir, priority="stat", accession_number="ACC-1")
    client = program(doors)
    (report,), (finding,) = found(client, "DiagnosticReport"), found(client, "Observation")
    assert (report["status"], finding["status"]) == ("preliminary", "preliminary")
    assert "resultsInterpreter" not in report
    assert "not verified by a physician" in report["conclusion"]
    assert report["identifier"][0]["value"] == f"urn:oid:{made.report}"
    assert report["subject"] == {
        "type": "Patient",
        "identifier": {
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
            "system": "urn:oid:1.2.3",
            "value": f"ID-{made.image}",
        },
        "display": "Jane Doe",
    }
    assert finding["valueCodeableConcept"]["coding"][0]["code"] == "52101004"
    assert finding["interpretation"][0]["coding"][0]["code"] == "AA"
    values = [one.get("valueQuantity", {}).get("value") for one in finding["component"]]
    assert values == [0.871, 0.5, None]
    assert ids(client, "ImagingStudy?identifier=ACC-1") == [made.study]
    # No order is on record that names this patient.
    assert "basedOn" not in report


def test_a_task_tells_how_far_the_work_is(doors: Site) -> None:
    folder = doors.settings.data_dir
    read_study(doors.record, folder, 1, priority="stat")
    refused_study(doors.record, folder, 2, "lateral view")
    waiting_study(doors.record, folder, 3, priority="urgent")
    client = program(doors)
    told = {one["status"]: one for one in found(client, "Task")}
    assert {status: one["priority"] for status, one in told.items()} == {
        "completed": "stat",
        "rejected": "routine",
        "requested": "urgent",
    }
    assert told["rejected"]["statusReason"]["text"] == "lateral view"
    assert "output" not in told["requested"]
    for status, one in told.items():
        assert ids(client, f"Task?status={status}") == [one["id"]]
    assert len(ids(client, "Task?status=requested,rejected")) == 2
    assert ids(client, "Task?status=on-hold") == []
    assert len(ids(client, "DiagnosticReport")) == 1


def test_a_later_reading_takes_the_place_of_the_earlier(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir)
    client = program(doors)
    (before,) = found(client, "DiagnosticReport")
    again(doors, made.study, 7)
    new, old = found(client, "DiagnosticReport")
    assert (old["id"], old["status"], new["status"]) == (before["id"], "entered-in-error", "preliminary")
    assert new["extension"][0]["valueReference"]["reference"] == f"DiagnosticReport/{old['id']}"
    assert [one["status"] for one in found(client, "Observation")] == ["entered-in-error"]
    assert ids(client, "DiagnosticReport?status=preliminary") == [new["id"]]
    assert ids(client, "DiagnosticReport?status=entered-in-error") == [old["id"]]
    assert len(ids(client, "DiagnosticReport?status=preliminary,entered-in-error")) == 2
    assert ids(client, "Observation?status=preliminary") == []
    assert ids(client, "Observation?status=final") == []
    # Whoever asks for what has changed hears of both.
    changed = old["meta"]["lastUpdated"]
    assert set(ids(client, f"DiagnosticReport?_lastUpdated=ge{changed}")) == {new["id"], old["id"]}
    assert ids(client, f"DiagnosticReport?_lastUpdated=lt{changed}") == []
    assert ids(client, f"DiagnosticReport?_lastUpdated=gt{changed}") == []
    assert ids(client, f"DiagnosticReport?_lastUpdated=lt{before['meta']['lastUpdated']}") == []
    assert len(ids(client, "DiagnosticReport?_lastUpdated=ge2026-01&_lastUpdated=lt2999")) == 2


def test_pages_give_each_resource_once(doors: Site) -> None:
    for number in range(1, 6):
        read_study(doors.record, doors.settings.data_dir, number)
    with doors.record.write() as session:
        for job in session.query(Job).limit(2):
            (one,) = job.summary["images"]
            labels = [{**one["findings"][0], "label": name} for name in ("a", "b", "c")]
            session.execute(
                update(Job).where(Job.id == job.id).values(summary={"images": [{**one, "findings": labels}]})
            )
    client = program(doors)
    for kind, number in (("DiagnosticReport", 5), ("Observation", 9), ("Task", 5), ("ImagingStudy", 5)):
        whole = ids(client, kind)
        assert len(set(whole)) == number
        for count in (1, 2, 3):
            assert ids(client, f"{kind}?_count={count}") == whole


def test_patients_are_found_by_their_identifier_of_today(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir, 1, patient_id="A,1|x")
    read_study(doors.record, doors.settings.data_dir, 2)
    client = program(doors)
    asked = {"patient.identifier": "urn:oid:1.2.3|A\\,1\\|x"}
    for kind in ("DiagnosticReport", "Observation", "Task", "ImagingStudy"):
        page = client.get(f"/fhir/R4/{kind}", params=asked).json()
        assert len(page["entry"]) == 1
        other = client.get(f"/fhir/R4/{kind}", params={"patient.identifier": "urn:oid:9|A\\,1\\|x"}).json()
        assert "entry" not in other
    assert client.get("/fhir/R4/ImagingStudy", params=asked).json()["entry"][0]["resource"]["id"] == made.study


MISUNDERSTOOD = [
    "Task?name=Doe",
    "Task?_include=Task:focus",
    "Task?study=1.2&study=1.3",
    "Task?study=",
    "Task?study=1.2,1.3",
    "Task?_id=a,b",
    "Task?patient.identifier=a%00b",
    "Task?_count=0",
    "Task?_count=-1",
    "Task?_count=many",
    "Task?_lastUpdated=yesterday",
    "Task?_lastUpdated=2026-02-30",
    "Task?_lastUpdated=9999",
    "Task?_lastUpdated=2026-01-01T10:00",
    "Task?_page=1",
    "Task?_page=W10=",
    "Task?_page=WzEsImEiLCJiIl0=",
    "ImagingStudy?_page=x",
    "Task?status=" + "x" * 300,
    "Task?status=http://hl7.org/fhir/task-status%7Crequested",
]


def test_what_is_not_understood_is_refused_and_not_passed_over(doors: Site) -> None:
    read_study(doors.record, doors.settings.data_dir)
    client = program(doors)
    for query in MISUNDERSTOOD:
        answer = client.get(f"/fhir/R4/{query}")
        assert answer.status_code == 400, query
        assert valid(answer.json())["issue"][0]["code"] == "invalid"
        assert "Doe" not in answer.text


def test_json_is_what_there_is(doors: Site) -> None:
    client = program(doors)
    for accept, status in (
        (JSON, 200),
        ("application/json;q=0.9, text/html", 200),
        ("", 200),
        ("text/html", 406),
        ("application/fhir+xml", 406),
        ("application/fhir+json;q=0", 406),
    ):
        answer = client.get("/fhir/R4/Task", headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (status, JSON)
    for asked, status in (("json", 200), (JSON, 200), ("xml", 406), ("html", 406)):
        answer = client.get("/fhir/R4/Task", params={"_format": asked}, headers={"accept": "text/html"})
        assert answer.status_code == status


def test_only_a_key_that_may_know_patients_gets_in(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir)
    stranger, poor = doors.browser(), program(doors, "studies:read", "images:read")
    for path in ("/fhir/R4/Task", f"/fhir/R4/ImagingStudy/{made.study}"):
        answer = stranger.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (401, JSON)
        assert valid(answer.json())["issue"][0]["code"] == "login"
        wrong = stranger.get(path, headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        refused = poor.get(path)
        assert (refused.status_code, refused.json()["issue"][0]["code"]) == (403, "forbidden")
        assert made.study not in refused.text
    assert {row.detail["permission"] for row in doors.audited("access_denied") if "permission" in row.detail} == {
        "patients:read"
    }


def test_what_was_told_is_on_record(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir)
    client = program(doors)
    (report,) = found(client, "DiagnosticReport")
    client.get(f"/fhir/R4/DiagnosticReport/{report['id']}")
    (listed,), (viewed,) = doors.audited("patients_shown"), doors.audited("study_viewed")
    assert (listed.actor, listed.detail["studies"], listed.detail["kind"]) == (
        "key program",
        1,
        "FHIR DiagnosticReport",
    )
    assert (viewed.actor, viewed.subject, viewed.detail["address"]) == ("key program", made.study, "127.0.0.1")


def test_people_who_have_not_read_yet_do_not_learn_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_FHIR__SERVE", "true")
    with site(tmp_path, ai_after_first_read=True) as doors:
        read_study(doors.record, doors.settings.data_dir)
        assert doors.logged_in("ada").get("/fhir/R4/Observation?_format=json").status_code == 403
        assert len(found(program(doors), "Observation")) == 1


def test_nothing_can_be_changed(doors: Site) -> None:
    client = program(doors)
    paths = ("/fhir/R4/Task", "/fhir/R4/Task/1", "/fhir/R4/metadata")
    for method, path in product(("POST", "PUT", "PATCH", "DELETE"), paths):
        answer = client.request(method, path, json={"resourceType": "Task"})
        assert answer.status_code == 405
        assert answer.json()["issue"][0]["code"] == "not-supported"


def test_every_refusal_is_an_operation_outcome(doors: Site) -> None:
    client = program(doors)
    for path, headers, status in (
        ("/fhir/R4/Patient", {}, 404),
        ("/fhir/R4/Task/1/_history", {}, 404),
        ("/fhir/R4/Task", {"host": "evil.example"}, 421),
        ("/fhir/R4/Task", {"content-length": "99999999"}, 413),
    ):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, JSON)
        valid(answer.json())


def test_a_peers_strings_are_data(doors: Site) -> None:
    wild = f"{HOSTILE}^\u202e\u2028Ann\x01=\u5c71\u7530^\u592a\u90ce"
    made = read_study(
        doors.record, doors.settings.data_dir, patient_name=wild, study_description=HOSTILE, accession_number=HOSTILE
    )
    client = program(doors)
    for kind in KINDS:
        for resource in found(client, kind):
            valid(resource)
    answer = client.get(f"/fhir/R4/ImagingStudy/{made.study}")
    assert answer.headers["content-type"] == JSON
    assert answer.headers["x-content-type-options"] == "nosniff"
    told = answer.json()
    assert told["description"] == HOSTILE
    assert "<script>document.title" in told["subject"]["display"]
    # Longer than any accession number: an identifier is told whole or not at all.
    assert [one["value"] for one in told["identifier"]] == [f"urn:oid:{made.study}"]


def test_a_result_that_no_resource_can_hold_does_not_hide_the_others(doors: Site) -> None:
    made = read_study(doors.record, doors.settings.data_dir, 1)
    read_study(doors.record, doors.settings.data_dir, 2)
    with doors.record.write() as session:
        job = session.get_one(Job, made.job)
        (one,) = job.summary["images"]
        broken = {**one, "findings": [{**one["findings"][0], "code": ["", "SCT", "Secret"]}]}
        session.execute(update(Job).where(Job.id == made.job).values(summary={"images": [broken]}))
    client = program(doors)
    page = client.get("/fhir/R4/Observation").json()
    assert [one["search"]["mode"] for one in page["entry"]] == ["match", "outcome"]
    assert "Secret" not in page["entry"][1]["resource"]["issue"][0]["diagnostics"]
    report = client.get(f"/fhir/R4/DiagnosticReport?study={made.study}").json()["entry"][0]["resource"]
    answer = client.get(f"/fhir/R4/{report['result'][0]['reference']}")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (500, "exception")


def test_of_a_deleted_study_there_is_nothing(doors: Site) -> None:
    read_study(doors.record, doors.settings.data_dir)
    with doors.record.write() as session:
        session.execute(update(Study).values(state=StudyState.DELETED))
    client = program(doors)
    assert [ids(client, kind) for kind in KINDS] == [[]] * 5
