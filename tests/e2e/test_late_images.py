"""A study read as a whole, and an image that comes after it was read: the second report supersedes the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.dcmtk import storescu
from tests.support.node import Node, peer_toml, running_node
from tests.support.orthanc import Orthanc, orthanc
from tests.support.shared import shared_dicom

pytestmark = pytest.mark.e2e

ROUTE = """
[completeness]
quiet_period_s = 1.0

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "study"
match = { modality = ["CR", "DX"] }
"""


def images_of_one_study(folder: Path, views: tuple[str, ...]) -> list[Path]:
    """The same radiograph as often as there are views, each an instance of its own of one study."""
    dataset = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_06_pneumonia.dcm")
    dataset.StudyInstanceUID = generate_uid()
    paths = []
    for number, view in enumerate(views):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.ViewPosition = view
        dataset.InstanceNumber = number + 1
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1])
    return paths


def reports(node: Node, pacs: Orthanc) -> list[dict[str, object]]:
    """The SRs the node has sent, in the order of their jobs."""
    sent = [d["sop_instance_uid"] for d in node.deliveries() if d["kind"] == "SR"]
    return [pacs.tags(pacs.find("Instance", SOPInstanceUID=uid)[0]) for uid in sent]


def test_a_late_image_opens_a_revision_that_names_the_report_it_supersedes(tmp_path: Path) -> None:
    first, lateral, late = images_of_one_study(tmp_path, ("PA", "LL", "AP"))
    with (
        orthanc(tmp_path / "pacs") as pacs,
        running_node(tmp_path / "node", peer_toml("pacs", "ORTHANC", pacs.dicom_port) + ROUTE) as node,
    ):
        assert storescu(node.dicom_port, first, lateral).returncode == 0
        node.wait_settled(2)
        (job,) = node.jobs()
        assert "1 of 2 images were not analysed: lateral view" in job["reason"]
        assert storescu(node.dicom_port, late).returncode == 0
        node.wait_settled(3)
        node.wait("the second revision is sent", lambda n: len([d for d in n.deliveries() if d["kind"] == "SR"]) == 2)
        node.wait_settled(3)
        assert [job["revision"] for job in node.jobs()] == [1, 2]
        before, after = reports(node, pacs)
    assert "PredecessorDocumentsSequence" not in before
    predecessor = str(after["PredecessorDocumentsSequence"])
    assert str(before["SOPInstanceUID"]) in predecessor
    assert after["SOPInstanceUID"] != before["SOPInstanceUID"]
    for one in (before, after):
        assert one["CompletionFlag"] == "PARTIAL"
    late_uid = str(dcmread(late, stop_before_pixels=True).SOPInstanceUID)
    assert late_uid in str(after["CurrentRequestedProcedureEvidenceSequence"])
    assert late_uid not in str(before["CurrentRequestedProcedureEvidenceSequence"])
