"""Operations, the rule tester, models and the audit, as the people see them who run the node."""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from db import audit, deliveries, model_versions, readings, workitems
from db.model_versions import NewModelVersion
from db.readings import NewReading
from models.registry import SHIPPED, load_bundle
from node.settings import Peer, Settings
from node.web import audit_page
from node.web.app import create_app
from tests.support.dcmtk import storescp
from tests.support.listening import chest_file
from tests.support.records import image, receive
from tests.support.web import Site, csrf_of, site
from tests.support.web_studies import HOSTILE, read_study
from tests.support.workitems import new as new_workitem

MODEL = "cxr-pneumonia"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def with_peers(ward: Site, **peers: Peer) -> None:
    ward.settings = Settings(data_dir=ward.settings.data_dir, peers=peers)
    ward.app = create_app(ward.settings, ward.record)


def post(browser: TestClient, path: str, **fields: str) -> Any:
    return browser.post(path, data={"csrf_token": csrf_of(browser.get("/").text), **fields})


def bury(ward: Site, job: str) -> None:
    with ward.record.write() as session:
        for one in deliveries.claim(session, job, "pacs", "sender", lease_s=60):
            deliveries.bury(session, one, "sender", reason="refused: out of disk")


def test_operations_tell_what_is_wrong_and_let_it_be_tried_again(ward: Site) -> None:
    made = read_study(ward.record, ward.settings.data_dir)
    bury(ward, made.job)
    pacs = Peer(ae_title="PACS", host="127.0.0.1", silent_after_min=30)
    with_peers(ward, pacs=pacs, modality=Peer(ae_title="MODALITY", host="127.0.0.1", silent_after_min=60))
    with ward.record.write() as session:
        audit.note(session, "association_rejected", actor=HOSTILE, outcome="failure", address="192.0.2.9")
    browser = ward.logged_in("ada", "pacs-admin")
    page = browser.get("/operations").text
    for told in (
        *("No study has ever come from pacs (PACS).", "refused: out of disk", "from routing to the result", "p95"),
        *("192.0.2.9", "&lt;script&gt;", "Free disk", "cxr-sample"),
    ):
        assert told in page, told
    assert "No study from modality" not in page
    metrics = ward.browser().get("/metrics").text
    assert 'radnode_peer_silent{peer="pacs"} 1.0' in metrics
    assert 'radnode_peer_silent{peer="modality"} 0.0' in metrics
    assert 'radnode_turnaround_seconds{quantile="0.95",stage="whole"}' in metrics
    engineer = ward.logged_in("mel", "ml-engineer")
    assert "Try again" not in engineer.get("/operations").text
    assert post(engineer, "/operations/retry", destination="pacs").status_code == 403
    again = post(browser, "/operations/retry", destination="pacs", job=made.job)
    assert (again.status_code, again.headers["location"]) == (303, "/operations#given-up")
    assert {note.actor for note in ward.audited("delivery_retried")} == {"ada"}
    assert post(browser, "/operations/retry", destination="pacs").status_code == 409
    assert post(browser, "/operations/retry").status_code == 422


def test_work_items_of_other_systems_are_counted(ward: Site) -> None:
    browser = ward.logged_in("ada", "pacs-admin")
    assert "Pushed work items" not in browser.get("/operations").text
    with ward.record.write() as session:
        workitems.create(session, new_workitem())
    page = browser.get("/operations").text
    assert re.search(r"Pushed work items</th><td>scheduled</td><td class=\"number\">1<", page)


# pynetdicom leaves the socket of a connection that nobody takes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_is_asked_for_an_echo_and_no_address_of_a_form(ward: Site) -> None:
    folder = ward.settings.data_dir / "archive"
    folder.mkdir()
    with storescp(folder, ae_title="ARCHIVE") as port:
        with_peers(
            ward,
            pacs=Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port),
            gone=Peer(ae_title="GONE", host="127.0.0.1", port=9),
        )
        browser = ward.logged_in("ada", "pacs-admin")
        assert "It answers." in post(browser, "/operations/peers/pacs/echo").text
        assert "Check that it runs" in post(browser, "/operations/peers/gone/echo").text
        assert post(browser, "/operations/peers/EVIL@192.0.2.1:104/echo").status_code == 404


# A-ASSOCIATE-RJ, for good, by the service user, without a reason (PS3.8 table 9-21).
REFUSED = bytes.fromhex("03 00 00000004 00 01 01 01")


def test_peers_that_do_not_answer_leave_threads_for_other_pages(ward: Site) -> None:
    asked, may_answer = threading.Semaphore(0), threading.Event()

    def answer_late(peer: socket.socket) -> None:
        with peer:
            if peer.recv(1):
                asked.release()
                may_answer.wait(30)
                peer.sendall(REFUSED)
                while peer.recv(4096):
                    pass

    def listen(quiet: socket.socket) -> None:
        while True:
            try:
                peer, _ = quiet.accept()
            except OSError:
                return
            threading.Thread(target=answer_late, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as quiet, ThreadPoolExecutor(4) as pool:
        threading.Thread(target=listen, args=(quiet,), daemon=True).start()
        with_peers(ward, mute=Peer(ae_title="MUTE", host="127.0.0.1", port=quiet.getsockname()[1]))
        browser = ward.logged_in("ada", "pacs-admin")
        token = {"csrf_token": csrf_of(browser.get("/").text)}
        first = [pool.submit(browser.post, "/operations/peers/mute/echo", data=token) for _ in range(4)]
        assert all(asked.acquire(timeout=20) for _ in first)
        assert browser.post("/operations/peers/mute/echo", data=token).status_code == 503
        may_answer.set()
        assert {one.result().status_code for one in first} == {200}
        assert browser.post("/operations/peers/mute/echo", data=token).status_code == 200
        quiet.shutdown(socket.SHUT_RDWR)


def test_the_rule_tester_explains_and_keeps_nothing(ward: Site) -> None:
    file = chest_file(
        ward.settings.data_dir, "elsewhere.dcm", PatientName="Doe^Jane", StudyDescription="Jane Doe chest"
    )
    before = sorted(ward.settings.data_dir.rglob("*"))
    browser = ward.logged_in("ada", "pacs-admin")
    headers = {"x-csrf-token": csrf_of(browser.get("/").text), "content-type": "application/octet-stream"}
    address = "/operations/route-test?calling_ae=CT1"
    whole = browser.post(address, content=file.read_bytes(), headers=headers)
    head = browser.post(address, content=file.read_bytes()[:1500], headers=headers)
    assert whole.status_code == head.status_code == 200
    for told in ("chest-radiographs", "matches", "modality", "CT1", MODEL):
        assert told in whole.text, told
    assert "Jane" not in whole.text
    bomb = dcmread(file)
    bomb.PixelData, bomb.file_meta.TransferSyntaxUID = bytes(5 << 20), DeflatedExplicitVRLittleEndian
    bomb.save_as(file)
    bombed = browser.post(address, content=file.read_bytes(), headers=headers)
    assert (bombed.status_code, "too large" in bombed.text) == (422, True)
    refused = browser.post(address, content=b"no dicom at all", headers=headers)
    assert refused.status_code == 422
    assert browser.post(address, content=file.read_bytes()).status_code == 403
    after = sorted(ward.settings.data_dir.rglob("*"))
    assert [path for path in after if path not in before and "radnode.db" not in path.name] == []


def install(ward: Site, version: str) -> str:
    """The shipped bundle under another version, as an installed one that has answered its test vectors."""
    temporary = ward.settings.data_dir / "bundle"
    shutil.copytree(SHIPPED / MODEL, temporary)
    manifest = json.loads((temporary / "model.json").read_text())
    edges = [number / 10 for number in range(11)]
    manifest["evaluation"]["reference"] = {"scores": {"pneumonia": {"edges": edges, "counts": [20] * 10}}}
    (temporary / "model.json").write_text(json.dumps({**manifest, "version": version}))
    digest = load_bundle(temporary).identity.bundle_digest
    (ward.settings.data_dir / "models").mkdir(exist_ok=True)
    temporary.rename(ward.settings.data_dir / "models" / digest)
    new = NewModelVersion(MODEL, version, digest, f"models/{digest}", "a" * 64, "")
    with ward.record.write() as session:
        model_versions.install(session, new, actor="t")
        model_versions.validated(session, MODEL, version, actor="t")
    return digest


def test_an_engineer_activates_shadows_and_rolls_back(ward: Site) -> None:
    digest = install(ward, "9.1.0")
    install(ward, "9.2.0")
    mel, ada = ward.logged_in("mel", "ml-engineer"), ward.logged_in("ada", "radiologist")
    assert "Activate" not in ada.get("/models").text
    for path in ("9.1.0/activate", "9.1.0/shadow", "rollback"):
        assert post(ada, f"/models/{MODEL}/{path}").status_code == 403
    page = mel.get("/models").text
    for told in ("9.1.0", "validated", "came with the node", "AUROC", "kermany224"):
        assert told in page, told
    assert post(mel, f"/models/{MODEL}/9.1.0/activate").status_code == 303
    assert post(mel, f"/models/{MODEL}/9.2.0/shadow").status_code == 303
    assert "reads along" in mel.get("/models").text
    assert post(mel, f"/models/{MODEL}/9.1.0/activate").status_code == 409
    assert post(mel, f"/models/{MODEL}/rollback").status_code == 303
    assert post(mel, f"/models/{MODEL}/0.0.9/activate").status_code == 400
    for event in ("model_activated", "model_shadowed", "model_rolled_back"):
        assert [note.actor for note in ward.audited(event)] == ["mel"], event
    weights = ward.settings.data_dir / "models" / digest / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = post(mel, f"/models/{MODEL}/9.1.0/activate")
    assert damaged.status_code == 400
    assert "weights.npz" in damaged.text


def test_a_models_page_tells_its_card_agreement_and_drift(ward: Site) -> None:
    install(ward, "9.1.0")
    for number, verdict in enumerate(("accept", "accept", "reject")):
        new = NewReading("1.2.3", f"job-{number}", MODEL, "9.1.0", "1.2.3.4", "pneumonia", "present", verdict)
        with ward.record.write() as session:
            readings.add(session, new, reader="ada")
    browser = ward.logged_in("ada", "radiologist")
    page = browser.get(f"/models/{MODEL}/9.1.0").text
    for told in ("0.667 (0.208\N{EN DASH}0.939)", "score: pneumonia", "says nothing", "Sensitivity", "Model card"):
        assert told in page, told
    shipped = browser.get(f"/models/{MODEL}/{load_bundle(SHIPPED / MODEL).manifest.version}").text
    assert "No reader has judged" in shipped
    assert browser.get(f"/models/{MODEL}/0.0.1").status_code == 404
    assert browser.get("/models/..%2F..%2Fetc/passwd").status_code == 404


def test_an_export_in_several_reads_is_whole_and_in_order(ward: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "EXPORT_ROWS", 2)
    with ward.record.write() as session:
        for number in range(5):
            audit.note(session, "study_viewed", actor="ada", subject=f"5.{number}")
            audit.note(session, "logout", actor="ada")
    browser = ward.logged_in("aud", "auditor")
    for export in ("jsonl", "csv"):
        told = browser.get(f"/audit/export?event=study_viewed&format={export}").text.splitlines()
        rows = csv.DictReader(told) if export == "csv" else map(json.loads, told)
        assert [row["subject"] for row in rows] == [f"5.{number}" for number in range(5)]


def test_an_auditor_filters_and_exports_and_that_is_on_record(ward: Site) -> None:
    receive(ward.record, image(1, "5.1"))
    with ward.record.write() as session:
        audit.note(session, "association_rejected", actor="=HYPERLINK(1)", outcome="failure", reason=HOSTILE)
        audit.note(session, "study_viewed", actor="ada", subject="5.1")
    browser = ward.logged_in("aud", "auditor")
    page = browser.get("/audit?event=study_viewed&actor=ada").text
    assert "5.1" in page
    assert "association rejected</th>" not in page
    everything = browser.get("/audit").text
    assert "&lt;script&gt;document.title" in everything
    rows = list(csv.DictReader(StringIO(browser.get("/audit/export?format=csv&outcome=failure").text)))
    assert [(row["event"], row["actor"]) for row in rows] == [("association_rejected", "'=HYPERLINK(1)")]
    lines = [json.loads(line) for line in browser.get("/audit/export?event=study_viewed").text.splitlines()]
    assert [(line["actor"], line["subject"]) for line in lines] == [("ada", "5.1")]
    used = [(note.actor, note.detail["how"]) for note in ward.audited("audit_used")]
    assert used == [("aud", "page"), ("aud", "page"), ("aud", "export as csv"), ("aud", "export as jsonl")]
    for wrong in ("event=no_such", "outcome=maybe", "since=yesterday", "before=0", "format=xml"):
        path = "/audit/export" if "format" in wrong else "/audit"
        assert browser.get(f"{path}?{wrong}").status_code == 422, wrong
    assert browser.get("/audit?since=2026-01-01T00:00&until=2100-01-01T00:00").status_code == 200
    assert ward.logged_in("ada", "pacs-admin").get("/audit").status_code == 403
