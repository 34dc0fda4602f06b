"""A hospital's day in one test: ordered in the RIS, taken by the PACS, read by the node, judged by a reader, audited.

Every part is real: DCMTK's worklist, Orthanc, an HL7 system and a workflow manager of others, the node, a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hl7
import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom import dcmread

from tests.support import hl7_peer
from tests.support.browser import chromium, log_in, new_page
from tests.support.node import Node, peer_toml
from tests.support.orthanc import Modality, Orthanc, orthanc
from tests.support.processes import eventually, free_port
from tests.support.shared import shared_dicom
from tests.support.web import PASSWORD
from tests.support.workitems import ITEM, Events, pushed, subscriber, worklist
from tests.support.worklists import wlmscpfs

pytestmark = [
    pytest.mark.e2e,
    # pynetdicom leaves the socket of a connection that nobody takes to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILM = "cxr_wrapped/wrap_09_pneumonia.dcm"
SETTINGS = """
[worklist]
peer = "worklist"

[ups]
push = true

[completeness]
quiet_period_s = 1.0

[hl7.destinations.ris]
host = "127.0.0.1"
port = {ris_port}
assigning_authority = "HOSP"

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs", "ris"]
mode = "study"
ask_worklist = true
match = {{ modality = ["CR", "DX"] }}
"""


@dataclass(frozen=True)
class Hospital:
    pacs: Orthanc
    ris: hl7_peer.Receiver
    manager: Events
    node: Node

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.web_port}"


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    with ExitStack() as stack:
        orders = stack.enter_context(wlmscpfs(tmp_path / "worklist"))
        orders.add("ACC-7", RequestedProcedurePriority="STAT", RequestedProcedureDescription="Chest AP, bedside")
        ris = stack.enter_context(hl7_peer.Receiver())
        node = Node(tmp_path / "node")
        manager_port = free_port()
        manager = stack.enter_context(subscriber(manager_port, "MANAGER"))
        here = Modality("radnode", node.ae_title, node.dicom_port)
        pacs = stack.enter_context(orthanc(tmp_path / "pacs", route_to=here))
        peers = peer_toml("worklist", orders.peer.ae_title, orders.peer.port)
        peers += peer_toml("pacs", pacs.ae_title, pacs.dicom_port)
        peers += peer_toml("manager", "MANAGER", manager_port)
        node.write_settings(peers + SETTINGS.format(ris_port=ris.port))
        node.start()
        stack.callback(node.stop)
        password = tmp_path / "password"
        password.write_text(PASSWORD)
        for name, role in (("ada", "radiologist"), ("otto", "auditor")):
            node.run("users", "add", name, "--role", role, "--password-file", str(password))
        yield Hospital(pacs, ris, manager, node)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with new_page(browser) as opened:
        yield opened


def film(folder: Path) -> Path:
    """A published radiograph under the name of the patient that was ordered for."""
    header = dcmread(shared_dicom() / FILM)
    header.PatientName, header.PatientID, header.PatientSex = "Doe^Jane", "ID-4711", "F"
    header.PatientBirthDate, header.AccessionNumber = "19700101", "ACC-7"
    file = folder / "film.dcm"
    header.save_as(file)
    return file


def push(hospital: Hospital, study: str) -> None:
    """The workflow manager asks for the study to be read, and to be told how that goes."""
    item = pushed(study, PatientName="Doe^Jane", PatientID="ID-4711")
    with worklist(hospital.node.dicom_port) as items:
        assert items.create(item) == (0x0000, "")
        assert items.subscribe(ITEM, "MANAGER") == 0x0000


def performed(hospital: Hospital) -> set[str]:
    """SOP Instance UIDs that the work item names as its output, once its manager heard that it is completed."""
    eventually("the manager hears of the end", lambda: "COMPLETED" in hospital.manager.states, timeout_s=60)
    assert hospital.manager.states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    with worklist(hospital.node.dicom_port) as items:
        status, found = items.get()
    assert (status, str(found.ProcedureStepState)) == (0x0000, "COMPLETED")
    (step,) = found.UnifiedProcedureStepPerformedProcedureSequence
    return {
        str(one.ReferencedSOPInstanceUID)
        for output in step.OutputInformationSequence
        for one in output.ReferencedSOPSequence
    }


def values(message: hl7.Message, identifier: str) -> list[str]:
    """OBX-5 of the observations with this identifier (the first component of OBX-3)."""
    return [str(one(5)) for one in message.segments("OBX") if str(one(3)).startswith(f"{identifier}^")]


def test_from_the_order_to_the_readers_verdict(
    hospital: Hospital, page: Page, browser: Browser, tmp_path: Path
) -> None:
    source = film(tmp_path)
    study = str(dcmread(source, stop_before_pixels=True).StudyInstanceUID)
    log_in(page, hospital.url, "ada")
    expect(page.get_by_text("No study has been received yet.")).to_be_visible()
    # What a new page load would lose.
    page.evaluate("window.never_reloaded = true")

    push(hospital, study)
    hospital.pacs.upload(source)
    row = page.get_by_role("row").filter(has_text="Doe, Jane")
    expect(row).to_contain_text("STAT", timeout=60_000)
    expect(row).to_contain_text("Chest AP, bedside")
    # Report, picture and message: what is looked for below is there then, wherever it went first.
    expect(row).to_contain_text("3 confirmed", timeout=60_000)
    expect(row).to_contain_text("at or above threshold")
    assert page.evaluate("window.never_reloaded")

    (job,) = hospital.node.jobs()
    assert (job["study_instance_uid"], job["priority"], job["state"]) == (study, "stat", "DONE")
    held = [hospital.pacs.tags(one) for one in hospital.pacs.instances(study)]
    (report,) = (one for one in held if one["Modality"] == "SR")
    assert (report["PreliminaryFlag"], report["PatientID"]) == ("PRELIMINARY", "ID-4711")
    assert [one["Modality"] for one in held if one["SOPClassUID"] == "1.2.840.10008.5.1.4.1.1.7"]

    made = {one["SOPInstanceUID"] for one in held if one["Modality"] in {"SR", "OT"}}
    assert performed(hospital) == made

    told = hospital.ris.take()
    assert str(told.segment("MSH")(9)) == "ORU^R01^ORU_R01"
    assert str(told.segment("PID")(3)).startswith("ID-4711^^^HOSP")
    assert str(told.segment("OBR")(18)) == "ACC-7"
    assert str(told.segment("OBR")(25)) == "P"
    assert values(told, "233604007") == ["52101004^Present^SCT"]
    assert values(told, "110180") == [study]
    assert any(said.startswith("AI-generated preliminary result") for said in values(told, "121106"))
    (sent,) = hospital.node.json("hl7", "sent")
    assert (sent["answer"], sent["control_id"]) == ("AA", str(told.segment("MSH")(10)))

    row.get_by_role("link").click()
    # Offered where the script runs that listens for them.
    expect(page.get_by_label(re.compile("^Keys:"))).to_be_visible(timeout=30_000)
    page.keyboard.press("c")
    page.keyboard.type("skin fold")
    page.get_by_role("heading", name="Your verdict").click()
    page.keyboard.press("r")
    said = page.get_by_role("listitem").filter(has_text="the model said present")
    expect(said).to_contain_text("rejected", timeout=30_000)

    with new_page(browser) as auditor:
        log_in(auditor, hospital.url, "otto")
        auditor.get_by_role("link", name="Audit").click()
        auditor.get_by_label("Event").select_option("finding_judged")
        auditor.get_by_role("button", name="Filter").click()
        entry = auditor.get_by_role("row").filter(has_text="ada")
        expect(entry).to_contain_text(study)
        expect(entry).to_contain_text(re.compile("verdict: *reject"))
        # The comment may name a patient: it is no part of the audit.
        expect(auditor.get_by_text("skin fold")).to_have_count(0)
