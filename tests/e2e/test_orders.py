"""An order, its images, and the PACS that says it has sent them all: listener and keeper as services of their own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.listening import chest_file
from tests.support.node import Node, part, peer_toml
from tests.support.orthanc import Modality, orthanc
from tests.support.processes import eventually, free_port, listens
from tests.support.worklists import wlmscpfs

pytestmark = pytest.mark.e2e

ROUTES = """
[worklist]
peer = "ris"

[notices]
commitment = true
commitment_although_deleting = true

[completeness]
quiet_period_s = 3600.0

[[routes]]
name = "chest"
models = ["cxr-pneumonia"]
destinations = ["pacs"]
mode = "study"
ask_worklist = true
match = { modality = ["CR", "DX"] }
"""


def test_a_stat_order_is_queued_as_stat_once_the_pacs_has_sent_all_and_another_patients_is_stopped(
    tmp_path: Path,
) -> None:
    ordered = chest_file(tmp_path, "ordered.dcm", StudyInstanceUID="1.2.840.1", AccessionNumber="A-1")
    mixed_up = chest_file(tmp_path, "mixed.dcm", StudyInstanceUID="1.2.840.2", AccessionNumber="A-2")
    node_port = free_port()
    with ExitStack() as site:
        ris = site.enter_context(wlmscpfs(tmp_path / "ris"))
        ris.add("A-1", RequestedProcedurePriority="STAT")
        ris.add("A-2", RequestedProcedurePriority="STAT", PatientID="ID-9999", PatientName="Roe^Richard")
        known = Modality("radnode", "RADNODE", node_port)
        pacs = site.enter_context(orthanc(tmp_path / "pacs", modalities=(known,)))
        peers = peer_toml("ris", ris.peer.ae_title, ris.peer.port) + peer_toml("pacs", "ORTHANC", pacs.dicom_port)
        node = Node(
            tmp_path / "node",
            peers + ROUTES,
            dicom_port=node_port,
            # No worker runs: what is due waits in the record.
            env={"RADNODE_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"},
        )
        node.run("db", "upgrade")
        for name in ("listener", "keeper"):
            site.enter_context(part(node, name))
        eventually("the listener listens", lambda: listens(node.dicom_port), timeout_s=60)
        sent = pacs.send("radnode", pacs.upload(ordered), commitment=True)
        pacs.send("radnode", pacs.upload(mixed_up))
        (job,) = node.wait("a job waits", Node.jobs)
        assert (job["study_instance_uid"], job["state"], job["priority"]) == ("1.2.840.1", "QUEUED", "stat")
        stopped = str(dcmread(mixed_up, stop_before_pixels=True).SOPInstanceUID)
        node.wait(
            "the other image is set aside",
            lambda n: {i["sop_instance_uid"]: i["state"] for i in n.instances()}[stopped] == "QUARANTINED",
        )
        assert len(node.jobs()) == 1
        report = f"/storage-commitment/{sent['StorageCommitmentTransactionUID']}"
        eventually("Orthanc knows", lambda: pacs.json("GET", report)["Status"] == "Success", timeout_s=30)
        logs = "".join((node.folder / f"{name}.log").read_text() for name in ("listener", "keeper"))
    assert "order_matched" in logs
    assert "order_mismatched" in logs
    assert not [said for said in ("Doe", "Roe", "ID-4711", "ID-9999", "A-1", "A-2") if said in logs]
