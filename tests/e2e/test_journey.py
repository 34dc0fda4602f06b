"""The main road, with Orthanc as the hospital's PACS: it routes a study here, and the results come back into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from node.settings import load
from tests.support.hl7_peer import sender
from tests.support.node import Node, peer_toml, running_node
from tests.support.orthanc import Modality, Orthanc, orthanc
from tests.support.processes import free_port
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Site:
    """A hospital: its PACS and the node beside it."""

    pacs: Orthanc
    node: Node


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    node = Node(folder / "node")
    modality = Modality("radnode", node.ae_title, node.dicom_port)
    with orthanc(folder / "pacs", modalities=(modality,)) as pacs:
        orders = f"[hl7.listener]\nenabled = true\nport = {free_port()}\n"
        node.write_settings(peer_toml("pacs", "ORTHANC", pacs.dicom_port) + orders)
        node.start()
        try:
            yield Site(pacs, node)
        finally:
            node.stop()


def chest(name: str) -> Path:
    return shared_dicom() / "cxr_wrapped" / name


def route_to_node(site: Site, file: Path) -> str:
    """Store a file in the PACS, let the PACS send it on, and wait until the node is done; the study's UID."""
    before = len(site.node.instances())
    site.pacs.send("radnode", site.pacs.upload(file))
    site.node.wait_settled(before + 1)
    return str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)


def test_results_land_in_the_same_study_of_the_pacs(site: Site) -> None:
    source = chest("wrap_06_pneumonia.dcm")
    study = route_to_node(site, source)
    found = [site.pacs.tags(one) for one in site.pacs.instances(study)]
    by_class: dict[str, list[dict[str, str]]] = {}
    for tags in found:
        by_class.setdefault(tags["SOPClassUID"], []).append(tags)
    (report,) = by_class[SR_3D]
    assert report["VerificationFlag"] == "UNVERIFIED"
    assert report["PreliminaryFlag"] == "PRELIMINARY"
    header = dcmread(source, stop_before_pixels=True)
    assert report["PatientID"] == str(header.PatientID)
    assert {row["state"] for row in site.node.deliveries()} == {"CONFIRMED"}
    job = next(row for row in site.node.jobs() if row["study_instance_uid"] == study)
    (image,) = job["summary"]["images"]
    positive = [f for f in image["findings"] if f["presence"] == "present"]
    assert len(by_class.get(SECONDARY_CAPTURE, [])) == len(positive)


def test_the_report_refers_to_the_image_it_read(site: Site) -> None:
    source = chest("wrap_00_normal.dcm")
    study = route_to_node(site, source)
    (report_id,) = site.pacs.instances(study, modality="SR")
    evidence = site.pacs.tags(report_id)["CurrentRequestedProcedureEvidenceSequence"]
    referenced = {
        item["ReferencedSOPInstanceUID"]
        for study_item in evidence
        for series in study_item["ReferencedSeriesSequence"]
        for item in series["ReferencedSOPSequence"]
    }
    assert str(dcmread(source, stop_before_pixels=True).SOPInstanceUID) in referenced


def test_a_result_that_the_pacs_routes_back_is_stored_and_never_read(site: Site) -> None:
    study = route_to_node(site, chest("wrap_01_normal.dcm"))
    jobs = len(site.node.jobs())
    (report,) = site.pacs.instances(study, modality="SR")
    known = len(site.node.instances())
    site.pacs.send("radnode", report)
    site.node.wait_settled(known + 1)
    row = site.node.instances()[-1]
    assert row["state"] == "STORED"
    assert "never read again" in row["reason"]
    assert len(site.node.jobs()) == jobs


def test_sending_an_image_again_changes_nothing(site: Site) -> None:
    source = chest("wrap_03_normal.dcm")
    study = route_to_node(site, source)
    rows, jobs, held = len(site.node.instances()), len(site.node.jobs()), site.pacs.instances(study)
    site.pacs.send("radnode", *[one for one in held if site.pacs.tags(one)["Modality"] in {"CR", "DX"}])
    assert len(site.node.instances()) == rows
    assert len(site.node.jobs()) == jobs
    assert sorted(site.pacs.instances(study)) == sorted(held)


def test_what_a_model_must_not_read_comes_back_as_not_analysed(site: Site, tmp_path: Path) -> None:
    lateral = dcmread(chest("wrap_08_pneumonia.dcm"))
    lateral.ViewPosition = "LL"
    lateral.save_as(tmp_path / "lateral.dcm")
    study = route_to_node(site, tmp_path / "lateral.dcm")
    (report_id,) = site.pacs.instances(study, modality="SR")
    row = next(r for r in site.node.instances() if r["study_instance_uid"] == study)
    assert row["state"] == "NOT_ANALYSED"
    assert row["reason"] == "lateral view (ViewPosition LL)"
    content = str(site.pacs.tags(report_id)["ContentSequence"])
    assert row["reason"] in content
    assert "52101004" not in content  # SCT "Present"


def test_health_and_metrics_tell_the_same(site: Site) -> None:
    assert site.node.get("/healthz")[0] == 200
    assert site.node.get("/readyz")[0] == 200
    status, metrics = site.node.get("/metrics")
    assert status == 200
    assert 'radnode_jobs{state="PARKED"}' not in metrics
    assert "radnode_outbox_waiting 0.0" in metrics


def test_doctor_finds_a_running_node_well(site: Site) -> None:
    findings = {row["check"]: row for row in site.node.json("doctor", "--skip-model")}
    assert findings["listener"]["grade"] == "ok", findings
    assert findings["broker"]["grade"] == "ok", findings
    assert findings["peer pacs"]["grade"] == "ok", findings


def test_the_parts_that_face_peers_never_load_tensorflow_and_stay_small(site: Site) -> None:
    for name in ("listener", "web", "keeper"):
        process = site.node.child(name)
        loaded = {Path(m.path).name for m in process.memory_maps()}
        assert not [m for m in loaded if "tensorflow" in m or "_pywrap_tf" in m], name
    assert site.node.child("listener").memory_info().rss < 250 * 1024**2


def test_stopping_leaves_no_process_and_exits_well(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        parts = [node.child(name) for name in ("listener", "keeper", "web", "worker")]
        parts += [grandchild for part in parts for grandchild in part.children(recursive=True)]
        assert node.stop() == 0
    assert not [part for part in parts if part.is_running()]


def test_the_node_takes_orders_by_hl7(site: Site) -> None:
    order = (
        "MSH|^~\\&|RIS|HOSP|RADNODE||20260301||ORM^O01^ORM_O01|1|P|2.5.1||||||UNICODE UTF-8\r"
        "PID|1||ID-1^^^HOSP||Doe^Jane\rORC|NW|PL-1|FI-1\rOBR|1|PL-1|FI-1|||||||||||||||ACC-1\r"
    )
    with sender(load(site.node.config).hl7.listener.port) as send:
        assert str(send(order).segment("MSA")(1)) == "AA"
    assert [row["kind"] for row in site.node.json("hl7", "received")] == ["ORM^O01"]
