"""A manager's work item becomes report and picture in the PACS, and completed, though the node is killed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.dcmtk import storescu
from tests.support.node import peer_toml, running_node
from tests.support.orthanc import orthanc
from tests.support.processes import eventually
from tests.support.shared import shared_dicom
from tests.support.ups_manager import ups_manager, work_item

pytestmark = pytest.mark.e2e

SETTINGS = """
[ups.managers.ris]
peer = "ris"
station = "RADNODE"
poll_s = 0.5
retry_first_s = 0.5

[completeness]
quiet_period_s = 3600.0

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "study"
match = { modality = ["CR", "DX"] }
"""


def test_a_work_item_becomes_results_in_the_pacs_and_completed(tmp_path: Path) -> None:
    image = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_09_pneumonia.dcm")
    image.decompress()
    file = tmp_path / "image.dcm"
    image.save_as(file)
    item = work_item(
        str(image.StudyInstanceUID), str(image.SOPInstanceUID), patient_id=str(image.PatientID), priority="HIGH"
    )
    with orthanc(tmp_path / "pacs") as pacs, ups_manager() as manager:
        peers = peer_toml("pacs", "ORTHANC", pacs.dicom_port) + peer_toml("ris", "MANAGER", manager.port)
        manager.schedule(item)
        with running_node(tmp_path / "node", peers + SETTINGS) as node:
            eventually("it is claimed", lambda: manager.subscribers, timeout_s=60)
            node.kill()
            assert manager.state(item) == "IN PROGRESS"
            node.start()
            assert storescu(node.dicom_port, file).returncode == 0
            # The study is not quiet for an hour; the work item names all of it.
            eventually("it is over", lambda: manager.state(item) == "COMPLETED", timeout_s=120)
            (job,) = node.jobs()
            (performed,) = node.json("ups", "performed")
        (told,) = item.UnifiedProcedureStepPerformedProcedureSequence
        outputs = {
            str(one.ReferencedSOPInstanceUID)
            for group in told.OutputInformationSequence
            for one in group.ReferencedSOPSequence
        }
        instances = pacs.instances(str(image.StudyInstanceUID))
        held = {pacs.tags(one)["SOPInstanceUID"] for one in instances}
    assert (job["state"], job["priority"]) == ("DONE", "stat")
    assert (performed["state"], performed["progress_percent"]) == ("COMPLETED", 100)
    assert len(outputs) == 2
    assert outputs == held
    assert {group.DICOMRetrievalSequence[0].RetrieveAETitle for group in told.OutputInformationSequence} == {"ORTHANC"}
    log = node.log.read_text()
    assert not [said for said in (str(image.PatientID), str(image.PatientName)) if said and said in log]
