"""Work items for tests, as a peer would push them."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from db.dicom_json import Json
from db.workitems import NewWorkitem
from tests.support.records import STUDY

ITEM = "1.2.840.77.1"


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
    found.InputInformationSequence = [input_item(study, f"{study}.1", *instances)]
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
