"""Work items for tests, as a peer would push them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from db.dicom_json import Json
from db.workitem_rules import GLOBAL_SUBSCRIPTION, EventType
from db.workitems import NewWorkitem
from node.syntaxes import UPS_EVENT_CLASS, UPS_PULL_CLASS, UPS_PUSH_CLASS, UPS_WATCH_CLASS, WORKITEM_CLASSES
from tests.support.records import STUDY

ITEM, SERIES = "1.2.840.77.1", "1.2.840.78.1"


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def input_item(study: str, series: str, *instances: tuple[str, str]) -> Dataset:
    """instances: (SOP Class UID, SOP Instance UID)."""
    item = Dataset()
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID = study
    item.SeriesInstanceUID = series
    item.ReferencedSOPSequence = []
    for sop_class, instance in instances:
        ref = Dataset()
        ref.ReferencedSOPClassUID = sop_class
        ref.ReferencedSOPInstanceUID = instance
        item.ReferencedSOPSequence.append(ref)
    item.DICOMRetrievalSequence = [Dataset()]
    item.DICOMRetrievalSequence[0].RetrieveAETitle = "PACS"
    return item


def pushed(study: str = STUDY, *instances: tuple[str, str], priority: str = "MEDIUM", **changes: Any) -> Dataset:
    """A valid attribute list of an N-CREATE; a change to None leaves the attribute out."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    found.TransactionUID = ""
    found.ScheduledProcedureStepPriority = priority
    found.ScheduledProcedureStepModificationDateTime = "20260301120000"
    found.ProcedureStepLabel = "Chest triage"
    found.WorklistLabel = "AI"
    found.ScheduledProcessingParametersSequence = []
    found.ScheduledStationNameCodeSequence = [code_item("RADNODE", "99TEST", "radnode")]
    found.ScheduledStationClassCodeSequence = []
    found.ScheduledStationGeographicLocationCodeSequence = []
    found.ScheduledProcedureStepStartDateTime = "20260301120000"
    found.ScheduledWorkitemCodeSequence = [code_item("110004", "DCM", "Computer Aided Detection")]
    found.CommentsOnTheScheduledProcedureStep = ""
    found.InputReadinessState = "READY"
    found.InputInformationSequence = [input_item(study, SERIES, *instances)]
    found.StudyInstanceUID = study
    found.PatientName = "Doe^Jané"
    found.PatientID = "ID-1"
    found.PatientBirthDate = "19700101"
    found.PatientSex = "F"
    found.AdmissionID = ""
    found.IssuerOfAdmissionIDSequence = []
    found.AdmittingDiagnosesDescription = ""
    found.AdmittingDiagnosesCodeSequence = []
    found.ReferencedRequestSequence = []
    found.ProcedureStepState = "SCHEDULED"
    found.ProcedureStepProgressInformationSequence = []
    found.UnifiedProcedureStepPerformedProcedureSequence = []
    for keyword, value in changes.items():
        if value is None:
            delattr(found, keyword)
        else:
            setattr(found, keyword, value)
    return found


def as_json(found: Dataset) -> Json:
    return dict(found.to_json_dict())


def new(uid: str = "", study: str = STUDY, **changes: Any) -> NewWorkitem:
    """What `db.workitems.create` takes."""
    return NewWorkitem(
        sop_instance_uid=uid or generate_uid(),
        study_instance_uid=study,
        data=as_json(pushed(study)),
        created_by="MANAGER",
        **changes,
    )


@contextmanager
def worklist(port: int, calling: str = "MANAGER", classes: Sequence[str] = WORKITEM_CLASSES) -> Iterator[Worklist]:
    """An association to a node's listener for work items, by pynetdicom."""
    entity = AE(ae_title=calling)
    entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 10
    contexts = [build_context(uid) for uid in classes]
    association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title="RADNODE")
    assert association.is_established
    try:
        yield Worklist(association)
    finally:
        association.release()


@dataclass
class Worklist:
    """Operations on the work items of a node; each gives the status, and what came with it."""

    association: Association

    def create(self, found: Dataset, uid: str = ITEM, sop_class: str = UPS_PUSH_CLASS) -> tuple[int, str]:
        """The status, and its error comment."""
        status, _ = self.association.send_n_create(found, sop_class, uid, meta_uid=UPS_PUSH_CLASS)
        return status.Status, str(status.get("ErrorComment", ""))

    def get(self, uid: str = ITEM, *tags: int, through: str = UPS_PULL_CLASS) -> tuple[int, Dataset]:
        status, found = self.association.send_n_get([Tag(one) for one in tags], UPS_PUSH_CLASS, uid, meta_uid=through)
        return status.Status, found or Dataset()

    def set(self, changes: Dataset, uid: str = ITEM) -> int:
        status, _ = self.association.send_n_set(changes, UPS_PUSH_CLASS, uid, meta_uid=UPS_PULL_CLASS)
        return int(status.Status)

    def find(self, keys: Dataset, through: str = UPS_PULL_CLASS) -> tuple[int, list[Dataset]]:
        answers = list(self.association.send_c_find(keys, through))
        return answers[-1][0].Status, [found for _, found in answers[:-1] if found is not None]

    def turn(self, state: str, transaction: str = "2.25.1", uid: str = ITEM) -> int:
        return self._act(1, uid, UPS_PULL_CLASS, ProcedureStepState=state, TransactionUID=transaction)

    def cancel(self, uid: str = ITEM, through: str = UPS_PUSH_CLASS, **told: Any) -> int:
        return self._act(2, uid, through, **told)

    def subscribe(self, uid: str, receiver: str, lock: str = "FALSE", **keys: Any) -> int:
        return self._act(3, uid, UPS_WATCH_CLASS, ReceivingAE=receiver, DeletionLock=lock, **keys)

    def unsubscribe(self, uid: str, receiver: str) -> int:
        return self._act(4, uid, UPS_WATCH_CLASS, ReceivingAE=receiver)

    def suspend(self, receiver: str, uid: str = GLOBAL_SUBSCRIPTION) -> int:
        return self._act(5, uid, UPS_WATCH_CLASS, ReceivingAE=receiver)

    def _act(self, kind: int, uid: str, through: str, **told: Any) -> int:
        information = Dataset()
        for keyword, value in told.items():
            setattr(information, keyword, value)
        # pynetdicom announces an empty data set and then sends none.
        status, _ = self.association.send_n_action(
            information if told else None, kind, UPS_PUSH_CLASS, uid, meta_uid=through
        )
        return int(status.Status)


@dataclass
class Events:
    """What a subscriber was told: (SOP Instance UID, event type, event information). may_answer: whether it does."""

    told: list[tuple[str, int, Dataset]] = field(default_factory=list)
    status: int = 0x0000
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def take(self, event: evt.Event) -> tuple[int, None]:
        self.may_answer.wait(60)
        request: Any = event.request
        assert request.AffectedSOPClassUID == UPS_PUSH_CLASS
        self.told.append((str(request.AffectedSOPInstanceUID), request.EventTypeID, event.event_information))
        return self.status, None

    @property
    def states(self) -> list[str]:
        return [str(told.ProcedureStepState) for _, kind, told in self.told if kind == EventType.STATE_REPORT]


@contextmanager
def subscriber(port: int, ae_title: str = "WATCHER") -> Iterator[Events]:
    """Who receives events of work items (UPS Event), by pynetdicom."""
    events = Events()
    entity = AE(ae_title=ae_title)
    entity.add_supported_context(UPS_EVENT_CLASS, scu_role=False, scp_role=True)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, events.take)])
    assert server is not None
    try:
        yield events
    finally:
        server.shutdown()
