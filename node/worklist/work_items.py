"""Work items as data sets: what a manager lists, and what it is told (PS3.4 annex CC, PS3.3 C.30)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydicom.dataset import Dataset

from db.errors import PermanentError
from db.performances import Code, DuePerformance, NewPerformance, Output
from db.states import PerformanceState as F
from db.workitem_rules import PRIORITIES, date_time
from node.settings_ups import UpsManager
from node.uids import valid_uid

UPS_WATCH = "1.2.840.10008.5.1.4.34.6.2"
UPS_PULL = "1.2.840.10008.5.1.4.34.6.3"

SCHEDULED = "SCHEDULED"
_MOST_INSTANCES = 10_000
_LONGEST_ID, _LONGEST_CODE, _LONGEST_SHORT = 64, 64, 16


class NotPerformable(PermanentError):
    """A work item that this node does not claim; says why, and names no patient."""


def query(manager: UpsManager) -> Dataset:
    """What to ask a manager for: scheduled work items, by station and by what is to be done."""
    asked = Dataset()
    asked.ProcedureStepState = SCHEDULED
    asked.ScheduledProcedureStepPriority = ""
    asked.InputReadinessState = ""
    asked.PatientID = ""
    asked.SOPClassUID = ""
    asked.SOPInstanceUID = ""
    asked.StudyInstanceUID = ""
    asked.InputInformationSequence = []
    asked.ScheduledStationNameCodeSequence = [_asked(manager.station, manager.station_scheme)]
    # A query has one value for each key; several codes are compared here.
    one = manager.workitem_codes[0] if len(manager.workitem_codes) == 1 else None
    asked.ScheduledWorkitemCodeSequence = [_asked(one.value, one.scheme) if one else _asked("", "")]
    return asked


def _asked(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme if value else ""
    item.CodeMeaning = ""
    return item


def read_item(found: Dataset, name: str, manager: UpsManager) -> NewPerformance:
    """A manager's answer as a work item to be claimed.

    What does not have the station or the code asked by is none: some managers ignore what they are asked by.

    Raises:
        NotPerformable: it is not this node's, not ready, or names no study, or several.
        node.commitment.MALFORMED: its values cannot be read.
    """
    uid = _text(found, "SOPInstanceUID")
    if not valid_uid(uid):
        raise NotPerformable("it has no SOP Instance UID")
    if _text(found, "ProcedureStepState") != SCHEDULED:
        raise NotPerformable("it is not scheduled")
    if _text(found, "InputReadinessState") in ("INCOMPLETE", "UNAVAILABLE"):
        raise NotPerformable("its input is not ready")
    stations = _codes(found, "ScheduledStationNameCodeSequence")
    wanted = {(manager.station, manager.station_scheme)} if manager.station else set()
    station = _choose(stations, wanted, "another station's")
    kinds = {(one.value, one.scheme) for one in manager.workitem_codes}
    workitem = _choose(_codes(found, "ScheduledWorkitemCodeSequence"), kinds, "of another kind than this node performs")
    study, instances = named_input(found)
    return NewPerformance(
        manager=name,
        workitem_uid=uid,
        study_instance_uid=study,
        instances=instances,
        patient_id=_text(found, "PatientID")[:_LONGEST_ID],
        priority=PRIORITIES.get(_text(found, "ScheduledProcedureStepPriority"), "routine"),
        workitem_code=workitem,
        station_code=station,
    )


def _choose(codes: Sequence[Code], wanted: set[tuple[str, str]], otherwise: str) -> Code | None:
    if not wanted:
        return codes[0] if codes else None
    found = next((code for code in codes if code[:2] in wanted), None)
    if found is None:
        raise NotPerformable(f"it is {otherwise}")
    return found


def named_input(found: Dataset) -> tuple[str, tuple[str, ...]]:
    """The study that a work item is about, and the instances of it that it names; none where it is the whole study.

    Raises NotPerformable where it names no study, several of them, or too many instances.
    """
    items = found.get("InputInformationSequence") or []
    studies = {_text(item, "StudyInstanceUID") for item in items} - {""} or {_text(found, "StudyInstanceUID")} - {""}
    if len(studies) != 1 or not all(valid_uid(uid) for uid in studies):
        raise NotPerformable("it names no study" if len(studies) < 2 else "it names several studies")
    named: dict[str, None] = {}
    for item in items:
        instances = [_text(one, "ReferencedSOPInstanceUID") for one in item.get("ReferencedSOPSequence") or []]
        if not instances:
            # A part of the input without a list: the study is waited for until it is quiet.
            return studies.pop(), ()
        named.update(dict.fromkeys(uid for uid in instances if valid_uid(uid)))
    if len(named) > _MOST_INSTANCES:
        raise NotPerformable(f"it names more than {_MOST_INSTANCES} instances")
    return studies.pop(), tuple(named)


def _codes(found: Dataset, keyword: str) -> list[Code]:
    items = found.get(keyword) or []
    codes = [
        (_text(item, "CodeValue"), _text(item, "CodingSchemeDesignator"), _text(item, "CodeMeaning")[:_LONGEST_CODE])
        for item in items
    ]
    # Longer ones stand elsewhere (Long Code Value), and are none that settings name.
    return [code for code in codes if 0 < len(code[0]) <= _LONGEST_SHORT and 0 < len(code[1]) <= _LONGEST_SHORT]


def _text(found: Dataset, keyword: str) -> str:
    value = found.get(keyword)
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).strip()


def state_change(state: str, transaction_uid: str) -> Dataset:
    """Action information of Change UPS State (CC.2.1)."""
    told = Dataset()
    told.ProcedureStepState = state
    told.TransactionUID = transaction_uid
    return told


def subscription(ae_title: str) -> Dataset:
    """Action information of Subscribe to Receive UPS Event Reports (CC.2.3). The work item need not outlive its end."""
    told = Dataset()
    told.ReceivingAE = ae_title
    told.DeletionLock = "FALSE"
    return told


def progress(held: DuePerformance, percent: int, text: str) -> Dataset:
    """What N-SET says of work that goes on (CC.2.6)."""
    told = Dataset()
    told.TransactionUID = held.transaction_uid
    told.ProcedureStepProgressInformationSequence = [_progress(percent, text)]
    return told


def final(held: DuePerformance, station: Code, peers: Mapping[str, str]) -> Dataset:
    """What N-SET says before a work item ends: what its final state requires (table CC.2.5-3), and its outputs.

    station: this node, where the work item names none. peers: AE titles of destinations by name.
    """
    told = progress(held, 100 if held.state is F.COMPLETING else max(held.progress, 0), held.reason)
    decided = held.decided_at or held.claimed_at
    if held.state is F.CANCELING:
        (item,) = told.ProcedureStepProgressInformationSequence
        item.ProcedureStepCancellationDateTime = date_time(decided)
        item.ReasonForCancellation = held.reason
        item.ProcedureStepDiscontinuationReasonCodeSequence = [code_item(held.discontinuation or station)]
    performed = Dataset()
    performed.PerformedStationNameCodeSequence = [code_item(held.new.station_code or station)]
    performed.PerformedProcedureStepStartDateTime = date_time(held.held_at or held.claimed_at)
    performed.PerformedProcedureStepEndDateTime = date_time(decided)
    performed.PerformedWorkitemCodeSequence = [code_item(held.new.workitem_code or _PROCESSING)]
    performed.OutputInformationSequence = list(outputs(held.outputs, peers))
    told.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    if not "".join(code[2] for code in (held.new.station_code, held.new.workitem_code) if code).isascii():
        told.SpecificCharacterSet = "ISO_IR 192"
    return told


# CID 9231, for a work item that does not say what is to be done.
_PROCESSING: Code = ("110004", "DCM", "Computer Aided Detection")


def _progress(percent: int, text: str) -> Dataset:
    item = Dataset()
    item.ProcedureStepProgress = str(percent)
    item.ProcedureStepProgressDescription = text
    return item


def outputs(sent: Iterable[Output], peers: Mapping[str, str]) -> Iterable[Dataset]:
    """One item for each series and place (PS3.3 table 10-3b)."""
    groups: dict[tuple[str, str, str], list[Output]] = {}
    for one in sent:
        groups.setdefault((one.destination, one.study_instance_uid, one.series_instance_uid), []).append(one)
    for (destination, study, series), members in groups.items():
        place = Dataset()
        place.RetrieveAETitle = peers.get(destination, "")
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID = study
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = [_reference(one) for one in members]
        item.DICOMRetrievalSequence = [place]
        yield item


def _reference(one: Output) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class_uid
    item.ReferencedSOPInstanceUID = one.sop_instance_uid
    return item


def code_item(code: Code) -> Dataset:
    """A code of at most 16 characters as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item
