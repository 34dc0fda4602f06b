"""Modality worklists that are not ours: DCMTK's wlmscpfs, and Orthanc with its worklist plugin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.settings import Peer
from tests.support.dcmtk import PACKAGE, listens
from tests.support.orthanc import orthanc
from tests.support.processes import free_port, program, running

AE_TITLE = "RIS"
PLUGIN = Path("/usr/share/orthanc/plugins/libModalityWorklists.so")


@dataclass(frozen=True)
class Worklist:
    """A running server, and the folder it reads its orders from at every query."""

    peer: Peer
    folder: Path

    def add(self, accession_number: str, **changes: Any) -> None:
        """An order of Jane Doe's chest, as a RIS would enter it; `changes` by DICOM keyword."""
        step = Dataset()
        step.Modality = "CR"
        step.ScheduledStationAETitle = "MODALITY"
        step.ScheduledProcedureStepStartDate = changes.pop("date", "20260301")
        step.ScheduledProcedureStepStartTime = "120000"
        step.ScheduledPerformingPhysicianName = ""
        step.ScheduledProcedureStepDescription = "Chest"
        step.ScheduledProcedureStepID = "STEP-1"
        order = Dataset()
        order.SpecificCharacterSet = changes.pop("character_set", "ISO_IR 100")
        order.AccessionNumber = accession_number
        order.ReferringPhysicianName = ""
        order.PatientName = "Doe^Jane"
        order.PatientID = "ID-4711"
        order.PatientBirthDate = "19700101"
        order.PatientSex = "F"
        order.StudyInstanceUID = "1.2.3.4"
        order.RequestedProcedureDescription = "Chest PA"
        order.AdmissionID = ""
        order.RequestedProcedureID = f"RP-{accession_number}"
        order.RequestedProcedurePriority = "ROUTINE"
        for keyword, value in changes.items():
            setattr(order, keyword, value)
        order.ScheduledProcedureStepSequence = [step]
        order.file_meta = FileMetaDataset()
        order.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        order.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
        order.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        name = len(list(self.folder.glob("*.wl")))
        order.save_as(self.folder / f"{name}.wl", enforce_file_format=True)


@contextmanager
def wlmscpfs(folder: Path, port: int | None = None, *, options: tuple[str, ...] = ()) -> Iterator[Worklist]:
    """DCMTK's server."""
    port = port or free_port()
    orders = folder / AE_TITLE
    orders.mkdir(parents=True, exist_ok=True)
    (orders / "lockfile").touch()
    argv = [program("wlmscpfs", PACKAGE), "-v", *options, "-dfp", str(folder), str(port)]
    with running(argv, lambda: listens(port), log=folder.with_suffix(".log")):
        yield Worklist(Peer(ae_title=AE_TITLE, host="127.0.0.1", port=port), orders)


@contextmanager
def orthanc_worklist(folder: Path) -> Iterator[Worklist]:
    """Orthanc with the plugin that comes with it."""
    orders = folder / "orders"
    orders.mkdir(parents=True)
    options = {
        "Plugins": [str(PLUGIN)],
        "Worklists": {"Enable": True, "Database": str(orders)},
        "DicomAlwaysAllowFindWorklist": True,
        "DicomModalities": {"radnode": ["RADNODE", "127.0.0.1", free_port()]},
    }
    with orthanc(folder / "server", ae_title=AE_TITLE, options=options) as server:
        yield Worklist(Peer(ae_title=AE_TITLE, host="127.0.0.1", port=server.dicom_port), orders)
