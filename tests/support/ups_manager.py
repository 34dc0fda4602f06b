"""A worklist manager that is not ours, by pynetdicom: UPS Pull and Watch (PS3.4 annex CC), with faults on order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)

from tests.support.processes import free_port

STATION = "RADNODE"
_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
_FINAL = ("COMPLETED", "CANCELED")
_STATE = Tag(0x00741000)
_PERFORMED = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedProcedureStepEndDateTime",
    "PerformedWorkitemCodeSequence",
    "OutputInformationSequence",
)


def code(value: str, scheme: str = "99RADNODE", meaning: str = "") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning or value
    return item


def work_item(study: str, *instances: str, patient_id: str = "ID-1", priority: str = "MEDIUM", **more: Any) -> Dataset:
    """A scheduled work item for this node's station."""
    item = Dataset()
    item.SOPClassUID = UnifiedProcedureStepPush
    item.SOPInstanceUID = generate_uid()
    item.PatientID = patient_id
    item.ProcedureStepState = "SCHEDULED"
    item.ScheduledProcedureStepPriority = priority
    item.InputReadinessState = "READY"
    item.ScheduledStationNameCodeSequence = [code(STATION)]
    item.ScheduledWorkitemCodeSequence = [code("110004", "DCM", "Computer Aided Detection")]
    source = Dataset()
    source.TypeOfInstances = "DICOM"
    source.StudyInstanceUID = study
    source.ReferencedSOPSequence = []
    for uid in instances:
        one = Dataset()
        one.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        one.ReferencedSOPInstanceUID = uid
        source.ReferencedSOPSequence.append(one)
    item.InputInformationSequence = [source]
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


@dataclass
class UpsManager:
    """items: by UID, as they are now. owners: their transaction UIDs. asked: operations that were judged, by name.

    lose: names of operations that are carried out and whose answer is lost with the association, once each. refuse:
    statuses to answer operations with, instead of carrying them out. moves: (study, AE title) it was asked to send by
    C-MOVE, which it says that it has. may_answer: whether it answers at all. hangs_up: it
    ends each association as soon as it is open. garbles: the states that it is asked for are of a VR that they do not
    fit.
    """

    port: int
    items: dict[str, Dataset] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    lose: list[str] = field(default_factory=list)
    refuse: dict[str, list[int]] = field(default_factory=dict)
    subscribers: dict[str, str] = field(default_factory=dict)
    progress: list[float] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    hangs_up: bool = False
    garbles: bool = False

    def __post_init__(self) -> None:
        self.may_answer.set()

    def schedule(self, *items: Dataset) -> None:
        for item in items:
            self.items[str(item.SOPInstanceUID)] = item

    def state(self, item: Dataset) -> str:
        return str(self.items[str(item.SOPInstanceUID)].ProcedureStepState)

    def claim_as_another(self, item: Dataset) -> None:
        item.ProcedureStepState = "IN PROGRESS"
        self.owners[str(item.SOPInstanceUID)] = generate_uid()

    def opened(self, event: Any) -> None:
        if self.hangs_up:
            event.assoc.abort()

    def find(self, _: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.may_answer.wait(60)
        self.asked["find"] += 1
        for item in list(self.items.values()):
            if item.ProcedureStepState == "SCHEDULED":
                yield 0xFF00, item

    def move(self, event: Any) -> Iterator[tuple[str, int] | int]:
        self.moves.append((str(event.identifier.StudyInstanceUID), str(event.move_destination)))
        yield "127.0.0.1", self.port
        yield 0

    def get(self, event: Any) -> tuple[int, Dataset | None]:
        self.asked["get"] += 1
        if self.garbles:
            # What counts as read is written as it is.
            told = Dataset()
            told[_STATE] = RawDataElement(_STATE, "FD", 4, b"abcd", 0, is_implicit_VR=False, is_little_endian=True)
            told.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding="iso8859")
            return 0x0000, told
        return 0x0000, self.items[event.request.RequestedSOPInstanceUID]

    def act(self, event: Any) -> tuple[int, Dataset | None]:
        self.may_answer.wait(60)
        uid, told = str(event.request.RequestedSOPInstanceUID), event.action_information
        if event.action_type == 3:
            self.subscribers[uid] = str(told.ReceivingAE)
            return self._answer(event, "subscribe", 0x0000), None
        name = {"IN PROGRESS": "claim", "COMPLETED": "complete", "CANCELED": "cancel"}[told.ProcedureStepState]
        return self._answer(event, name, self._refused(name) or self._change(uid, told)), None

    def _change(self, uid: str, told: Dataset) -> int:
        item, wanted = self.items.get(uid), str(told.ProcedureStepState)
        if item is None:
            return 0xC307
        now = item.ProcedureStepState
        if now in _FINAL:
            if self.owners.get(uid) != told.TransactionUID:
                return 0xC301
            return {"COMPLETED": 0xB306, "CANCELED": 0xB304}[now] if now == wanted else 0xC311
        if wanted == "IN PROGRESS":
            if now != "SCHEDULED":
                return 0xC302
            self.owners[uid] = str(told.TransactionUID)
        elif now != "IN PROGRESS":
            return 0xC310
        elif self.owners[uid] != told.TransactionUID:
            return 0xC301
        elif not _final(item, wanted):
            return 0xC304
        item.ProcedureStepState = wanted
        return 0x0000

    def set(self, event: Any) -> tuple[int, Dataset | None]:
        uid, told = str(event.request.RequestedSOPInstanceUID), event.modification_list
        name = "final" if "UnifiedProcedureStepPerformedProcedureSequence" in told else "set"
        return self._answer(event, name, self._refused(name) or self._set(uid, told)), None

    def _set(self, uid: str, told: Dataset) -> int:
        item = self.items.get(uid)
        if item is None:
            return 0xC307
        if item.ProcedureStepState in _FINAL:
            return 0xC300
        if item.ProcedureStepState != "IN PROGRESS":
            return 0xC310
        if self.owners[uid] != told.TransactionUID:
            return 0xC301
        del told.TransactionUID
        item.update(told)
        self.progress.append(float(told.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress))
        return 0x0000

    def _refused(self, name: str) -> int:
        waiting = self.refuse.get(name)
        return waiting.pop(0) if waiting else 0x0000

    def _answer(self, event: Any, name: str, status: int) -> int:
        self.asked[name] += 1
        if name in self.lose:
            self.lose.remove(name)
            event.assoc.abort()
        return status

    def ask_to_cancel(self, item: Dataset, port: int, calling: str = "MANAGER") -> int:
        """Tell a node's listener that somebody wants it canceled; the status it answers."""
        entity = AE(calling)
        entity.add_requested_context(UnifiedProcedureStepEvent)
        role = build_role(UnifiedProcedureStepEvent, scp_role=True)
        association = entity.associate("127.0.0.1", port, ae_title="RADNODE", ext_neg=[role])
        assert association.is_established
        try:
            told = Dataset()
            told.ReasonForCancellation = "patient left"
            status, _ = association.send_n_event_report(
                told, 2, UnifiedProcedureStepPush, item.SOPInstanceUID, meta_uid=UnifiedProcedureStepEvent
            )
            return int(status.Status)
        finally:
            association.release()


def _final(item: Dataset, state: str) -> bool:
    """What table CC.2.5-3 requires of a final state."""
    if state == "COMPLETED":
        (performed,) = item.get("UnifiedProcedureStepPerformedProcedureSequence") or [Dataset()]
        return all(performed.get(keyword) for keyword in _PERFORMED)
    (told,) = item.get("ProcedureStepProgressInformationSequence") or [Dataset()]
    return bool(
        told.get("ProcedureStepCancellationDateTime") and told.get("ProcedureStepDiscontinuationReasonCodeSequence")
    )


@contextmanager
def ups_manager() -> Iterator[UpsManager]:
    """Run one."""
    manager = UpsManager(free_port())
    entity = AE("MANAGER")
    for sop_class in (UnifiedProcedureStepPull, UnifiedProcedureStepWatch, _MOVE):
        # The only one in which it says of what VR a value is.
        entity.add_supported_context(sop_class, ExplicitVRLittleEndian)
    handlers: list[Any] = [
        (evt.EVT_ESTABLISHED, manager.opened),
        (evt.EVT_C_FIND, manager.find),
        (evt.EVT_N_ACTION, manager.act),
        (evt.EVT_N_SET, manager.set),
        (evt.EVT_N_GET, manager.get),
        (evt.EVT_C_MOVE, manager.move),
    ]
    server: Any = entity.start_server(("127.0.0.1", manager.port), block=False, evt_handlers=handlers)
    try:
        yield manager
    finally:
        manager.may_answer.set()
        server.shutdown()
