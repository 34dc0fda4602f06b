"""FHIR resources: one shape, whatever a peer wrote into the values, and ids that lead back to what they are of."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from db.fhir_view import Key, ModelMatter, SeriesMatter, StudyMatter, Work
from db.states import JobState
from node.settings_fhir import Fhir, FhirDestination
from node.worklist.fhir import ids
from node.worklist.fhir.bundles import UnsendableResult, transaction
from node.worklist.fhir.client import Server, Verdict, judge, retry_after_s
from node.worklist.fhir.models import InvalidResource, checked
from node.worklist.fhir.resources import TASK_STATES, Writer, device
from tests.support.fhir_server import FhirServer

HOSTILE = st.text(
    alphabet=st.one_of(st.sampled_from("^=\\|,<>&\"'{}\r\n\t\0\x1b\x85\xa0\u2028\u202e\ud800\ufeff "), st.characters()),
    max_size=70,
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT_UID = f"2.25.{uuid.UUID('f81d4fae-7dec-51d0-a765-00a0c91e6bf6').int}"
STUDY = StudyMatter(
    id=1,
    study_instance_uid="1.2.840.99",
    patient_id="ID-1",
    issuer="",
    patient_name="Müller^Eva^^Dr=山田^花子",
    accession_number="ACC-1",
    ordered="ACC-1",
    study_date="20260301",
    description="Chest PA",
    last_received_at=NOW,
    series=(SeriesMatter("1.2.840.99.1", "CR", 2),),
)
FINDING = {
    "label": "pneumonia",
    "code": ["233604007", "SCT", "Pneumonia"],
    "presence": "absent",
    "probability": 0.05,
    "threshold": 0.5,
    "priority": "stat",
}
SUMMARY: dict[str, Any] = {
    "images": [
        {"sop_instance_uid": "1.2.3", "analysed": True, "findings": [FINDING]},
        {"sop_instance_uid": "1.2.4", "analysed": False, "reason": "lateral view"},
    ]
}
WORK = Work(
    job_id="5a0f3c52-0000-4000-8000-000000000001",
    study=STUDY,
    model="cxr-pneumonia",
    model_version="1.1.0",
    model_digest="ab" * 32,
    state=JobState.DONE,
    reason="",
    priority="urgent",
    created_at=NOW,
    started_at=NOW,
    finished_at=NOW,
    summary=SUMMARY,
    report_uid=REPORT_UID,
    replaces="",
    replaced_at=None,
    key=Key(1, "cxr-pneumonia"),
)
MODEL = ModelMatter("cxr-pneumonia", "1.1.0", "ab" * 32, {"name": "Chest", "weights_sha256": "cd" * 32})
WRITER = Writer(Fhir(accession_system="urn:oid:1.9", wado_url="https://pacs.example.org/wado"))


def every(work: Work, writer: Writer = WRITER) -> list[dict[str, Any]]:
    study = writer.imaging_study_of(work.study)
    return [writer.report(work), *writer.observations(work), writer.task(work), study, device(MODEL)]


def holds(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource as it comes over the wire, which the models of R4's resources take."""
    wire: dict[str, Any] = json.loads(json.dumps(resource, ensure_ascii=False).encode("utf-8"))
    assert wire == resource
    kind = wire["resourceType"]
    getattr(import_module(f"fhir.resources.R4B.{kind.lower()}"), kind).model_validate(wire)
    return wire


def test_an_observation_has_this_shape() -> None:
    (told,) = WRITER.observations(WORK)
    sct, dcm, hl7 = (
        "http://snomed.info/sct",
        "http://dicom.nema.org/resources/ontology/DCM",
        "http://terminology.hl7.org/CodeSystem",
    )
    ucum = {"unit": "1", "system": "http://unitsofmeasure.org", "code": "1"}
    acsn = {"coding": [{"system": f"{hl7}/v2-0203", "code": "ACSN"}]}
    order = {"type": "ServiceRequest", "identifier": {"type": acsn, "system": "urn:oid:1.9", "value": "ACC-1"}}
    mr = {"coding": [{"system": f"{hl7}/v2-0203", "code": "MR"}]}
    assert holds(told) == {
        "resourceType": "Observation",
        "id": "f81d4fae-7dec-51d0-a765-00a0c91e6bf6-ac2c7317b8c1df10",
        "meta": {"lastUpdated": "2026-03-01T12:00:00.000Z"},
        "basedOn": [order],
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{hl7}/observation-category", "code": "imaging"}]}],
        "code": {"coding": [{"system": sct, "code": "233604007", "display": "Pneumonia"}], "text": "Pneumonia"},
        "subject": {"type": "Patient", "identifier": {"type": mr, "value": "ID-1"}, "display": "Dr Eva Müller"},
        "effectiveDateTime": "2026-03-01",
        "issued": "2026-03-01T12:00:00.000Z",
        # Absent is said, and is no statement that something is normal: it has no interpretation.
        "valueCodeableConcept": {
            "coding": [{"system": sct, "code": "272519000", "display": "Absent"}],
            "text": "Absent",
        },
        "note": [{"text": "AI-generated preliminary result, not verified by a physician. Not for clinical use."}],
        "device": {"reference": f"Device/{'ab' * 32}", "type": "Device"},
        "derivedFrom": [
            {
                "reference": "ImagingStudy/1.2.840.99",
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.99"},
            }
        ],
        "component": [
            {
                "code": {
                    "coding": [{"system": dcm, "code": "122157", "display": "Probability"}],
                    "text": "Probability",
                },
                "valueQuantity": {"value": 0.05, **ucum},
            },
            {"code": {"text": "Threshold of the operating point"}, "valueQuantity": {"value": 0.5, **ucum}},
            {
                "code": {
                    "coding": [{"system": dcm, "code": "121112", "display": "Source of Measurement"}],
                    "text": "Image",
                },
                "valueString": "urn:oid:1.2.3",
            },
        ],
    }


def test_the_others_say_what_they_must() -> None:
    report, _, task, study, model = map(holds, every(WORK))
    assert report["id"] == "f81d4fae-7dec-51d0-a765-00a0c91e6bf6"
    assert report["conclusion"].startswith(
        "Absent: Pneumonia (probability 0.05, threshold 0.50). Not analysed: lateral view. AI-generated"
    )
    assert (task["status"], task["priority"], task["intent"]) == ("completed", "urgent", "order")
    assert study["endpoint"][0]["reference"] == "#wado"
    assert study["contained"][0]["address"] == "https://pacs.example.org/wado"
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (1, 2)
    cleared = holds(WRITER.imaging_study_of(replace(STUDY, series=())))
    assert not cleared.keys() & {"series", "numberOfSeries", "numberOfInstances", "modality"}
    assert model["deviceName"] == [{"name": "Chest", "type": "model-name"}]
    assert (model["id"], model["version"]) == ("ab" * 32, [{"value": "1.1.0"}])


def test_every_state_of_a_job_is_one_of_a_task() -> None:
    assert set(TASK_STATES) == set(JobState)
    for state in JobState:
        holds(WRITER.task(replace(WORK, state=state, finished_at=None, reason="because")))


@examples(max_examples=60, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_whatever_a_peer_writes_the_resources_are_valid_and_identifiers_whole(
    name: str, number: str, words: str, modality: str, day: str
) -> None:
    study = replace(
        STUDY,
        patient_name=name,
        patient_id=number,
        issuer=words,
        accession_number=number,
        ordered=number,
        description=words,
        study_date=day,
        series=(SeriesMatter("1.2.840.99.1", modality, 1),),
    )
    images = [{**FINDING, "code": ["1", words, "Meaning"]}], {"sop_instance_uid": "1", "reason": words}
    summary = {"images": [{"sop_instance_uid": "1.2.3", "analysed": True, "findings": images[0]}, images[1]]}
    work = replace(WORK, study=study, summary=summary, reason=words, model=words or "m")
    told = [holds(one) for one in every(work)]
    subject = told[0]["subject"]
    if "identifier" in subject:
        assert subject["identifier"]["value"] == number.strip()
        assert holds(checked(transaction(work, [], WRITER, "https://fhir.example.org")))
    else:
        with pytest.raises(UnsendableResult):
            transaction(work, [], WRITER, "https://fhir.example.org")
    assert subject.get("display") or subject.get("identifier")
    assert not any(0xD800 <= ord(c) < 0xE000 or ord(c) < 0x20 for c in json.dumps(told, ensure_ascii=False))


@given(st.integers(0, 2**128 - 1))
def test_a_reports_id_leads_back_to_its_uid(number: int) -> None:
    uid = f"2.25.{number}"
    assert ids.report_uid(ids.report_id(uid)) == uid
    observation = ids.observation_id(ids.report_id(uid), "1.2.3", "pneumonia")
    assert ids.report_of_observation(observation) == ids.report_id(uid)
    assert len(observation) <= 64


@given(HOSTILE)
def test_no_other_id_leads_anywhere(text: str) -> None:
    assert ids.report_uid(text) in ("", text.strip())
    assert ids.report_uid(ids.report_of_observation(text)) == "" or "-" in text


def test_ids_differ_where_what_they_are_of_differs() -> None:
    report = ids.report_id(REPORT_UID)
    made = {ids.observation_id(*parts) for parts in ((report, "1.2", "a"), (report, "1.2", "b"), (report, "1.3", "a"))}
    assert len(made) == 3
    assert ids.observation_id(report, "1.2", "a") in made
    for uid in ("1.2.840.99.9.1", f"2.25.{2**128}", "2.25.01"):
        assert ids.report_id(uid) == uid


def test_what_is_no_resource_is_refused_without_being_quoted() -> None:
    with pytest.raises(InvalidResource) as refused:
        checked({"resourceType": "Task", "status": "Doe^Jane", "intent": ["order"]})
    assert "Doe" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.FAILED),
        (204, Verdict.CLOSED),
        (301, Verdict.CLOSED),
        (400, Verdict.REFUSED),
        (401, Verdict.CLOSED),
        (409, Verdict.REFUSED),
        (412, Verdict.REFUSED),
        (422, Verdict.REFUSED),
        (429, Verdict.BUSY),
        (500, Verdict.FAILED),
        (503, Verdict.BUSY),
    ],
)
def test_an_answer_is_judged_by_its_status(status: int, verdict: Verdict) -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"code": "Doe^Jane"}, {"code": "conflict"}, "x", {}]}
    answer = judge(status, outcome, 3)
    assert answer.verdict is verdict
    assert "Doe" not in answer.said
    assert status < 400 or "(conflict)" in answer.said


@pytest.mark.parametrize(("said", "shown"), [("4.0.1", "4.0.1"), ("4.0.1.1.1.1.1 Doe^Jane", "unknown")])
def test_a_servers_version_is_shown_where_it_is_one(said: str, shown: str) -> None:
    with FhirServer(version=said) as peer, Server(peer.destination(), 5.0) as server:
        assert server.capability() == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://fhir.example.org/R4",
        "https://user:secret@fhir.example.org/R4",
        "https://fhir.example.org/R4?x=1",
        "https://fhir.example.org/R4#a",
        "https:///R4",
        "ftp://127.0.0.1/R4",
        "https://fhir.example.org:99999/R4",
        "https://fhir.example.org/R 4",
        "fhir.example.org",
    ],
)
def test_an_address_that_would_leak_or_lead_nowhere_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        FhirDestination(url=url)


def test_addresses_that_may_be_sent_to() -> None:
    assert FhirDestination(url="https://fhir.example.org/R4/").url == "https://fhir.example.org/R4"
    assert FhirDestination(url="http://127.0.0.1:8080/R4").url == "http://127.0.0.1:8080/R4"
    with pytest.raises(ValueError, match="not both"):
        FhirDestination(url="https://fhir.example.org", token_file="/a", token_variable="B")


def test_retry_after_is_seconds_or_a_date_and_bounded() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert retry_after_s("120") == 120
    assert retry_after_s("9" * 400) == 86400
    assert retry_after_s("Sun, 01 Mar 2026 12:00:30 GMT", now) == 30
    assert retry_after_s("Sun, 01 Mar 2020 12:00:30 GMT", now) == 0
    assert retry_after_s(f"Sun, 01 Mar {'9' * 20} 12:00:30 GMT") == 0
    assert retry_after_s(f"Sun, 01 Mar 2026 12:00:30 +{'9' * 20}") == 0
    assert retry_after_s("soon") == retry_after_s("") == retry_after_s("-5") == 0
