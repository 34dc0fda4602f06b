"""Makes the pictures of the pages from a running node: ``python -m docs.screenshots [FOLDER]``, by default docs/images.

A worklist (DCMTK), a PACS (Orthanc), an HL7 system and a node are started on free loopback ports; published radiographs
are ordered, routed and read; a reader judges; Chromium looks at every page, light and dark, wide and narrow.
What it shows is what the shipped bundle said; names and numbers of patients are made up.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, Page
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.browser import chromium, log_in
from tests.support.hl7_peer import Receiver
from tests.support.node import Node, peer_toml
from tests.support.orthanc import Modality, Orthanc, orthanc
from tests.support.web import PASSWORD
from tests.support.worklists import Worklist, wlmscpfs

ROOT = Path(__file__).resolve().parents[1]
FILMS = ROOT / "workers" / "demo" / "data"
SETTINGS = """
[web]
viewer_url = "https://pacs.example.org/viewer?StudyInstanceUIDs={{study_instance_uid}}"

[worklist]
peer = "worklist"

[completeness]
quiet_period_s = 1.0

[hl7.destinations.ris]
host = "127.0.0.1"
port = {ris_port}
assigning_authority = "HOSPITAL"

[[routes]]
name = "chest-radiographs"
models = ["cxr-pneumonia"]
destinations = ["pacs", "ris"]
mode = "study"
ask_worklist = true
match = {{ modality = ["CR", "DX"], body_part = ["CHEST", "THORAX", ""] }}

[[routes]]
name = "mammograms"
models = ["cxr-pneumonia"]
mode = "study"
quiet_period_s = 3600.0
match = {{ modality = ["MG"] }}
"""
MAMMOGRAM = {"Modality": "MG", "BodyPartExamined": "BREAST", "ViewPosition": "CC"}
HEAD = {"Modality": "CT", "BodyPartExamined": "HEAD"}
# (file, name, id, accession number, priority of its order or "", other attributes)
STUDIES: tuple[tuple[str, str, str, str, str, dict[str, str]], ...] = (
    ("child-normal", "Okafor^Chidi", "PID-11872", "A-77119", "ROUTINE", {"StudyDescription": "Chest AP"}),
    ("adult-covid", "Müller^Jürgen", "PID-60120", "A-77120", "HIGH", {"StudyDescription": "Chest PA, dyspnoea"}),
    ("child-normal", "Παππά^Ελένη", "PID-55021", "A-77121", "", {"ViewPosition": "LL", "StudyDescription": "Chest"}),
    ("child-normal", "Haddad^Samir", "PID-40077", "A-77122", "ROUTINE", {"StudyDescription": "Chest AP, follow-up"}),
    ("child-normal", "Silva^Inês", "PID-71344", "A-77123", "", {**MAMMOGRAM, "StudyDescription": "Screening"}),
    ("child-normal", "Murphy^Aoife", "PID-20019", "A-77124", "", {**HEAD, "StudyDescription": "Head without contrast"}),
    ("child-normal", "Hansen^Nils", "PID-33810", "A-77126", "MIXED UP", {"StudyDescription": "Chest AP"}),
    ("child-pneumonia", "Lindqvist^Märta", "PID-20331", "A-77125", "STAT", {"StudyDescription": "Chest AP, fever"}),
)
SHOWN = 7
Scheme = Literal["light", "dark"]
# Pixels; longer pages go on as they begin.
LONGEST = 2400
SIZES = {"": {"width": 1360, "height": 860}, "-phone": {"width": 390, "height": 844}}


@dataclass(frozen=True)
class Ward:
    """What is looked at. studies: Study Instance UIDs in the order of STUDIES."""

    node: Node
    studies: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.web_port}"


@contextmanager
def ward(folder: Path) -> Iterator[Ward]:
    """A hospital in which everything above has happened."""
    with ExitStack() as stack:
        orders = stack.enter_context(wlmscpfs(folder / "worklist", options=("-csk",)))
        # One message is refused for good, so that a dead letter is to be seen.
        ris = stack.enter_context(Receiver(["AA", "AA", "AA", "AR"]))
        node = Node(folder / "node")
        here = Modality("radnode", node.ae_title, node.dicom_port)
        pacs = stack.enter_context(orthanc(folder / "pacs", route_to=here))
        peers = peer_toml("worklist", orders.peer.ae_title, orders.peer.port)
        peers += peer_toml("pacs", pacs.ae_title, pacs.dicom_port, silent_after_min=120.0)
        peers += peer_toml("emergency-dx", "ER_DX", 104, silent_after_min=240.0)
        node.write_settings(peers + SETTINGS.format(ris_port=ris.port))
        node.start()
        stack.callback(node.stop)
        password = folder / "password"
        password.write_text(PASSWORD)
        people = {"ada": ["radiologist"], "max": ["radiologist", "pacs-admin", "ml-engineer", "auditor"]}
        for name, roles in people.items():
            given = [word for role in roles for word in ("--role", role)]
            node.run("users", "add", name, *given, "--password-file", str(password))
        yield Ward(node, [take(folder, node, pacs, orders, number) for number in range(len(STUDIES))])


def take(folder: Path, node: Node, pacs: Orthanc, orders: Worklist, number: int) -> str:
    """One study, from its order to its end; returns its UID."""
    name, patient, identity, accession, priority, others = STUDIES[number]
    image = dcmread(FILMS / f"{name}.dcm")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName, image.PatientID, image.AccessionNumber = patient, identity, accession
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = (generate_uid() for _ in range(3))
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    for keyword, value in others.items():
        setattr(image, keyword, value)
    if priority:
        orders.add(
            accession,
            character_set="ISO_IR 192",
            PatientName=patient,
            PatientID="PID-99999" if priority == "MIXED UP" else identity,
            PatientBirthDate="",
            PatientSex=str(image.get("PatientSex", "")),
            RequestedProcedurePriority="ROUTINE" if priority == "MIXED UP" else priority,
            RequestedProcedureDescription=str(image.StudyDescription),
        )
    image.save_as(folder / "image.dcm", enforce_file_format=True)
    before = len(node.instances())
    pacs.upload(folder / "image.dcm")
    node.wait("it is there", lambda n: len(n.instances()) > before)
    settled(node, waiting=sum(one[-1].get("Modality") == "MG" for one in STUDIES[: number + 1]))
    return str(image.StudyInstanceUID)


def settled(node: Node, waiting: int) -> None:
    """Until nothing is under way but so many images of studies that are not complete."""

    def quiet(n: Node) -> bool:
        received = sum(row["state"] == "RECEIVED" for row in n.instances())
        states = {row["state"] for row in n.jobs()} | {row["state"] for row in n.deliveries()}
        return received == waiting and not states & {"QUEUED", "RUNNING", "PENDING", "SENDING", "SENT"}

    node.wait("all of it is settled", quiet, timeout_s=120)


def judged(browser: Browser, shown: Ward) -> None:
    """What readers do before the pictures are taken."""
    context = browser.new_context()
    page = context.new_page()
    log_in(page, shown.url, "ada")
    page.goto(f"{shown.url}/studies/{shown.studies[SHOWN]}")
    page.get_by_role("textbox", name="Comment").fill("Right lower zone, agree; no effusion.")
    page.get_by_label("Side").select_option("right")
    page.get_by_role("button", name="Accept").click()
    page.get_by_role("heading", name="What readers said").wait_for()
    page.goto(f"{shown.url}/?state=parked")
    page.goto(f"{shown.url}/?priority=stat")
    page.get_by_label("Keep these filters as").fill("STAT only")
    page.get_by_role("button", name="Keep view").click()
    context.close()


def look(page: Page, shown: Ward) -> Iterator[str]:
    """The pages one after the other; each is there, and still, when its name comes."""
    page.goto(f"{shown.url}/login")
    yield "login"
    log_in(page, shown.url, "max")
    yield "worklist"
    page.goto(f"{shown.url}/studies/{shown.studies[SHOWN]}")
    for image in page.locator(".stack img").all():
        image.evaluate("image => image.decode()")
    page.get_by_role("slider").first.fill("50")
    page.get_by_role("slider").first.blur()
    yield "study"
    page.get_by_role("link", name="Read the report").click()
    page.get_by_role("heading", name="Structured report").wait_for()
    yield "report"
    for name in ("operations", "models", "audit"):
        page.goto(f"{shown.url}/{name}")
        yield name
    page.goto(f"{shown.url}/models")
    page.locator("table a").first.click()
    page.get_by_role("heading", name="Operating points").wait_for()
    yield "model"


def shoot(folder: Path) -> None:
    """Write web-PAGE-SCHEME[-phone].webp for each page."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, ward(Path(work)) as shown, chromium() as browser:
        judged(browser, shown)
        for scheme in ("light", "dark"):
            for suffix, size in SIZES.items():
                context = browser.new_context(color_scheme=scheme, viewport=size, device_scale_factor=1)  # type: ignore[arg-type]
                page = context.new_page()
                for name in look(page, shown):
                    write(page.screenshot(full_page=True), folder / f"web-{name}-{scheme}{suffix}.webp")
                context.close()


def write(png: bytes, file: Path) -> None:
    """Small, and the longest pages cut where nothing new comes."""
    image: Any = Image.open(BytesIO(png)).convert("RGB")
    image.crop((0, 0, image.width, min(image.height, LONGEST))).save(file, quality=78, method=6)


if __name__ == "__main__":
    shoot(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
