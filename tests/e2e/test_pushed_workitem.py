"""A pushed work item becomes report and picture in the PACS, and its watcher hears of it, though the node is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.dcmtk import storescu
from tests.support.node import peer_toml, running_node
from tests.support.orthanc import orthanc
from tests.support.processes import eventually, free_port
from tests.support.shared import shared_dicom
from tests.support.workitems import ITEM, pushed, subscriber, worklist

# What becomes of a pushed item is part of the whole story; that the node is killed meanwhile is what is added here.
pytestmark = [pytest.mark.e2e, pytest.mark.soak]

SETTINGS = """
[ups]
push = true
event_retry_s = 0.5

[completeness]
quiet_period_s = 3600.0

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "study"
match = { modality = ["CR", "DX"] }
"""


def test_a_pushed_work_item_becomes_results_in_the_pacs_and_its_watcher_is_told(tmp_path: Path) -> None:
    image = dcmread(shared_dicom() / "cxr_wrapped" / "wrap_09_pneumonia.dcm")
    image.decompress()
    file = tmp_path / "image.dcm"
    image.save_as(file)
    study = str(image.StudyInstanceUID)
    item = pushed(study, (image.SOPClassUID, image.SOPInstanceUID), priority="HIGH", PatientID=image.PatientID)
    watcher_port = free_port()
    with orthanc(tmp_path / "pacs") as pacs, subscriber(watcher_port) as events:
        peers = peer_toml("pacs", "ORTHANC", pacs.dicom_port) + peer_toml("watcher", "WATCHER", watcher_port)
        with running_node(tmp_path / "node", peers + SETTINGS) as node:
            with worklist(node.dicom_port) as items:
                assert items.create(item) == (0, "")
                assert items.subscribe(ITEM, "WATCHER") == 0
            eventually("the watcher is told", lambda: events.states == ["SCHEDULED"], timeout_s=60)
            node.kill()
            node.start()
            assert storescu(node.dicom_port, file).returncode == 0
            # The study is not quiet for an hour; the work item names all of it.
            eventually("it is over", lambda: "COMPLETED" in events.states, timeout_s=120)
            (job,) = node.jobs()
            (listed,) = node.json("workitems", "list")
            shown = json.loads(node.run("workitems", "show", ITEM).stdout)
            _, metrics = node.get("/metrics")
            with worklist(node.dicom_port) as items:
                status, found = items.get()
        held = {pacs.tags(one)["SOPInstanceUID"] for one in pacs.instances(study)}
    # What was told when the node was killed is told again.
    assert list(dict.fromkeys(events.states)) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert [str(told.SCPStatus) for _, kind, told in events.told if kind == 4] == ["RESTARTED"]
    assert status == 0
    (performed,) = found.UnifiedProcedureStepPerformedProcedureSequence
    outputs = performed.OutputInformationSequence
    named = {str(ref.ReferencedSOPInstanceUID) for group in outputs for ref in group.ReferencedSOPSequence}
    assert len(named) == 2
    assert named == held
    assert {group.DICOMRetrievalSequence[0].RetrieveAETitle for group in outputs} == {"ORTHANC"}
    assert (job["state"], job["priority"]) == ("DONE", "stat")
    assert (listed["state"], listed["progress_percent"], listed["performer"]) == ("COMPLETED", "100", "RADNODE")
    assert {one["state"] for one in shown["events"]} == {"TOLD"}
    assert not [tag for tag in shown["attributes"] if tag.startswith("0010")]
    assert 'radnode_workitems{state="COMPLETED"} 1.0' in metrics
    log = node.log.read_text()
    assert not [said for said in (str(image.PatientID), str(image.PatientName), "Doe") if said and said in log]
