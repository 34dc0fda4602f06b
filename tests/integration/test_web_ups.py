"""UPS-RS for programs: the work items of this node's worklist, by the same rules as over DIMSE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from db.workitem_tables import WorkitemSubscriber, WorkitemSubscription, WorkitemTiding
from node.web import ups_rs
from tests.support.ups_manager import code, work_item
from tests.support.web import Site, site

BASE = "/dicom-web/workitems"
JSON = {"content-type": "application/dicom+json", "accept": "application/dicom+json"}
STUDY = "1.2.840.99"
EVERYTHING = "1.2.840.10008.5.1.4.34.5"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("RADNODE_UPS", '{"push": true, "most_open": 20}')
    monkeypatch.setenv("RADNODE_PEERS", '{"ris": {"ae_title": "RIS", "host": "127.0.0.1"}}')
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def program(served: Site) -> TestClient:
    """One that may do all there is to do with work items."""
    client = served.browser()
    client.headers.update({**JSON, **served.key("workitems:read", "workitems:write")})
    return client


def item(**more: Any) -> Dataset:
    made = work_item(STUDY, f"{STUDY}.1", **more)
    made.PatientName = "Doe^Jane"
    made.ProcedureStepLabel = "Chest"
    made.ScheduledProcedureStepStartDateTime = "20261125120000"
    return made


def body(dataset: Dataset) -> str:
    return json.dumps([dataset.to_json_dict()])


def create(program: TestClient, made: Dataset) -> str:
    answer = program.post(BASE, content=body(made))
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith(f"{BASE}/{made.SOPInstanceUID}")
    return str(made.SOPInstanceUID)


def state(uid: str, program: TestClient) -> str:
    (found,) = program.get(f"{BASE}/{uid}").json()
    return str(found["00741000"]["Value"][0])


def claim(program: TestClient, uid: str, lock: str, wanted: str = "IN PROGRESS") -> Any:
    told = Dataset()
    told.ProcedureStepState, told.TransactionUID = wanted, lock
    return program.put(f"{BASE}/{uid}/state", content=body(told))


def performed() -> Dataset:
    done = Dataset()
    done.PerformedStationNameCodeSequence = [code("HERE")]
    done.PerformedWorkitemCodeSequence = [code("110004", "DCM")]
    done.PerformedProcedureStepStartDateTime = "20261125120000"
    done.PerformedProcedureStepEndDateTime = "20261125120100"
    done.OutputInformationSequence = []
    told = Dataset()
    told.UnifiedProcedureStepPerformedProcedureSequence = [done]
    return told


def test_a_work_item_is_created_claimed_changed_and_completed(served: Site, program: TestClient) -> None:
    uid, lock = create(program, item()), generate_uid()
    assert program.post(BASE, content=body(item(SOPInstanceUID=uid))).status_code == 409
    assert claim(program, uid, lock, "COMPLETED").status_code == 409
    assert claim(program, uid, lock).status_code == 200
    assert claim(program, uid, lock).status_code == 409
    # Whoever does not hold the lock changes nothing.
    assert program.post(f"{BASE}/{uid}", content=body(performed())).status_code == 400
    assert claim(program, uid, generate_uid(), "COMPLETED").status_code == 400
    assert claim(program, uid, lock, "COMPLETED").status_code == 409
    assert program.post(f"{BASE}/{uid}?transaction-uid={lock}", content=body(performed())).status_code == 200
    assert claim(program, uid, lock, "COMPLETED").status_code == 200
    assert "already" in claim(program, uid, lock, "COMPLETED").headers["warning"]
    (found,) = program.get(f"{BASE}/{uid}").json()
    assert found["00741000"]["Value"] == ["COMPLETED"]
    assert lock not in json.dumps(found)
    events = [
        (row.actor, row.detail.get("state") or row.detail.get("asked")) for row in served.audited("workitem_changed")
    ]
    assert events == [("key program", one) for one in ("IN PROGRESS", "IN PROGRESS", "COMPLETED")]
    assert [row.actor for row in served.audited("workitem_received")] == ["key program"]


def test_what_is_asked_to_be_canceled(program: TestClient) -> None:
    waiting, claimed = create(program, item()), create(program, item())
    assert program.post(f"{BASE}/{waiting}/cancelrequest").status_code == 202
    assert state(waiting, program) == "CANCELED"
    assert claim(program, claimed, generate_uid()).status_code == 200
    # Nobody is subscribed who could be asked.
    assert program.post(f"{BASE}/{claimed}/cancelrequest").status_code == 409
    assert program.post(f"{BASE}/{generate_uid()}/cancelrequest").status_code == 404


def test_searching_by_attributes_a_page_at_a_time(served: Site, program: TestClient) -> None:
    uids = [create(program, item(priority="HIGH" if n == 1 else "LOW")) for n in range(3)]
    found = program.get(BASE, params={"ScheduledProcedureStepPriority": "HIGH", "includefield": "AdmissionID"})
    assert [one["00080018"]["Value"] for one in found.json()] == [[uids[1]]]
    assert found.headers["content-type"] == "application/dicom+json"
    # The input is long, and was not asked for.
    assert "00404021" not in found.json()[0]
    assert "00404021" in program.get(BASE, params={"includefield": "all"}).json()[0]
    first = program.get(BASE, params={"limit": "2", "00741000": "SCHEDULED"})
    assert "more" in first.headers["warning"]
    second = program.get(BASE, params={"limit": "2", "offset": "2"})
    assert [one["00080018"]["Value"][0] for one in [*first.json(), *second.json()]] == uids
    for key, value in (
        ("ScheduledStationNameCodeSequence.CodeValue", "OTHER"),
        ("PatientID", "ID-2"),
        ("SOPInstanceUID", generate_uid()),
    ):
        assert program.get(BASE, params={key: value}).status_code == 204
    assert len(program.get(BASE, params={"PatientName": "doe*", "SOPInstanceUID": ",".join(uids[:2])}).json()) == 2
    assert "fuzzymatching" in program.get(BASE, params={"fuzzymatching": "true"}).headers["warning"]
    assert {row.actor for row in served.audited("patients_shown")} == {"key program"}


@pytest.mark.parametrize(
    "query",
    [
        "NoSuchAttribute=1",
        "limit=0",
        "limit=many",
        "offset=-1",
        "TransactionUID=1.2.3",
        "PatientID.CodeValue=1",
        "InputInformationSequence=1",
        "offset=99999999999",
        "&".join(f"PatientID={n}" for n in range(40)),
    ],
)
def test_searches_that_make_no_sense_are_refused(program: TestClient, query: str) -> None:
    answer = program.get(f"{BASE}?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_xml_is_refused_both_ways_and_so_is_what_is_no_data_set(program: TestClient) -> None:
    xml = {"content-type": "application/dicom+xml"}
    assert program.post(BASE, content="<NativeDicomModel/>", headers=xml).status_code == 415
    assert program.get(BASE, headers={"accept": "application/dicom+xml"}).status_code == 406
    uid = create(program, item())
    assert program.get(f"{BASE}/{uid}", headers={"accept": "application/dicom+xml"}).status_code == 406
    for nonsense in (
        "",
        "[",
        "[]",
        "[{}, {}]",
        '"x"',
        "[" * 5000,
        '{"PatientID": 1}',
        '{"00100020": 5}',
        '{"00100020": {}}',
    ):
        assert program.post(BASE, content=nonsense).status_code in {400, 415}, nonsense
    deep: Any = {}
    for _ in range(300):
        deep = {"00404021": {"vr": "SQ", "Value": [deep]}}
    assert program.post(BASE, content=json.dumps(deep)).status_code == 400
    assert program.post(BASE, content=b" " * (600 * 1024)).status_code == 413


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("ProcedureStepState", "IN PROGRESS"),
        ("ProcedureStepLabel", None),
        ("ScheduledProcedureStepPriority", "SOON"),
        ("InputInformationSequence", []),
    ],
)
def test_items_that_the_standard_does_not_let_be_created(program: TestClient, attribute: str, value: Any) -> None:
    made = item()
    if value is None:
        delattr(made, attribute)
    else:
        setattr(made, attribute, value)
    answer = program.post(BASE, content=body(made))
    assert answer.status_code == 400
    assert "Doe" not in answer.text
    assert program.get(BASE).status_code == 204


def test_a_page_holds_no_more_than_it_may(program: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [create(program, item()) for _ in range(3)]
    monkeypatch.setattr(ups_rs, "MOST_ANSWER_BYTES", 5000)
    seen: list[str] = []
    while len(seen) < len(uids):
        answer = program.get(BASE, params={"includefield": "all", "offset": str(len(seen))})
        assert 0 < len(answer.json()) < len(uids)
        assert ("more" in answer.headers.get("warning", "")) is (len(seen) + len(answer.json()) < len(uids))
        seen += [one["00080018"]["Value"][0] for one in answer.json()]
    assert seen == uids


def test_a_full_worklist_takes_no_more(program: TestClient) -> None:
    for _ in range(20):
        create(program, item())
    assert program.post(BASE, content=body(item())).status_code == 503


def test_peers_that_subscribe_hear_by_dicom(served: Site, program: TestClient) -> None:
    uid = create(program, item())
    assert program.post(f"{BASE}/{uid}/subscribers/{'A' * 17}").status_code == 400
    answer = program.post(f"{BASE}/{uid}/subscribers/RIS?deletionlock=true")
    assert answer.status_code == 201
    assert "N-EVENT-REPORT" in answer.headers["warning"]
    assert program.post(f"{BASE}/{EVERYTHING}/subscribers/RIS").status_code == 201
    with served.record.read() as session:
        assert session.scalars(select(WorkitemSubscription.deletion_lock)).all() == [True]
        assert session.scalars(select(WorkitemSubscriber.ae_title)).all() == ["RIS"]
        assert len(session.scalars(select(WorkitemTiding)).all()) == 1
    # Now there is somebody to be asked.
    assert claim(program, uid, generate_uid()).status_code == 200
    assert program.post(f"{BASE}/{uid}/cancelrequest").status_code == 202
    assert program.post(f"{BASE}/{EVERYTHING}/subscribers/RIS/suspend").status_code == 200
    assert program.delete(f"{BASE}/{uid}/subscribers/RIS").status_code == 200
    filtered = f"{BASE}/{EVERYTHING}.1/subscribers/RIS"
    assert program.post(filtered, params={"filter": "ScheduledProcedureStepPriority=HIGH"}).status_code == 201
    with served.record.read() as session:
        assert session.scalars(select(WorkitemSubscription.ae_title)).all() == []
        (matching,) = session.scalars(select(WorkitemSubscriber.matching)).all()
    assert matching["00741200"]["Value"] == ["HIGH"]
    assert program.delete(f"{BASE}/{EVERYTHING}/subscribers/RIS").status_code == 200


def test_each_scope_permits_what_it_says(served: Site, program: TestClient) -> None:
    uid = create(program, item())
    reader, writer, other = (
        {**JSON, **served.key(scope, name=scope)} for scope in ("workitems:read", "workitems:write", "studies:read")
    )
    stranger = served.browser()
    for headers, reads, writes in ((reader, 200, 403), (writer, 403, 409), (other, 403, 403), (JSON, 401, 401)):
        assert stranger.get(f"{BASE}/{uid}", headers=headers).status_code == reads
        assert stranger.post(BASE, content=body(item(SOPInstanceUID=uid)), headers=headers).status_code == writes


def test_nothing_is_served_where_nothing_is_pushed(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        headers = {**JSON, **made.key("workitems:read")}
        assert made.browser().get(BASE, headers=headers).status_code == 404
