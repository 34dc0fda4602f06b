"""A modality or RIS that tells of studies that are done: MPPS, IAN and storage commitment, by pynetdicom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from node.commitment import COMMITMENT_CLASS, COMMITMENT_INSTANCE
from node.syntaxes import AVAILABILITY_CLASS, PERFORMED_STEP_CLASS

Ref = tuple[str, str]


@contextmanager
def told_to(port: int, calling: str = "MODALITY") -> Iterator[Association]:
    """An association to a node's listener for all three."""
    entity = AE(ae_title=calling)
    contexts = [build_context(uid) for uid in (AVAILABILITY_CLASS, PERFORMED_STEP_CLASS, COMMITMENT_CLASS)]
    association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title="RADNODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def ref(file: Path) -> Ref:
    """(SOP Class UID, SOP Instance UID) of a file."""
    found = dcmread(file, stop_before_pixels=True)
    return str(found.SOPClassUID), str(found.SOPInstanceUID)


def references(*refs: Ref) -> list[Dataset]:
    items = []
    for sop_class, instance in refs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    return items


def availability(study: str, *refs: Ref) -> Dataset:
    """An Instance Availability Notification of one series."""
    items = references(*refs)
    for item in items:
        item.InstanceAvailability, item.RetrieveAETitle = "ONLINE", "PACS"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3"
    series.ReferencedSOPSequence = items
    notice = Dataset()
    notice.StudyInstanceUID = study
    notice.ReferencedPerformedProcedureStepSequence = []
    notice.ReferencedSeriesSequence = [series]
    return notice


def step(study: str, status: str = "IN PROGRESS") -> Dataset:
    """What a modality creates when it begins."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    scheduled.AccessionNumber = "A-1"
    begun = Dataset()
    begun.ScheduledStepAttributesSequence = [scheduled]
    begun.PatientName, begun.PatientID = "Doe^Jane", "ID-4711"
    begun.PerformedProcedureStepStatus = status
    begun.PerformedSeriesSequence = []
    return begun


def ended(status: str, *refs: Ref) -> Dataset:
    """What it sets at the end."""
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3"
    series.ReferencedImageSequence = references(*refs)
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    change = Dataset()
    change.PerformedProcedureStepStatus = status
    change.PerformedSeriesSequence = [series]
    return change


def create(association: Association, notice: Dataset, sop_class: str, uid: str | None = None) -> int:
    """The status of an N-CREATE."""
    status, _ = association.send_n_create(notice, sop_class, uid or generate_uid())
    return int(status.Status)


def change(association: Association, notice: Dataset, uid: str) -> int:
    """The status of an N-SET of a procedure step."""
    status, _ = association.send_n_set(notice, PERFORMED_STEP_CLASS, uid)
    return int(status.Status)


def ask_commitment(association: Association, transaction: str, *refs: Ref, action: int = 1) -> int:
    """The status of a request for storage commitment."""
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = references(*refs)
    status, _ = association.send_n_action(request, action, COMMITMENT_CLASS, COMMITMENT_INSTANCE)
    return int(status.Status)


@dataclass
class Reports:
    """What a modality's own listener was told. failed: SOP Instance UID to Failure Reason."""

    arrived: threading.Event = field(default_factory=threading.Event)
    event: int = 0
    transaction: str = ""
    committed: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)

    def take(self, event: evt.Event) -> tuple[int, None]:
        told = event.event_information
        self.event, self.transaction = event.event_type, told.TransactionUID
        self.committed = {str(one.ReferencedSOPInstanceUID) for one in told.get("ReferencedSOPSequence", [])}
        self.failed = {
            str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in told.get("FailedSOPSequence", [])
        }
        self.arrived.set()
        return 0x0000, None


@contextmanager
def reports_to(port: int, ae_title: str = "MODALITY") -> Iterator[Reports]:
    """A modality that waits for reports on a port of its own."""
    reports = Reports()
    entity = AE(ae_title=ae_title)
    entity.add_supported_context(COMMITMENT_CLASS, scu_role=False, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.take)]
    )
    try:
        yield reports
    finally:
        server.shutdown()
